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
use crate::net::inlet::{ACCEPT_PAUSE, is_shortage, tell_of_shortage};
use crate::net::published::{Port, Published};
use crate::net::{Endpoint, Interest};
use crate::stage::Stage;

/// Starts to accept; ends when the server is stopped, or its ports are closed.
pub(crate) fn start(published: &Arc<Published>, mut stage: watch::Receiver<Stage>) -> Result<JoinHandle<()>, Error> {
    let failed = |error| Error::host(format!("the thread that accepts connections cannot be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let published = Arc::clone(published);
    let serve = move || {
        runtime.block_on(async {
            for port in published.ports().iter().filter(|port| port.publish.transport == Transport::Tcp) {
                runtime.spawn(accept_all(Arc::clone(port), Arc::clone(&published)));
            }
            Stage::Stopped.reached(&mut stage).await;
        });
    };
    std::thread::Builder::new().name("anyport-front".to_owned()).spawn(serve).map_err(failed)
}

/// Gives each connection of a port to the worker with the fewest.
async fn accept_all(port: Arc<Port>, published: Arc<Published>) {
    while !port.is_closed() {
        let mut changed = pin!(published.changed.notified());
        changed.as_mut().enable();
        let mut ended = pin!(published.ended.notified());
        ended.as_mut().enable();
        let Some(host) = port.listener() else {
            changed.await;
            continue;
        };
        if published.least_loaded(&port).is_none() {
            // They wait in the kernel's backlog.
            tokio::select! {
                () = changed => {}
                () = ended => {}
            }
            continue;
        }
        tokio::select! {
            () = changed => {}
            accepted = accept(&host) => match accepted {
                Ok(arrival) => published.hand(&port, arrival),
                Err(error) => {
                    if is_shortage(&error) {
                        tell_of_shortage(&error);
                    } else {
                        tracing::debug!("accepting on {}: {error}", port.publish);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn accept(host: &Endpoint) -> io::Result<(Endpoint, std::net::SocketAddr)> {
    loop {
        match host.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|context| host.poll_ready(context, Interest::Read)).await?;
            }
            outcome => return outcome,
        }
    }
}
