//! The door of the library: a runtime loads modules; a module is served until it ends or is stopped.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use wasmtime::Module;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::address::{Family, Publish, Transport};
use crate::artifact::{Artifact, ArtifactKind};
use crate::cache::Cache;
use crate::engine::Engine;
use crate::error::Error;
use crate::guest::{Generation, Guest, OnListen, Setup};
use crate::inspect;
use crate::instance::{self, Outcome};
use crate::limits::Limits;
use crate::link;
use crate::net::published::Published;
use crate::net::simulated::Simulated;
use crate::net::{Endpoint, Network, SocketOption};
use crate::policy::{Gate, Policy};
use crate::port_holder;
use crate::stdio::{Stdio, StdioTarget};

/// Compiles and runs modules. Cheap to clone; one for a process is enough.
#[derive(Clone)]
pub struct Runtime {
    engine: Arc<Engine>,
}

/// Makes a [`Runtime`]. By default nothing is cached.
#[derive(Debug, Default)]
pub struct RuntimeBuilder {
    cache: Option<Cache>,
}

impl RuntimeBuilder {
    /// Keeps compiled modules in this cache, and takes them from there.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    /// This machine is not supported, or has no thread left.
    pub fn build(self) -> Result<Runtime, Error> {
        Ok(Runtime { engine: Arc::new(Engine::new(self.cache)?) })
    }
}

impl Runtime {
    /// A builder with the defaults.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// A server from an artifact: compiled, or taken from the cache, and its imports found.
    ///
    /// # Errors
    /// It is not a module, not a valid one, or needs what no dialect has; the message says which.
    pub fn load(&self, artifact: &Artifact) -> Result<Server, Error> {
        inspect::must_run(artifact)?;
        let module = self.engine.compile(artifact)?;
        self.serve(artifact, module)
    }

    /// A server from a file that [`Runtime::precompile`] made.
    ///
    /// Its machine code is run as it is: only for files that nobody else could have written.
    ///
    /// # Errors
    /// It was made by another version, or for another machine.
    pub fn load_precompiled(&self, artifact: &Artifact) -> Result<Server, Error> {
        let module = self.engine.load_trusted(artifact)?;
        self.serve(artifact, module)
    }

    /// Machine code for [`Runtime::load_precompiled`] on this kind of machine.
    ///
    /// # Errors
    /// As [`Runtime::load`].
    pub fn precompile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        match artifact.kind() {
            ArtifactKind::Precompiled => Err(Error::not_runnable(format!("`{artifact}` is compiled already"))),
            _ => {
                inspect::must_run(artifact)?;
                self.engine.precompile(artifact)
            }
        }
    }

    fn serve(&self, artifact: &Artifact, module: Module) -> Result<Server, Error> {
        let imports = link::imports_of(&module);
        link::check(artifact.name(), &imports)?;
        Ok(Server {
            engine: Arc::clone(&self.engine),
            module,
            name: artifact.name().to_owned(),
            takes_listeners: link::takes_listeners(&imports),
            generation: link::generation_of(&imports),
            args: vec![artifact.name().to_owned()],
            env: Vec::new(),
            directories: Vec::new(),
            listeners: Vec::new(),
            stdio: Default::default(),
            policy: Policy::default(),
            limits: Limits::default(),
            network: Network::Os,
            on_listen: None,
        })
    }
}

/// A module with all it will run with. Denies by default: no files, no network, no environment.
pub struct Server {
    engine: Arc<Engine>,
    module: Module,
    name: String,
    takes_listeners: bool,
    generation: Generation,
    args: Vec<String>,
    env: Vec<(String, String)>,
    directories: Vec<Directory>,
    listeners: Vec<Listener>,
    stdio: [StdioTarget; 3],
    policy: Policy,
    limits: Limits,
    network: Network,
    on_listen: Option<OnListen>,
}

/// A directory of the host that a guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Its name for the guest.
    pub guest: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A listener that the guest finds open when it starts, from descriptor 3 on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// Listens on this address of the host.
    Bind(SocketAddr),
    /// A socket that listens already, from a service manager, with its name.
    Inherited {
        /// The socket.
        socket: OwnedFd,
        /// What `LISTEN_FDNAMES` calls it.
        name: String,
    },
}

impl Server {
    /// The guest's arguments after its name.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.args.extend(args);
        self
    }

    /// Sets a variable of the guest's environment; the last one of a name counts.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.env.retain(|(other, _)| *other != name);
        self.env.push((name, value.into()));
        self
    }

    /// Lets the guest use a directory.
    #[must_use]
    pub fn directory(mut self, directory: Directory) -> Self {
        self.directories.push(directory);
        self
    }

    /// Hands the guest a listener.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Where the guest's stdin, stdout and stderr go; nowhere by default.
    #[must_use]
    pub fn stdio(mut self, stdin: StdioTarget, stdout: StdioTarget, stderr: StdioTarget) -> Self {
        self.stdio = [stdin, stdout, stderr];
        self
    }

    /// What the guest may reach, and what reaches it.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How much the guest may hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Calls this each time that a published port begins to be served, with its address on the host:
    /// before that, clients are refused.
    #[must_use]
    pub fn on_listen(mut self, tell: impl Fn(Publish, SocketAddr) + Send + Sync + 'static) -> Self {
        self.on_listen = Some(Arc::new(tell));
        self
    }

    /// Puts the guest on a simulated network instead of the operating system's.
    #[must_use]
    pub fn simulated(mut self, network: Arc<Simulated>) -> Self {
        self.network = Network::Simulated(network);
        self
    }

    /// Whether the guest waits for listeners to be handed to it; published ports become them.
    pub fn takes_listeners(&self) -> bool {
        self.takes_listeners
    }

    /// Binds the ports and starts the guest on a thread of its own.
    ///
    /// # Errors
    /// A port is taken, a directory is not there, or the environment is larger than its limit.
    pub fn start(mut self) -> Result<Running, Error> {
        let mut ports = Vec::new();
        let listeners = self.bind_listeners(&mut ports)?;
        self.refuse_twins()?;
        let published = Published::reserve(self.network.clone(), &self.policy.publish)
            .map_err(|(publish, error)| port_holder::explain(publish.host, publish.transport, &error))?;
        let handed = ports.len();
        ports.extend(published.addresses());
        self.announce_listeners(&listeners);
        self.check_environment()?;
        let stdio = self.open_stdio()?;
        let directories = u32::try_from(self.directories.len()).map_err(|_| Error::host("too many directories"))?;
        let setup = Setup {
            stdio,
            files: self.files()?,
            directories,
            generation: self.generation,
            listeners: listeners.into_iter().map(|listener| (listener.endpoint, listener.local)).collect(),
            limits: Arc::new(self.limits),
            network: self.network,
            published: Arc::new(published),
            gate: Arc::new(Gate::new(self.policy)),
            on_listen: self.on_listen.clone(),
        };
        let guest = Guest::new(setup).map_err(|_| {
            Error::host("the guest may not open even its first descriptors").with_hint("raise `--limit descriptors=N`")
        })?;
        if let Some(tell) = self.on_listen {
            ports[..handed].iter().for_each(|(publish, address)| tell(*publish, *address));
        }
        Running::spawn(self.name, self.engine, self.module, guest, ports)
    }

    /// The listeners to hand over: those asked for, else the published ports of a guest that cannot
    /// listen by itself.
    fn bind_listeners(&mut self, ports: &mut Vec<(Publish, SocketAddr)>) -> Result<Vec<Handed>, Error> {
        if self.listeners.is_empty() && self.takes_listeners {
            let (tcp, others) = self.policy.publish.drain(..).partition(|publish| publish.transport == Transport::Tcp);
            self.policy.publish = others;
            return Vec::into_iter(tcp)
                .map(|publish: Publish| {
                    let handed = self.listen(publish.host, publish.guest_port, "listener")?;
                    ports.push((publish, handed.address));
                    Ok(handed)
                })
                .collect();
        }
        let asked = std::mem::take(&mut self.listeners);
        asked
            .into_iter()
            .map(|listener| match listener {
                Listener::Bind(address) => {
                    let handed = self.listen(address, address.port(), "listener")?;
                    let guest_port = handed.address.port();
                    ports.push((Publish { host: address, guest_port, transport: Transport::Tcp }, handed.address));
                    Ok(handed)
                }
                Listener::Inherited { socket, name } => {
                    let endpoint = Endpoint::inherit(socket).map_err(|error| {
                        Error::host(format!("the inherited socket `{name}` cannot be used: {error}"))
                    })?;
                    let address = endpoint.local_address().map_err(|error| {
                        Error::host(format!("the inherited socket `{name}` is not an IP listener: {error}"))
                    })?;
                    Ok(Handed { endpoint, local: address, address, name })
                }
            })
            .collect()
    }

    fn listen(&self, address: SocketAddr, guest_port: u16, name: &str) -> Result<Handed, Error> {
        let listen = || -> io::Result<Handed> {
            let endpoint = self.network.open(Family::of(&address), Transport::Tcp)?;
            endpoint.set_option(SocketOption::ReuseAddress(true))?;
            endpoint.bind(address)?;
            endpoint.listen(ACCEPT_BACKLOG)?;
            let address = endpoint.local_address()?;
            let local = SocketAddr::new(address.ip(), if guest_port == 0 { address.port() } else { guest_port });
            Ok(Handed { endpoint, local, address, name: name.to_owned() })
        };
        listen().map_err(|error| port_holder::explain(address, Transport::Tcp, &error))
    }

    /// Tells the guest of its listeners, unless the person told it otherwise.
    fn announce_listeners(&mut self, listeners: &[Handed]) {
        if listeners.is_empty() {
            return;
        }
        let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
        for (name, value) in [("LISTEN_FDS", listeners.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))] {
            if !self.env.iter().any(|(other, _)| other == name) {
                self.env.push((name.to_owned(), value));
            }
        }
    }

    /// A port that the guest binds is published once: it gets one socket.
    fn refuse_twins(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        for publish in &self.policy.publish {
            if publish.guest_port != 0 && !seen.insert((publish.guest_port, publish.transport)) {
                let what = format!("port {}/{} of the guest is published twice", publish.guest_port, publish.transport);
                return Err(Error::host(what).with_hint("leave one out: the guest has one socket for it"));
            }
        }
        Ok(())
    }

    fn check_environment(&self) -> Result<(), Error> {
        let args: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        let env: usize = self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if args + env <= self.limits.environment_bytes {
            return Ok(());
        }
        Err(Error::host(format!(
            "the guest's arguments and environment have {} bytes, the limit is {}",
            args + env,
            self.limits.environment_bytes,
        ))
        .with_hint("pass less, or raise `--limit environment-bytes=N`"))
    }

    fn open_stdio(&mut self) -> Result<[Stdio; 3], Error> {
        let [stdin, stdout, stderr] = std::mem::take(&mut self.stdio);
        let open = |target, number| {
            Stdio::new(target, number)
                .map_err(|error| Error::host(format!("the guest's descriptor {number} cannot be opened: {error}")))
        };
        Ok([open(stdin, 0)?, open(stdout, 1)?, open(stderr, 2)?])
    }

    fn files(&self) -> Result<WasiP1Ctx, Error> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(&self.args).envs(&self.env);
        for directory in &self.directories {
            let permissions = if directory.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            wasi.preopened_dir(&directory.host, &directory.guest, permissions).map_err(|error| {
                Error::host(format!(
                    "the directory `{}` cannot be opened: {}",
                    directory.host.display(),
                    error.root_cause()
                ))
                .with_hint("it is the part before the colon: `--dir HOST:GUEST`")
            })?;
        }
        Ok(wasi.build_p1())
    }
}

/// Pending connections of a listener that is handed over, as Linux's own `SOMAXCONN` since 5.4.
const ACCEPT_BACKLOG: u32 = 4096;

/// A listener to hand over, with its address for the guest and on the host.
struct Handed {
    endpoint: Endpoint,
    local: SocketAddr,
    address: SocketAddr,
    name: String,
}

/// A guest at work. Dropping it stops the guest.
pub struct Running {
    ports: Vec<(Publish, SocketAddr)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Outcome>>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Running {
    fn spawn(
        name: String, engine: Arc<Engine>, module: Module, guest: Guest, ports: Vec<(Publish, SocketAddr)>,
    ) -> Result<Self, Error> {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::host(format!("the guest's event loop cannot be started: {error}")))?;
        let guest = async move {
            tokio::select! {
                biased;
                _ = stopped => Outcome::Stopped,
                outcome = instance::run(engine, module, guest) => outcome,
            }
        };
        let thread = std::thread::Builder::new()
            .name(thread_name(&name))
            .spawn(move || {
                let _end = end;
                // A task of its own: waking the outermost future of a tokio runtime costs two
                // syscalls. Unconstrained: tokio's budget would make ready sockets look unready.
                let task = runtime.spawn(tokio::task::unconstrained(guest));
                let outcome = runtime.block_on(task).unwrap_or_else(|error| Outcome::Trapped {
                    reason: format!("anyport failed in a hostcall: {error}"),
                    backtrace: String::new(),
                });
                // Does not wait for file operations that are still under way.
                runtime.shutdown_background();
                outcome
            })
            .map_err(|error| Error::host(format!("the guest's thread cannot be started: {error}")))?;
        Ok(Self { ports, stop: Some(stop), thread: Some(thread), ended: Some(ended) })
    }

    /// The published ports, each with its address on the host.
    pub fn ports(&self) -> &[(Publish, SocketAddr)] {
        &self.ports
    }

    /// Ends the guest, whatever it is doing.
    pub fn stop(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until the guest has ended.
    pub async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            // Nothing is ever sent: the other side is dropped when the thread ends.
            let _ = ended.await;
            self.ended = None;
        }
    }

    /// Waits until the guest has ended, on this thread; how it ended.
    pub fn wait(mut self) -> Outcome {
        let thread = self.thread.take().expect("only `wait` and `drop` take it");
        thread.join().unwrap_or_else(|_| Outcome::Trapped {
            reason: "anyport failed: its thread panicked".to_owned(),
            backtrace: String::new(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The guest's file name, for `top` and debuggers; Linux takes 15 bytes.
fn thread_name(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.chars().filter(char::is_ascii_graphic).take(15).collect()
}
