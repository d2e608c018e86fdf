//! A program with all it will run with, up to its start.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access_log::Log;
use crate::address::{HostAddress, Publish, Transport};
use crate::engine::{Engine, Room};
use crate::error::{Error, printable};
use crate::front::health::HealthPort;
use crate::front::{self, Duties};
use crate::health::Health;
use crate::ingress::Ingress;
use crate::limits::Limits;
use crate::net::published::{self, OnListen, Origin, Published};
use crate::net::simulated::Simulated;
use crate::net::{self, Network};
use crate::outgoing::Trust;
use crate::policy::{Gate, Policy};
use crate::port_holder;
use crate::program::{Handler, Program};
use crate::serving::Requests;
use crate::spelling::option;
use crate::stage::Stage;
use crate::status::View;
use crate::worker::{Template, Unstarted, Work, Worker};
use tokio::sync::watch;

pub use crate::access_log::{AccessFormat, AccessLog};
pub use crate::directory::Directory;
pub use crate::ingress::{CertificateFiles, Front};
pub use crate::instance::Outcome;
pub use crate::net::resolve::Resolver;
pub use crate::running::Running;
pub use crate::status::{PortStatus, Status, WorkerStatus};
pub use crate::stdio::StdioTarget;
pub use crate::worker::Restart;

/// A module or component with all it will run with. Denies by default: no files, no network, no environment.
pub struct Server {
    engine: Arc<Engine>,
    program: Program,
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    directories: Vec<Directory>,
    listeners: Vec<Listener>,
    stdio: [StdioTarget; 3],
    policy: Policy,
    limits: Limits,
    network: Network,
    on_listen: Option<OnListen>,
    workers: Option<usize>,
    restart: Restart,
    resolver: Resolver,
    config: BTreeMap<String, String>,
    ca_files: Vec<PathBuf>,
    front: Front,
}

/// A listener for the guest, which finds it open when it starts, from descriptor 3 on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listener {
    /// Listens on this address of the host.
    Bind(SocketAddr),
    /// A socket that listens already, from a service manager, with its name. A guest that listens by
    /// itself gets it as the port that it binds: of the same number, or whichever if nothing else is
    /// published.
    Inherited {
        /// The socket.
        socket: OwnedFd,
        /// What `LISTEN_FDNAMES` calls it.
        name: String,
    },
}

impl Listener {
    /// Listens on this port of every address of the host: of both IP versions where there are two, which Linux
    /// has as `[::]`, else of IPv4. Which versions there are is a matter of the network namespace that the caller
    /// is in.
    pub fn on_every_address(port: u16) -> Self {
        let ip: IpAddr = if net::has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self::Bind((ip, port).into())
    }
}

impl Server {
    pub(crate) fn new(engine: Arc<Engine>, program: Program, name: &str) -> Self {
        Self {
            engine,
            program,
            name: name.to_owned(),
            args: vec![file_name(name)],
            env: Vec::new(),
            directories: Vec::new(),
            listeners: Vec::new(),
            stdio: Default::default(),
            policy: Policy::default(),
            limits: Limits::default(),
            network: Network::Os,
            on_listen: None,
            workers: None,
            restart: Restart::default(),
            resolver: Resolver::Host,
            config: BTreeMap::new(),
            ca_files: Vec::new(),
            front: Front::default(),
        }
    }

    /// The guest's arguments after its name, which is that of its file.
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

    /// How many guests serve behind the same ports, each with a thread, a memory and limits of its own;
    /// 1 by default, since a guest may keep what it should remember in its memory. Each connection goes
    /// to the guest with the fewest. A component that is called with each request has one thread for each core
    /// by default: no request finds what another left.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// When a guest that has ended is started again.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Who looks names up; the host by default.
    #[must_use]
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = resolver;
        self
    }

    /// Gives the guest a value by `wasi:config`; the last one of a name counts.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.insert(name.into(), value.into());
        self
    }

    /// Lets the guest's HTTP requests trust the certificates of this PEM file, beside those of the system.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_files.push(file.into());
        self
    }

    /// What stands between the network and the guest: TLS, the PROXY protocol, and what is told of requests.
    #[must_use]
    pub fn front(mut self, front: Front) -> Self {
        self.front = front;
        self
    }

    /// Calls this, on a guest's thread, when a published port begins to be served, with the address that it has on
    /// the host: before that, clients are refused, or wait if the guest is handed its listener.
    #[must_use]
    pub fn on_listen(mut self, tell: impl Fn(&Publish) + Send + Sync + 'static) -> Self {
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
        self.program.takes_listeners()
    }

    /// Whether it can have no clients: it is a module that imports nothing of sockets.
    pub fn has_no_sockets(&self) -> bool {
        self.program.has_no_sockets()
    }

    /// Whether it is a component that is called with each HTTP request, and does not run by itself; or a program that
    /// is run for each.
    pub fn is_service(&self) -> bool {
        self.program.is_service()
    }

    /// Binds the ports and starts the guest, each worker's on a thread of its own.
    ///
    /// # Errors
    /// A port is taken, a directory is not there, the environment is larger than its limit, or the files of a
    /// certificate are not right.
    pub fn start(mut self) -> Result<Running, Error> {
        let Ports { all, names } = self.ports()?;
        self.refuse_twins()?;
        if !self.is_service() {
            self.announce_listeners(&names);
        } else if names.is_empty() {
            return Err(self.serves_nowhere());
        }
        self.check_environment()?;
        let trust = Trust::new(self.ca_files.iter().map(PathBuf::as_path))?;
        let is_service = self.is_service();
        self.check_front(is_service)?;
        let ingress = Ingress::new(&self.front, &self.limits, is_service)?;
        let access_log = self.front.access_log.as_ref().map(Log::open).transpose()?;
        let (workers, most) = (self.worker_count(), self.limits.connections);
        let (engine, work) = match self.program {
            Program::Service(service) => {
                let (engine, handler) = service.pool(&self.engine, &self.name, room(&self.limits, workers))?;
                (engine, requests(handler, &self.limits))
            }
            Program::Scripts(scripts) => {
                let room = room(&self.limits, workers);
                let (engine, handler) = scripts.pool(&self.engine, room, &self.args, &self.env, &self.directories)?;
                (engine, requests(handler, &self.limits))
            }
            program => (self.engine, Work::Guest(program)),
        };
        engine.ticker.start()?;
        // A service lets its connections in by itself.
        let fed = workers > 1 || (ingress.is_some() && !is_service);
        let tell = self.on_listen.as_ref();
        let published = Published::reserve(&self.network, all, names.len(), workers, most, fed, tell)
            .map_err(|(publish, error)| port_holder::explain(&publish.host, publish.transport, &error))?;
        let published = Arc::new(published);
        let memory_most = self.limits.memory_bytes;
        let template = Arc::new(Template {
            engine,
            work,
            name: self.name,
            args: self.args,
            env: self.env,
            directories: self.directories,
            stdio: self.stdio,
            limits: Arc::new(self.limits),
            network: self.network,
            published: Arc::clone(&published),
            gate: Arc::new(Gate::new(self.policy)),
            restart: self.restart,
            resolver: Arc::new(self.resolver),
            trust: Arc::new(trust),
            config: Arc::new(self.config.into_iter().collect()),
            journal: Arc::default(),
            ingress,
            access_log,
            x_forwarded: self.front.x_forwarded,
            health: (0..workers).map(|_| Health::new(memory_most)).collect(),
            takes_signals: Arc::default(),
        });
        launch(&template, published, workers, fed, self.front.health)
    }

    /// What only a service has is no wish of a guest that reads its requests itself.
    fn check_front(&self, is_service: bool) -> Result<(), Error> {
        let wishes = [
            ("x-forwarded", self.front.x_forwarded),
            ("access-log", self.front.access_log.is_some()),
            ("prewarm", self.limits.instances_ready > 0),
        ];
        match wishes.iter().find(|(_, wished)| *wished && !is_service) {
            None => Ok(()),
            Some((name, _)) => {
                let (flag, file) = (option(name, ""), printable(&self.name));
                Err(Error::host(format!("`{flag}` cannot be done for `{file}`, which reads its requests by itself"))
                    .with_hint("leave it out; it is for components that export a handler of wasi:http"))
            }
        }
    }

    fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.unwrap_or_else(|| if self.is_service() { cores() } else { 1 })
    }

    fn serves_nowhere(&self) -> Error {
        let name = printable(&self.name);
        let cgi = if self.program.is_cgi() && !name.ends_with(".toml") { " --cgi" } else { "" };
        Error::host(format!("`{name}` serves HTTP requests, and no port is published for them"))
            .with_hint(format!("`anyport run{cgi} -p 8080 {name}` serves them on http://localhost:8080"))
    }

    /// The public ports. Ports that are published for a guest that cannot listen by itself are handed over.
    fn ports(&mut self) -> Result<Ports, Error> {
        let mut handed = Vec::new();
        let mut names = Vec::new();
        let mut published: Vec<Publish> = Vec::new();
        if self.takes_listeners() {
            let is_stream = |publish: &mut Publish| publish.transport == Transport::Tcp;
            published = self.policy.publish.extract_if(.., is_stream).collect();
        }
        let mut bound: Vec<_> = self.policy.publish.iter().map(|publish| (publish.clone(), Origin::Bind)).collect();
        for listener in std::mem::take(&mut self.listeners) {
            match listener {
                Listener::Bind(address) => {
                    handed.push((Publish::same_port(HostAddress::Ip(address)), Origin::Bind));
                    names.push("listener".to_owned());
                }
                Listener::Inherited { socket, name } => {
                    let (publish, origin) = published::inherit(socket).map_err(|error| {
                        Error::host(format!("the inherited socket `{name}` cannot be used: {error}"))
                    })?;
                    if self.takes_listeners() {
                        handed.push((publish, origin));
                        names.push(name);
                    } else {
                        self.policy.publish.push(publish.clone());
                        bound.push((publish, origin));
                    }
                }
            }
        }
        // Behind those that were named as listeners: real servers hard-code 3 for theirs.
        names.extend(published.iter().map(|_| "listener".to_owned()));
        handed.extend(published.into_iter().map(|publish| (publish, Origin::Bind)));
        // One socket alone: whatever port the guest binds, this is meant.
        if let ([publish], [(same, Origin::Inherited(_))]) = (&mut self.policy.publish[..], &mut bound[..]) {
            (publish.guest_port, same.guest_port) = (None, None);
        }
        handed.append(&mut bound);
        Ok(Ports { all: handed, names })
    }

    /// Tells the guest of its listeners, unless the person told it otherwise.
    fn announce_listeners(&mut self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        for (name, value) in [("LISTEN_FDS", names.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))] {
            if !self.env.iter().any(|(other, _)| other == name) {
                self.env.push((name.to_owned(), value));
            }
        }
    }

    /// A port that the guest binds is published once: it gets one socket.
    fn refuse_twins(&self) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut whichever = None;
        for publish in &self.policy.publish {
            if publish.guest_port.is_none()
                && let Some(first) = whichever.replace(&publish.host)
            {
                let what = format!("`{first}` and `{}` are both for the first port that the guest binds", publish.host);
                return Err(Error::host(what).with_hint("say which port of the guest is meant: `-p unix:PATH:8080`"));
            }
            let Some(port) = publish.guest_port.filter(|port| *port != 0) else { continue };
            if !seen.insert((port, publish.transport)) {
                let what = format!("port {port}/{} of the guest is published twice", publish.transport);
                return Err(Error::host(what).with_hint("leave one out: the guest has one socket for it"));
            }
        }
        Ok(())
    }

    fn check_environment(&self) -> Result<(), Error> {
        let args: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        let values = self.env.iter().map(|(name, value)| (name, value)).chain(&self.config);
        let env: usize = values.map(|(name, value)| name.len() + value.len() + 2).sum();
        if args + env <= self.limits.environment_bytes {
            return Ok(());
        }
        Err(Error::host(format!(
            "the guest's arguments and environment have {} bytes, the limit is {}",
            args + env,
            self.limits.environment_bytes,
        ))
        .with_hint(format!("pass less, or raise `{}`", option("limit", "environment-bytes=N"))))
    }
}

/// What a guest is told of its own name: as by other runtimes, no folder of the host.
fn file_name(name: &str) -> String {
    Path::new(name).file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What a pool of instances has room for.
fn room(limits: &Limits, workers: usize) -> Room {
    let Limits { instances, memory_bytes, table_elements, .. } = *limits;
    Room { workers, instances, memory_bytes, table_elements }
}

fn requests(handler: Handler, limits: &Limits) -> Work {
    Work::Requests(Arc::new(Requests::new(handler, limits)))
}

/// The public ports of a server.
struct Ports {
    /// Those that guests are handed, then those that they bind.
    all: Vec<(Publish, Origin)>,
    /// The names of those that are handed.
    names: Vec<String>,
}

/// Starts each worker's guest, and the thread beside them where there is something for it to do.
fn launch(
    template: &Arc<Template>, published: Arc<Published>, workers: usize, fed: bool, health: Option<SocketAddr>,
) -> Result<Running, Error> {
    let (stage, stages) = watch::channel(Stage::Serving);
    let (ended, alive) = watch::channel(());
    // All are made before the first is started: what is wrong with one is wrong with all.
    // Before the first connection, too, which could take the last descriptor.
    let tasks: Vec<_> = (0..workers).map(|number| template.task(number, &stages)).collect::<Result<_, _>>()?;
    let runtimes = (0..workers).map(|_| template.event_loop().map(Unstarted::new)).collect::<Result<Vec<_>, _>>()?;
    let (ingress, stall) = (template.ingress.clone(), template.limits.idle_timeout);
    let ingress = ingress.filter(|_| matches!(template.work, Work::Guest(_)));
    let health = health.map(|address| health_port(address, template, &stages)).transpose()?;
    let health_address = health.as_ref().and_then(|health| health.address().ok());
    let duties = Duties { published, feeds: fed, ingress, stall, health };
    let front = if duties.are_any() { Some(front::start(duties, stages.clone())?) } else { None };
    let mut running = Running::new(template, stage, ended, front, health_address);
    for (number, (runtime, task)) in runtimes.into_iter().zip(tasks).enumerate() {
        let template = Arc::clone(template);
        let worker = Worker { number, template, stage: stages.clone(), _alive: alive.clone() };
        running.add(worker.start(runtime, task)?);
    }
    Ok(running)
}

fn health_port(address: SocketAddr, template: &Template, stages: &watch::Receiver<Stage>) -> Result<HealthPort, Error> {
    HealthPort::bind(address, View::of(template), stages.clone())
        .map_err(|error| port_holder::explain(&HostAddress::Ip(address), Transport::Tcp, &error))
}
