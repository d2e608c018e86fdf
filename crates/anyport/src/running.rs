//! A server at work: reached, drained, stopped, waited for.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::address::Publish;
use crate::error::Error;
use crate::instance::Outcome;
use crate::net::published::Published;
use crate::stage::Stage;
use crate::status::{Status, View};
use crate::worker::Template;

/// How long guests that take signals have at least to end by themselves, once no connection is left to them.
const LEAVE_LEAST: Duration = Duration::from_millis(500);

/// As Linux has it, and WASIX.
const SIGTERM: u32 = 15;

/// A server at work. Dropping it stops its guests, and waits for their threads.
pub struct Running {
    view: View,
    published: Arc<Published>,
    started: Instant,
    ports: Vec<Publish>,
    stage: watch::Sender<Stage>,
    /// Nothing is ever sent: each worker holds a receiver.
    ended: watch::Sender<()>,
    workers: Vec<JoinHandle<Outcome>>,
    front: Option<JoinHandle<()>>,
    health: Option<SocketAddr>,
    /// Some guest takes signals.
    takes_signals: Arc<AtomicBool>,
}

impl Running {
    pub(crate) fn new(
        template: &Template, stage: watch::Sender<Stage>, ended: watch::Sender<()>, front: Option<JoinHandle<()>>,
        health: Option<SocketAddr>,
    ) -> Self {
        let published = Arc::clone(&template.published);
        let ports = published.ports().iter().map(|port| port.publish.clone()).collect();
        Self {
            view: View::of(template),
            published,
            started: Instant::now(),
            ports,
            stage,
            ended,
            workers: Vec::new(),
            front,
            health,
            takes_signals: Arc::clone(&template.takes_signals),
        }
    }

    pub(crate) fn add(&mut self, worker: JoinHandle<Outcome>) {
        self.workers.push(worker);
    }

    /// What it is doing at this moment, also while its guests compute.
    pub fn status(&self) -> Status {
        Status::of(&self.view, *self.stage.borrow(), self.started.elapsed())
    }

    /// Changes [`Limits::memory_bytes`](crate::Limits::memory_bytes) of each guest, those that come later included.
    /// Memory that a guest has already stays its own.
    pub fn limit_memory(&self, bytes: usize) {
        self.view.limit_memory(bytes);
    }

    /// The published ports, with the addresses that they have on the host: port 0 is resolved.
    pub fn ports(&self) -> &[Publish] {
        &self.ports
    }

    /// Where it is told how the server is, if [`Front::health`](crate::server::Front::health) asked for that: port 0
    /// is resolved.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Connects to a TCP port of the guest within this process, however it is published: no port of the
    /// host takes part. If the guest does not listen yet, the connection waits until it does.
    ///
    /// For async programs: `set_nonblocking(true)`, then `tokio::net::UnixStream::from_std`.
    ///
    /// # Errors
    /// The port is not published, or the server has ended or is ending.
    pub fn connect(&self, guest_port: u16) -> Result<UnixStream, Error> {
        let connected = match *self.stage.borrow() {
            Stage::Serving => self.published.connect(guest_port),
            Stage::Draining | Stage::Leaving(_) | Stage::Stopped => Err(std::io::ErrorKind::ConnectionRefused.into()),
        };
        connected.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrNotAvailable => {
                Error::host(format!("port {guest_port} of the guest is not published"))
                    .with_hint("publish it: `Publish::in_memory(PORT)` needs no port of the host")
            }
            std::io::ErrorKind::ConnectionRefused => Error::host("the server takes no connection any more"),
            _ => Error::host(format!("port {guest_port} of the guest cannot be reached: {error}")),
        })
    }

    /// Takes no new connection, lets the guests finish what they owe, then ends them: when no connection
    /// is left, or after `timeout`. A connection between two requests is ended as if its client had
    /// closed it. True if nothing that was owed had to be cut off.
    ///
    /// # Panics
    /// Outside of a tokio runtime that has timers.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.drain_on(SIGTERM, timeout).await
    }

    /// The same for a server that is told to end by another signal than SIGTERM: guests with a handler are told of
    /// the one with this number, as Linux has them, once no connection is left.
    ///
    /// # Panics
    /// As [`Running::drain`].
    pub async fn drain_on(&self, signal: u32, timeout: Duration) -> bool {
        self.published.close();
        self.advance(Stage::Draining);
        let began = Instant::now();
        let drained = tokio::time::timeout(timeout, self.published.all.gone()).await.is_ok();
        if self.takes_signals.load(Ordering::Acquire) {
            self.advance(Stage::Leaving(signal));
            let left = timeout.saturating_sub(began.elapsed()).max(LEAVE_LEAST);
            let _ = tokio::time::timeout(left, self.ended()).await;
        }
        self.stop();
        drained
    }

    /// Ends the guests, whatever they are doing.
    pub fn stop(&self) {
        self.advance(Stage::Stopped);
    }

    /// Never back: a server that was stopped does not drain.
    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|now| {
            let before = std::mem::replace(now, to.max(*now));
            before < to
        });
    }

    /// Waits until every guest has ended for good.
    pub async fn ended(&self) {
        self.ended.closed().await;
    }

    /// Waits until every guest has ended for good, on this thread; how the worst of them did.
    pub fn wait(mut self) -> Outcome {
        let outcomes = std::mem::take(&mut self.workers).into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Outcome::Trapped {
                reason: "anyport failed: its thread panicked".to_owned(),
                backtrace: String::new(),
            })
        });
        outcomes.max_by_key(badness).expect("a server has a worker")
    }
}

/// In rising order; of equals, the last one's is told.
fn badness(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Stopped => 0,
        Outcome::Exited(0) => 1,
        Outcome::Exited(_) => 2,
        Outcome::Trapped { .. } => 3,
        Outcome::OutOfMemory { .. } => 4,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        if let Some(front) = self.front.take() {
            let _ = front.join();
        }
    }
}
