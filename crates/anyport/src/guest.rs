//! One running guest: what its store holds, and the verbs that every dialect's shims call.
//!
//! A shim decodes, calls one verb, encodes. Policy, states and waiting are behind the verbs, so that
//! all dialects have the same.

mod datagrams;
pub(crate) mod family;
pub(crate) mod files;
pub(crate) mod forking;
mod futexes;
mod lookup;
pub(crate) mod process;
pub(crate) mod signals;
mod streams;
mod sync;
mod timers;
mod waiting;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use wasmtime_wasi::WasiView;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::WasiHttpCtx;

use self::files::Files;
use self::forking::{Forking, Step};
use self::process::{Member, Process};
use self::signals::Signals;
use crate::address::{Family, Transport};
use crate::busy::Busy;
use crate::descriptor::{Descriptor, Descriptors, Opened, Socket, SocketKind};
use crate::errno::Errno;
use crate::journal::{Journal, Level};
use crate::limits::{Grown, Growth, Limits, RESOURCES, RESOURCES_EACH};
pub(crate) use crate::memory::Failure;
use crate::memory::{Buffers, Given, Memory};
use crate::net::connections::Connections;
use crate::net::port::Claim;
use crate::net::published::Published;
use crate::net::resolve::{Names, Resolver};
use crate::net::tcp::Tcp;
use crate::net::udp::Udp;
use crate::net::{Endpoint, Interest, Network};
use crate::outgoing::{Outgoing, Way};
use crate::policy::{Admission, Denial, Gate};
use crate::readiness::{self, Pacing};
use crate::sending::Sending;
use crate::stdio::Stdio;

/// The state of one guest: the `T` of its `Store<T>`.
pub(crate) struct Guest {
    /// The memory that its hostcalls mean, found once at instantiation.
    pub(crate) memory: Given,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) files: Files,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outgoing: Outgoing,
    /// What it was given by name.
    pub(crate) config: Arc<WasiConfigVariables>,
    journal: Arc<Journal>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) growth: Growth,
    /// The turn in which memory was refused to this thread last.
    pub(crate) short_turn: Option<u64>,
    pub(crate) started: Instant,
    pub(crate) pacing: Pacing,
    pub(crate) generation: Generation,
    pub(crate) busy: Busy,
    network: Network,
    names: Names,
    published: Arc<Published>,
    /// Which of the server's guests it is.
    worker: usize,
    gate: Arc<Gate>,
    pub(crate) sending: Sending,
    /// Counts the accepted connections that are open.
    pub(crate) connections: Arc<Connections>,
    /// Of a guest that may have threads.
    process: Option<Arc<Process>>,
    is_wasix: bool,
    /// Of this thread.
    signals: Option<Arc<Signals>>,
    /// The one that it is being told of; of which it was being told, where that ended it.
    pub(crate) handling: Option<u32>,
    pub(crate) forking: Forking,
    /// The number of this thread.
    pub(crate) thread: u32,
}

/// Which generation of `WasmEdge`'s sockets a guest speaks: the enums were renumbered in 0.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// None: it imports none of them.
    NotWasmEdge,
    Since0_10,
    /// It imports nothing that came with 0.10: its first `sock_open` tells.
    Untold,
    Before0_10,
}

impl From<Denial> for Errno {
    /// The person has been told; the guest learns that it is not allowed.
    fn from(_: Denial) -> Self {
        Self::Access
    }
}

/// What a module's imports say of it beside their own types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abi {
    /// Names of preview1 have the meaning that WASIX gives to them.
    pub(crate) is_wasix: bool,
    /// It may start threads.
    pub(crate) has_threads: bool,
    /// It waits in instructions of its own, which keeps the host's thread.
    pub(crate) blocks: bool,
    /// It may fork: it was made ready to leave its functions and enter them again.
    pub(crate) forks: bool,
}

/// What a guest starts with.
pub(crate) struct Setup {
    pub(crate) stdio: [Arc<Stdio>; 3],
    pub(crate) files: WasiP1Ctx,
    pub(crate) directories: u32,
    pub(crate) generation: Generation,
    /// Whether it may have threads, and speaks WASIX.
    pub(crate) abi: Abi,
    /// Where the server is told that the guest takes signals.
    pub(crate) takes_signals: Arc<AtomicBool>,
    /// Listeners that it is handed, with their addresses as it sees them.
    pub(crate) listeners: Vec<(Endpoint, SocketAddr)>,
    pub(crate) limits: Arc<Limits>,
    /// Where it tells what its memories have grown to.
    pub(crate) grown: Arc<Grown>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) network: Network,
    pub(crate) published: Arc<Published>,
    pub(crate) worker: usize,
    pub(crate) gate: Arc<Gate>,
    /// Where its HTTP requests go out.
    pub(crate) way: Arc<Way>,
    pub(crate) config: Arc<WasiConfigVariables>,
    pub(crate) journal: Arc<Journal>,
}

/// The first directory in wasmtime-wasi's own table, after its standard streams.
const HOST_DIRECTORIES: u32 = 3;

impl Guest {
    /// A guest with its first descriptors: stdio, then listeners from 3, then directories. Listeners
    /// come first because real servers hard-code 3 for them.
    pub(crate) fn new(setup: Setup) -> Result<Self, Errno> {
        let descriptors = Descriptors::new(setup.limits.descriptors);
        let busy = Busy::new(setup.limits.cpu_time);
        for stdio in setup.stdio {
            descriptors.insert(Descriptor::Stdio(stdio))?;
        }
        for (endpoint, local) in setup.listeners {
            let socket = Socket::new(SocketKind::Tcp(Tcp::listening(endpoint, local)));
            // As wasmtime's `--tcplisten` had it: .NET accepts in a loop and never sets the flag.
            socket.set_nonblocking(true);
            descriptors.insert(Descriptor::Socket(Arc::new(socket)))?;
        }
        for directory in 0..setup.directories {
            descriptors.insert(Descriptor::Host(HOST_DIRECTORIES + directory))?;
        }
        let mut files = setup.files;
        files.ctx().table.set_max_capacity(RESOURCES + RESOURCES_EACH * setup.limits.descriptors);
        let has_process = setup.abi.is_wasix || setup.abi.has_threads;
        let process = has_process.then(|| Process::first(setup.limits.threads, setup.takes_signals));
        let files = Files::new(files);
        Ok(Self {
            memory: Given::None,
            descriptors,
            files: if has_process { files.shared() } else { files },
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(setup.way),
            config: setup.config,
            journal: setup.journal,
            short_turn: None,
            growth: Growth::new(&setup.limits, &setup.grown),
            limits: setup.limits,
            started: Instant::now(),
            pacing: Pacing::default(),
            generation: setup.generation,
            busy,
            network: setup.network,
            names: Names::new(setup.resolver),
            connections: Arc::clone(setup.published.connections(setup.worker)),
            published: setup.published,
            worker: setup.worker,
            gate: setup.gate,
            sending: Sending::default(),
            signals: process.as_ref().map(|process| Arc::clone(process.main())),
            process,
            is_wasix: setup.abi.is_wasix,
            handling: None,
            forking: Forking { is_able: setup.abi.forks, ..Forking::default() },
            thread: process::MAIN,
        })
    }

    /// The same guest for another of its threads.
    fn sibling(&mut self, member: &Member) -> Result<Self, Errno> {
        // As where a limit of the machine is reached.
        let growth = self.growth.sibling().ok_or(Errno::Again)?;
        let (signals, busy) = (Arc::clone(&member.signals), self.busy.sibling());
        let sibling = self.another(growth, busy, signals, self.process.clone(), Arc::clone(&self.descriptors))?;
        Ok(Self { memory: self.memory.apart(), thread: member.number, ..sibling })
    }

    /// The same for another process, whose memory is yet to be given to it; and the bytes that this is, and may be.
    pub(crate) fn fork(&mut self, process: &Arc<Process>) -> Result<(Self, RangeInclusive<usize>), Errno> {
        let descriptors = self.descriptors.fork()?;
        let bytes = self.memory.shared_bytes().unwrap_or(0);
        let (growth, most) = self.growth.fork(bytes).ok_or(Errno::NoMemory)?;
        let (signals, busy) = (Arc::clone(process.main()), self.busy.fork());
        let child = self.another(growth, busy, signals, Some(Arc::clone(process)), descriptors)?;
        Ok((child, bytes..=most))
    }

    fn another(
        &self, growth: Growth, busy: Busy, signals: Arc<Signals>, process: Option<Arc<Process>>,
        descriptors: Arc<Descriptors>,
    ) -> Result<Self, Errno> {
        Ok(Self {
            memory: Given::None,
            descriptors,
            files: self.files.share().ok_or(Errno::NotSupported)?,
            http: WasiHttpCtx::new(),
            outgoing: self.outgoing.sibling(),
            config: Arc::clone(&self.config),
            journal: Arc::clone(&self.journal),
            short_turn: None,
            growth,
            limits: Arc::clone(&self.limits),
            started: self.started,
            pacing: Pacing::of_another(),
            generation: self.generation,
            busy,
            network: self.network.clone(),
            names: self.names.sibling(),
            connections: Arc::clone(&self.connections),
            published: Arc::clone(&self.published),
            worker: self.worker,
            gate: Arc::clone(&self.gate),
            sending: Sending::default(),
            signals: Some(signals),
            process,
            is_wasix: self.is_wasix,
            handling: None,
            forking: Forking { step: Step::None, ..self.forking },
            thread: process::MAIN,
        })
    }

    /// What tells this guest's messages from those of its server's others.
    pub(crate) fn label(&self) -> String {
        if self.published.workers() == 1 { String::new() } else { format!("[{}] ", self.worker) }
    }

    /// Logs a line.
    pub(crate) fn log(&self, level: Level, context: &str, message: &str) {
        self.journal.write(level, &self.label(), context, message);
    }

    /// The buffers of a scatter-gather call.
    pub(crate) fn buffers(&self, memory: &Memory<'_>, iovs: u32, count: u32) -> Result<Buffers, Failure> {
        if count > self.limits.iovecs {
            return Err(Errno::Invalid.into());
        }
        Ok(memory.buffers(iovs, count, &self.limits)?)
    }

    /// Opens a socket.
    pub(crate) fn open(&self, family: Family, transport: Transport) -> Result<Opened, Errno> {
        if self.descriptors.is_full() {
            return Err(Errno::TooManyOpen);
        }
        let kind = match transport {
            Transport::Tcp => SocketKind::Tcp(Tcp::open(&self.network, family)?),
            Transport::Udp => SocketKind::Udp(Udp::open(&self.network, family)?),
        };
        Opened::new(&self.descriptors, Descriptor::Socket(Arc::new(Socket::new(kind))))
    }

    /// Binds a socket to an address of the guest: a published port, or port 0 for clients.
    pub(crate) fn bind(&mut self, fd: u32, address: SocketAddr) -> Result<(), Errno> {
        let socket = self.descriptors.socket(fd)?;
        if Family::of(&address) != socket.family() {
            return Err(Errno::AddressFamilyNotSupported);
        }
        match &socket.kind {
            SocketKind::Tcp(tcp) if !tcp.is_fresh() => Err(Errno::Invalid),
            SocketKind::Tcp(tcp) => match self.claim(address, Transport::Tcp)? {
                Some(claim) => tcp.adopt(claim.endpoint, address),
                None => tcp.bind(address),
            },
            SocketKind::Udp(udp) if udp.is_bound() => Err(Errno::Invalid),
            SocketKind::Udp(udp) => match self.claim(address, Transport::Udp)? {
                Some(claim) => {
                    self.serves();
                    let adopted = udp.adopt(claim, address);
                    socket.changed();
                    adopted
                }
                None => udp.bind(address),
            },
        }
    }

    /// The public port that the guest means by an address; none for a socket of its own.
    fn claim(&self, address: SocketAddr, transport: Transport) -> Result<Option<Claim>, Errno> {
        let claimed = match self.gate.bind(address, transport)? {
            Admission::Private => return Ok(None),
            // Its datagrams could be answered by nobody.
            Admission::Published(index)
                if transport == Transport::Udp && self.published.family(index) != Family::of(&address) =>
            {
                tracing::warn!(
                    "the guest binds port {0}/udp of another IP version than it is published on; \
                     for IPv6 use `-p [::1]:{0}:{0}/udp`",
                    address.port(),
                );
                return Err(Errno::AddressNotAvailable);
            }
            Admission::Whichever(index)
                if self.gate.listens_anywhere() && self.published.is_held(index, self.worker) =>
            {
                self.published.open(address, transport, self.worker)
            }
            Admission::Published(index) | Admission::Whichever(index) => self.published.claim(index, self.worker),
            Admission::Open => self.published.open(address, transport, self.worker),
        };
        claimed.map(Some).map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                self.gate.is_privileged(address, transport);
            }
            error.into()
        })
    }

    /// Listens on a public port, or on what the policy lets the guest reach by itself.
    pub(crate) fn listen(&mut self, fd: u32, backlog: u32) -> Result<(), Errno> {
        let socket = self.descriptors.socket(fd)?;
        let tcp = socket.tcp()?;
        if let Some(unpublished) = tcp.unpublished_address()?
            && self.gate.listen_unpublished(unpublished)? == Admission::Open
        {
            tcp.make_public(|socket, address| self.published.adopt(socket, address, self.worker))?;
        }
        if tcp.is_listening() {
            return Ok(());
        }
        self.serves();
        let outcome = tcp.listen(backlog);
        socket.changed();
        outcome
    }

    /// The next connection of a listener; waits if the listener blocks.
    pub(crate) async fn accept(&mut self, fd: u32, nonblocking: bool) -> Result<Opened, Errno> {
        let listener = self.descriptors.socket(fd)?;
        let stream = match self.accept_now(&listener) {
            Err(Errno::Again) if !listener.is_nonblocking() => {
                let waits = self.accept_in_turn(&listener);
                match listener.receive_timeout() {
                    None => waits.await?,
                    Some(timeout) => tokio::time::timeout(timeout, waits).await.map_err(|_| Errno::Again)??,
                }
            }
            accepted => accepted?,
        };
        self.accepted(listener.tcp()?, stream, nonblocking)
    }

    fn accept_now(&mut self, listener: &Socket) -> Result<Tcp, Errno> {
        let connections = Arc::clone(&self.connections);
        let _taking = connections.take();
        let accepted = self.may_accept(listener).and_then(Tcp::accept);
        listener.touched(Interest::Read);
        accepted
    }

    /// Waits for the next connection, one thread at a time: the others would all be woken for one.
    async fn accept_in_turn(&mut self, listener: &Socket) -> Result<Tcp, Errno> {
        let _turn = listener.turn.lock().await;
        loop {
            match self.accept_now(listener) {
                Err(Errno::Again) => readiness::ready(&listener.endpoint(), Interest::Read, None).await?,
                accepted => return accepted,
            }
        }
    }

    /// The same, if there is one already.
    pub(crate) fn try_accept(&mut self, listener: &Socket) -> Result<Opened, Errno> {
        let tcp = self.may_accept(listener)?;
        self.accepted(tcp, tcp.accept()?, true)
    }

    fn accepted(&self, listener: &Tcp, stream: Tcp, nonblocking: bool) -> Result<Opened, Errno> {
        let socket = Arc::new(Socket::accepted(stream, listener.endpoint().is_public()));
        socket.set_nonblocking(nonblocking);
        Opened::new(&self.descriptors, Descriptor::Socket(socket))
    }

    /// Whether the guest may have another connection of a listener now.
    fn may_accept<'s>(&mut self, listener: &'s Socket) -> Result<&'s Tcp, Errno> {
        let tcp = listener.tcp()?;
        if !tcp.is_listening() {
            return Err(Errno::Invalid);
        }
        listener.used(Interest::Read);
        self.serves();
        self.busy.turn();
        if self.descriptors.is_full() {
            return Err(Errno::TooManyOpen);
        }
        if tcp.endpoint().is_public() && self.connections.is_crowded() {
            // No error: servers end themselves on one, and the next close makes room. A guest whose only
            // thread blocks here closes nothing meanwhile.
            let waits = listener.is_nonblocking() || self.has_other_threads();
            return Err(if waits { Errno::Again } else { Errno::TooManyOpen });
        }
        Ok(tcp)
    }

    fn has_other_threads(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.threads() > 0 || process.family.children() > 0)
    }

    /// The guest has something to serve.
    fn serves(&mut self) {
        if !self.busy.is_serving() {
            self.busy.serves();
            self.published.has_served.store(true, Ordering::Release);
        }
    }

    /// The guest is called with requests, and never looks for connections by itself.
    pub(crate) fn serves_requests(&mut self) {
        self.busy.serves();
    }

    /// Connects, waiting if the socket blocks.
    pub(crate) async fn connect(&mut self, fd: u32, to: SocketAddr) -> Result<(), Errno> {
        let socket = self.descriptors.socket(fd)?;
        match (self.begin_connect(&socket, to), &socket.kind) {
            (Err(Errno::InProgress), SocketKind::Tcp(tcp)) if !socket.is_nonblocking() => {
                while tcp.is_connecting() {
                    readiness::ready(&tcp.endpoint(), Interest::Write, socket.send_timeout()).await?;
                    tcp.finish_connect()?;
                }
                Ok(())
            }
            (outcome, _) => outcome,
        }
    }

    /// Begins to connect. [`Errno::InProgress`] says that it goes on.
    pub(crate) fn begin_connect(&mut self, socket: &Socket, to: SocketAddr) -> Result<(), Errno> {
        if Family::of(&to) != socket.family() {
            return Err(Errno::AddressFamilyNotSupported);
        }
        self.may_reach(socket, to)?;
        socket.used(Interest::Write);
        self.busy.turn();
        let outcome = match &socket.kind {
            SocketKind::Tcp(tcp) => tcp.connect(to),
            SocketKind::Udp(udp) => udp.connect(to),
        };
        socket.changed();
        outcome
    }

    /// Whether a socket may send to this address: a rule says so, or it is who has asked.
    fn may_reach(&self, socket: &Socket, to: SocketAddr) -> Result<(), Errno> {
        match &socket.kind {
            SocketKind::Udp(udp) if udp.was_asked_by(to) => Ok(()),
            _ => Ok(self.gate.connect(to)?),
        }
    }

    /// The guest waits for a descriptor: where that is a listener that it was handed, it begins to serve.
    pub(crate) fn looks_for_connections(&mut self, descriptor: &Descriptor) {
        if !self.busy.is_serving()
            && let Descriptor::Socket(socket) = descriptor
            && socket.tcp().is_ok_and(Tcp::is_listening)
        {
            self.serves();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::outgoing::Trust;
    use crate::policy::Policy;
    use crate::stdio::StdioTarget;

    /// A guest with nothing but null streams.
    pub(crate) fn guest() -> Guest {
        let stdio = || Arc::new(Stdio::new(&StdioTarget::Null, 0).expect("null is always there"));
        let published = Published::reserve(&Network::Os, Vec::new(), 0, 1, 1, false, None);
        let Ok(published) = published else { panic!("nothing to reserve") };
        let (gate, limits) = (Arc::new(Gate::new(Policy::default())), Arc::default());
        let (resolver, trust) = (Arc::default(), Arc::new(Trust::default()));
        let setup = Setup {
            stdio: [stdio(), stdio(), stdio()],
            files: wasmtime_wasi::WasiCtxBuilder::new().build_p1(),
            directories: 0,
            generation: Generation::NotWasmEdge,
            abi: Abi::default(),
            takes_signals: Arc::default(),
            listeners: Vec::new(),
            way: Way::new(&gate, &Network::Os, &resolver, &trust, &limits),
            config: Arc::default(),
            journal: Arc::default(),
            limits,
            grown: Arc::new(Grown::new(0)),
            resolver,
            network: Network::Os,
            published: Arc::new(published),
            worker: 0,
            gate,
        };
        Guest::new(setup).expect("room for three")
    }
}
