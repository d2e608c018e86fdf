//! A thread beside the guests': it accepts for several workers, takes TLS off for guests that read bytes, and says
//! how the server is.
//!
//! A single worker without any of this takes connections by itself (`net/inlet.rs`).

pub(crate) mod health;
mod relay;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use self::health::HealthPort;
use crate::address::Transport;
use crate::error::Error;
use crate::ingress::Ingress;
use crate::net::Interest;
use crate::net::inlet::{ACCEPT_PAUSE, is_lasting, tell_of_pause};
use crate::net::published::{Port, Published};
use crate::stage::Stage;

/// What the thread does.
pub(crate) struct Duties {
    pub(crate) published: Arc<Published>,
    /// It accepts connections, and feeds the guests.
    pub(crate) feeds: bool,
    /// What connections pass before a guest is given them.
    pub(crate) ingress: Option<Arc<Ingress>>,
    /// How long a side may take nothing while bytes are passed on.
    pub(crate) stall: Duration,
    pub(crate) health: Option<HealthPort>,
}

impl Duties {
    /// Whether there is anything to do.
    pub(crate) fn are_any(&self) -> bool {
        self.feeds || self.health.is_some()
    }
}

/// Starts the thread; it ends when the server is stopped.
pub(crate) fn start(duties: Duties, mut stage: watch::Receiver<Stage>) -> Result<JoinHandle<()>, Error> {
    let failed = |error| Error::host(format!("the thread that accepts connections cannot be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let serve = move || {
        runtime.block_on(async {
            let Duties { published, feeds, ingress, stall, health } = duties;
            if let Some(health) = health {
                tokio::spawn(health.serve());
            }
            if feeds {
                tokio::spawn(feed_all(Feed { published, ingress, stall }));
            }
            Stage::Stopped.reached(&mut stage).await;
        });
    };
    std::thread::Builder::new().name("anyport-front".to_owned()).spawn(serve).map_err(failed)
}

/// Where connections go, and what they pass.
#[derive(Clone)]
struct Feed {
    published: Arc<Published>,
    ingress: Option<Arc<Ingress>>,
    stall: Duration,
}

/// Feeds the ports that there are, and those that guests open, until the server ends.
async fn feed_all(feed: Feed) {
    let published = Arc::clone(&feed.published);
    let mut fed: Vec<Arc<Port>> = Vec::new();
    loop {
        let mut changed = pin!(published.changed.notified());
        changed.as_mut().enable();
        let ports = published.ports();
        fed.retain(|port| !port.is_forgotten());
        for port in ports.iter().filter(|port| port.publish.transport == Transport::Tcp) {
            if !fed.iter().any(|known| Arc::ptr_eq(known, port)) {
                fed.push(Arc::clone(port));
                tokio::spawn(feed.clone().port(Arc::clone(port)));
            }
        }
        drop(ports);
        changed.await;
    }
}

impl Feed {
    /// Gives each connection of a port to the worker with the fewest. Also when the port is closed: some may
    /// still wait for a worker.
    async fn port(self, port: Arc<Port>) {
        let published = &self.published;
        loop {
            let mut changed = pin!(published.changed.notified());
            changed.as_mut().enable();
            if port.is_forgotten() {
                return;
            }
            let mut ended = pin!(published.all.ended.notified());
            ended.as_mut().enable();
            match self.next(&port) {
                // Others have their turn.
                Ok(()) => tokio::task::yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let host = port.listener().filter(|_| published.has_room(&port));
                    match host {
                        Some(host) => tokio::select! {
                            () = changed => {}
                            ready = poll_fn(|context| host.poll_ready(context, Interest::Read)) => {
                                if ready.is_err() {
                                    tokio::time::sleep(ACCEPT_PAUSE).await;
                                }
                            }
                        },
                        // They wait in the kernel's backlog.
                        None => tokio::select! {
                            () = changed => {}
                            () = ended => {}
                        },
                    }
                }
                Err(error) => {
                    if is_lasting(&error) {
                        tracing::debug!("accepting on {}: {error}", port.publish);
                    } else {
                        tell_of_pause(&error);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next connection of a port: to a worker, or to be let in.
    fn next(&self, port: &Arc<Port>) -> io::Result<()> {
        let raw = self.published.feed(port, self.ingress.is_some())?;
        if let (Some(arrival), Some(ingress)) = (raw, &self.ingress) {
            let (published, port) = (Arc::clone(&self.published), Arc::clone(port));
            tokio::spawn(relay::admit(Arc::clone(ingress), published, port, arrival, self.stall));
        }
        Ok(())
    }
}
