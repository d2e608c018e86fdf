//! Serving HTTP requests with the instances of a component.
//!
//! Each worker is a thread with its own connections, and answers their requests there: the guest runs within the
//! task of the connection, so that a request of a guest that does not wait costs no task and no switch.

mod admission;
mod alarm;
mod answer;
mod call;
mod cgi;
mod connection;
mod expect;
mod kept;
mod prewarm;
mod request;
mod reuse;
mod sanity;
mod upload;
mod wire;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::alarm::{Alarm, Alarms};
use self::kept::Kept;
use self::reuse::Instances;
use crate::access_log::Log;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::error::Error;
use crate::guest::{Abi, Guest};
use crate::health::{self, Health};
use crate::ingress::Ingress;
use crate::instance::{Outcome, behind};
use crate::journal::Journal;
use crate::limits::Limits;
use crate::net::published::Published;
use crate::net::{Endpoint, Interest};
use crate::program::Handler;
use crate::stage::Stage;
use crate::stdio::Stdio;

/// What all workers of a service share.
pub(crate) struct Requests {
    handler: Handler,
    /// One for each instance of the pool.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The most that may wait for an instance.
    queue: usize,
    /// Told when one begins to wait: the workers then give up the instances that nobody uses.
    crowded: watch::Sender<()>,
}

/// Makes a guest for an instance, which may start otherwise than its server's others: as the program of this number.
pub(crate) type MakeGuest = Box<dyn for<'s> Fn(Option<(usize, Start<'s>)>) -> Result<Guest, Error> + Send + Sync>;

/// What a guest is given at its start.
#[derive(Clone, Copy)]
pub(crate) struct Start<'s> {
    pub(crate) args: &'s [String],
    pub(crate) env: &'s [(String, String)],
    pub(crate) directories: &'s [Directory],
    pub(crate) stdio: &'s [Arc<Stdio>; 3],
    pub(crate) abi: Abi,
}

/// How connections come to a worker.
pub(crate) struct Inbound {
    pub(crate) published: Arc<Published>,
    pub(crate) worker: usize,
    /// Of each worker.
    pub(crate) health: Arc<[Health]>,
    pub(crate) ingress: Option<Arc<Ingress>>,
    pub(crate) log: Option<Arc<Log>>,
    /// Guests are told of their clients.
    pub(crate) x_forwarded: bool,
    /// Of what guests write to their stderr, where that is a request's.
    pub(crate) journal: Arc<Journal>,
}

/// One worker.
pub(crate) struct Site {
    pub(crate) engine: Arc<Engine>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) limits: Arc<Limits>,
    /// What its threads are called.
    pub(crate) name: String,
    pub(crate) stage: watch::Receiver<Stage>,
    inbound: Inbound,
    make: MakeGuest,
    alarms: Arc<Alarms>,
    drains: AtomicBool,
    /// What the ids of its requests begin with.
    seed: u64,
    counted: AtomicU64,
    instances: Instances,
    kept: Kept,
}

/// The id of a request, for the log and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Requests {
    /// Answers requests with this handler.
    pub(crate) fn new(handler: Handler, limits: &Limits) -> Self {
        Self {
            handler,
            permits: Arc::new(Semaphore::new(limits.instances as usize)),
            waiting: AtomicUsize::new(0),
            queue: limits.queue,
            crowded: watch::Sender::default(),
        }
    }

    /// The directories of programs that have their own.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &[Directory]> {
        let commands = match &self.handler {
            Handler::Cgi(commands) => &commands.list[..],
            _ => &[],
        };
        commands.iter().map(|command| &command.directories[..])
    }

    /// Requests that wait for an instance.
    pub(crate) fn waiting(&self) -> usize {
        // One that is refused counts for a moment.
        self.waiting.load(Ordering::Relaxed).min(self.queue)
    }

    /// Leave to make an instance; waits for its turn. None if too many wait already.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let _waits = Waits::begin(self)?;
        self.crowded.send_replace(());
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

/// A request waits for as long as this is held.
struct Waits<'r>(&'r Requests);

impl<'r> Waits<'r> {
    fn begin(requests: &'r Requests) -> Option<Self> {
        let waits = Self(requests);
        (requests.waiting.fetch_add(1, Ordering::Relaxed) < requests.queue).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Site {
    pub(crate) fn new(
        engine: &Arc<Engine>, requests: &Arc<Requests>, limits: &Arc<Limits>, name: String,
        stage: watch::Receiver<Stage>, inbound: Inbound, make: MakeGuest,
    ) -> Arc<Self> {
        let shortest = limits.timeout.min(limits.idle_timeout).min(limits.header_timeout).min(limits.body_timeout);
        Arc::new(Self {
            engine: Arc::clone(engine),
            requests: Arc::clone(requests),
            limits: Arc::clone(limits),
            name,
            stage,
            inbound,
            make,
            alarms: Alarms::new(shortest),
            drains: AtomicBool::new(false),
            seed: fastrand::u64(..),
            counted: AtomicU64::new(0),
            instances: Instances::default(),
            kept: Kept::new(requests),
        })
    }

    /// Serves the connections of these listeners until the server is stopped.
    pub(crate) async fn serve(self: Arc<Self>, listeners: Vec<Endpoint>) {
        let _alive = self.engine.ticker.live();
        let mut stage = self.stage.clone();
        let looking = tokio::spawn({
            let alarms = Arc::clone(&self.alarms);
            async move { alarms.look().await }
        });
        tokio::spawn(Arc::clone(&self).make_room());
        for listener in listeners {
            tokio::spawn(Arc::clone(&self).accept(listener));
        }
        Stage::Draining.reached(&mut stage).await;
        self.drains.store(true, Ordering::Release);
        self.alarms.wake_all();
        Stage::Stopped.reached(&mut stage).await;
        looking.abort();
    }

    /// Takes the connections of a listener, one after the other.
    async fn accept(self: Arc<Self>, listener: Endpoint) {
        loop {
            // Others wait in the kernel's backlog.
            self.inbound.published.room(self.inbound.worker).await;
            match listener.accept_arrival() {
                Ok(mut arrival) => {
                    arrival.permit.accept();
                    tokio::spawn(connection::serve(Arc::clone(&self), arrival));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    // What is wrong with a listener, the next look at it says.
                    let _ = poll_fn(|context| listener.poll_ready(context, Interest::Read)).await;
                }
                // Of the connection that it would have been.
                Err(error) => {
                    tracing::debug!("a connection was lost: {error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Makes so many instances ready for the first requests; or how one of them has ended.
    pub(crate) async fn prepare(self: &Arc<Self>, count: u32) -> Result<(), Outcome> {
        let _alive = self.engine.ticker.live();
        for _ in 0..count {
            // Other workers may have taken the last.
            let Ok(permit) = Arc::clone(&self.requests.permits).try_acquire_owned() else { break };
            prewarm::make(self, permit).await?;
        }
        Ok(())
    }

    /// Gives up the instances that wait for a request whenever a request waits for an instance, which another
    /// worker's may be.
    async fn make_room(self: Arc<Self>) {
        let mut crowded = self.requests.crowded.subscribe();
        // Of those that began to wait before it listened, nothing is told.
        let mut wanted = self.requests.waiting() > 0;
        loop {
            if wanted {
                self.kept.clear();
                self.instances.give_up_unused();
            }
            wanted = crowded.changed().await.is_ok();
        }
    }

    /// Whether nearly as many connections are open as may be.
    fn is_nearly_full(&self) -> bool {
        self.inbound.published.is_nearly_full(self.inbound.worker)
    }

    /// Rings when a client has waited for its answer for as long as it may, from now on.
    fn patience(&self) -> Alarm {
        let alarm = self.alarms.alarm();
        alarm.set(self.limits.timeout);
        alarm
    }

    fn drains(&self) -> bool {
        self.drains.load(Ordering::Acquire)
    }

    /// What its requests come to.
    fn told(&self) -> &health::Requests {
        &self.inbound.health[self.inbound.worker].requests
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.seed.wrapping_add(self.counted.fetch_add(1, Ordering::Relaxed)))
    }

    fn guest(&self, start: Option<(usize, Start<'_>)>) -> Result<Guest, Error> {
        let mut guest = (self.make)(start)?;
        guest.serves_requests();
        Ok(guest)
    }
}

/// Tells the person how a guest ended that should not have.
fn tell_end(outcome: &Outcome, what: &str, when: &str) {
    match outcome {
        Outcome::Trapped { reason, backtrace } | Outcome::OutOfMemory { reason, backtrace, .. } => {
            tracing::warn!("{what}: the guest failed {when}: {reason}{}", behind(backtrace));
        }
        Outcome::Exited(0) => tracing::warn!("{what}: the guest returned {when}"),
        Outcome::Exited(code) => tracing::warn!("{what}: the guest exited with code {code} {when}"),
        Outcome::Stopped => {}
    }
}

/// After how long a client that was refused may ask again, in whole seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);
