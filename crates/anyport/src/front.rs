//! The public ports of a server with several workers: one thread accepts, and feeds the guests.
//!
//! A single worker takes connections by itself (`net/inlet.rs`): there is no choice to make.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::address::Transport;
use crate::error::Error;
use crate::net::Interest;
use crate::net::inlet::{ACCEPT_PAUSE, is_lasting, tell_of_pause};
use crate::net::published::{Port, Published};
use crate::stage::Stage;

/// Starts to accept; ends when the server is stopped.
pub(crate) fn start(published: &Arc<Published>, mut stage: watch::Receiver<Stage>) -> Result<JoinHandle<()>, Error> {
    let failed = |error| Error::host(format!("the thread that accepts connections cannot be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let published = Arc::clone(published);
    let serve = move || {
        runtime.block_on(async {
            tokio::select! {
                () = feed_all(&published) => {}
                () = Stage::Stopped.reached(&mut stage) => {}
            }
        });
    };
    std::thread::Builder::new().name("anyport-front".to_owned()).spawn(serve).map_err(failed)
}

/// Feeds the ports that there are, and those that guests open, until the server ends.
async fn feed_all(published: &Arc<Published>) {
    let mut fed: Vec<Arc<Port>> = Vec::new();
    loop {
        let mut changed = pin!(published.changed.notified());
        changed.as_mut().enable();
        let ports = published.ports();
        fed.retain(|port| !port.is_forgotten());
        for port in ports.iter().filter(|port| port.publish.transport == Transport::Tcp) {
            if !fed.iter().any(|known| Arc::ptr_eq(known, port)) {
                fed.push(Arc::clone(port));
                tokio::spawn(feed(Arc::clone(port), Arc::clone(published)));
            }
        }
        drop(ports);
        changed.await;
    }
}

/// Gives each connection of a port to the worker with the fewest. Also when the port is closed: some may
/// still wait for a worker.
async fn feed(port: Arc<Port>, published: Arc<Published>) {
    loop {
        let mut changed = pin!(published.changed.notified());
        changed.as_mut().enable();
        if port.is_forgotten() {
            return;
        }
        let mut ended = pin!(published.all.ended.notified());
        ended.as_mut().enable();
        match published.feed(&port) {
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
