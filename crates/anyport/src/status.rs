//! What a server is doing, for people and for scripts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::time::ClockId;
use serde::Serialize;

use crate::health::Health;
use crate::net::published::Published;
use crate::policy::Gate;
use crate::serving::Requests;
use crate::stage::Stage;
use crate::worker::{Template, Work};

/// What a server is doing at this moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// `starting` until some guest serves, then `serving`; `draining`; `stopped`, also when all guests have ended for
    /// good.
    pub stage: &'static str,
    /// Since its start.
    pub uptime_s: u64,
    /// CPU time of the whole process.
    pub cpu_ms: u64,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// Its guests.
    pub workers: Vec<WorkerStatus>,
    /// Its requests, where it answers them by calling guests: `wasi:http` and CGI.
    pub requests: Option<RequestStatus>,
    /// What the policy has refused, and how often.
    pub refusals: BTreeMap<String, u64>,
}

/// A port of a server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PortStatus {
    /// Where clients reach it.
    pub host: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// As the guest knows it, if it matters.
    pub guest_port: Option<u16>,
    /// Whether some guest serves it.
    pub listening: bool,
}

/// One of a server's guests.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// `running` while there is a guest, `waiting` between two, `ended` when there will be no other.
    pub state: &'static str,
    /// Whether a guest runs: it does not between two starts, and after its end.
    pub running: bool,
    /// Open descriptors, standard streams included.
    pub descriptors: usize,
    /// Connections that the guest has accepted and not closed.
    pub connections: usize,
    /// Connections that wait to be accepted by it.
    pub waiting: usize,
    /// Its linear memories together, in bytes.
    pub memory_bytes: usize,
    /// The most that they may be.
    pub memory_limit_bytes: usize,
    /// Growths of memory that were refused.
    pub memory_refused: u64,
    /// How often a guest was started again.
    pub restarts: u32,
    /// Why the last one failed, if one did.
    pub last_failure: Option<String>,
    /// How long ago that was.
    pub last_failure_s: Option<u64>,
}

/// What the requests of a server have come to, and those under way.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RequestStatus {
    /// Those whose answers are over, in whichever way.
    pub answered: u64,
    /// Those that are being answered, or wait for an instance.
    pub answering: u64,
    /// Those of them that wait.
    pub waiting: usize,
    /// Those that there was no instance for: their clients were told 503.
    pub refused: u64,
    /// Those whose guest, or a server behind it, failed before it answered, or was late.
    pub failed: u64,
}

/// What a status is made of. Not the whole [`Template`], whose streams end with the last guest.
#[derive(Clone)]
pub(crate) struct View {
    published: Arc<Published>,
    gate: Arc<Gate>,
    health: Arc<[Health]>,
    requests: Option<Arc<Requests>>,
}

impl View {
    pub(crate) fn of(template: &Template) -> Self {
        let requests = match &template.work {
            Work::Requests(requests) => Some(Arc::clone(requests)),
            Work::Guest(_) => None,
        };
        Self {
            requests,
            published: Arc::clone(&template.published),
            gate: Arc::clone(&template.gate),
            health: Arc::clone(&template.health),
        }
    }
}

impl View {
    /// Each guest may have so many bytes of memory from now on.
    pub(crate) fn limit_memory(&self, bytes: usize) {
        for health in &*self.health {
            health.grown.most.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Status {
    pub(crate) fn of(view: &View, stage: Stage, uptime: Duration) -> Self {
        let published = &*view.published;
        let served = published.has_served.load(Ordering::Acquire);
        let stage = match stage {
            _ if view.health.iter().all(|worker| worker.has_ended.load(Ordering::Relaxed)) => "stopped",
            Stage::Serving if served => "serving",
            Stage::Serving => "starting",
            Stage::Draining | Stage::Leaving(_) => "draining",
            Stage::Stopped => "stopped",
        };
        let cpu = Duration::try_from(rustix::time::clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        Self {
            stage,
            uptime_s: uptime.as_secs(),
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            ports: published.ports().iter().map(|port| port.status()).map(PortStatus::from).collect(),
            workers: (0..published.workers()).map(|worker| WorkerStatus::of(view, worker)).collect(),
            requests: view.requests.as_ref().map(|requests| RequestStatus::of(view, requests)),
            refusals: view.gate.refusals(),
        }
    }
}

impl From<(crate::address::Publish, bool)> for PortStatus {
    fn from((publish, listening): (crate::address::Publish, bool)) -> Self {
        Self {
            host: publish.host.to_string(),
            transport: publish.transport.to_string(),
            guest_port: publish.guest_port,
            listening,
        }
    }
}

impl RequestStatus {
    fn of(view: &View, requests: &Requests) -> Self {
        let mut status = Self { waiting: requests.waiting(), ..Self::default() };
        for Health { requests, .. } in &*view.health {
            // In this order: none has ended that has not begun.
            let ended = requests.ended.load(Ordering::Acquire);
            status.answered += ended;
            status.answering += requests.begun.load(Ordering::Relaxed) - ended;
            status.refused += requests.refused.load(Ordering::Relaxed);
            status.failed += requests.failed.load(Ordering::Relaxed);
        }
        status
    }
}

impl WorkerStatus {
    fn of(view: &View, worker: usize) -> Self {
        let (health, connections) = (&view.health[worker], view.published.connections(worker));
        let (open, held) = (connections.open(), connections.held());
        let failure = health.failure();
        Self {
            state: match (health.has_ended.load(Ordering::Relaxed), health.runs.load(Ordering::Relaxed)) {
                (true, _) => "ended",
                (false, true) => "running",
                (false, false) => "waiting",
            },
            running: health.runs.load(Ordering::Relaxed),
            descriptors: health.descriptors(),
            connections: open,
            waiting: held.saturating_sub(open),
            memory_bytes: health.grown.memory.load(Ordering::Relaxed),
            memory_limit_bytes: health.grown.most.load(Ordering::Relaxed),
            memory_refused: health.grown.refused.load(Ordering::Relaxed),
            restarts: health.restarts.load(Ordering::Relaxed),
            last_failure_s: failure.as_ref().map(|(_, seconds)| *seconds),
            last_failure: failure.map(|(reason, _)| reason),
        }
    }
}
