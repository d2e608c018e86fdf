//! What a puppet is given: imports, ports, rules, files, limits.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use anyport::server::{Directory, Front, Listener, StdioTarget};
use anyport::simulated::Simulated;
use anyport::{Artifact, Error, Limits, Listen, Policy, Publish, Runtime, Server};

use super::module;
use super::puppet::Puppet;
use super::rows::{Row, rows, wasix_rows};

/// Told of each port that begins to be served.
type OnListen = Box<dyn Fn(&Publish) + Send + Sync>;

/// A puppet in the making. Nothing is allowed that is not said here.
pub(crate) struct Stage {
    rows: Vec<Row>,
    policy: Policy,
    limits: Limits,
    directories: Vec<Directory>,
    listeners: Vec<Listener>,
    stdin: StdioTarget,
    stdout: StdioTarget,
    network: Option<Arc<Simulated>>,
    on_listen: Option<OnListen>,
    front: Front,
}

impl Stage {
    /// With every hostcall of every dialect.
    pub(crate) fn new() -> Self {
        Self::importing(rows().to_vec())
    }

    /// With preview1 alone: such a guest is handed listeners.
    pub(crate) fn preview1() -> Self {
        Self::importing(rows().iter().filter(|row| row.dialect == "WASI preview1").cloned().collect())
    }

    /// With preview1's hostcalls as WASIX has them, from its own namespace, and with those of its own: what the two
    /// share is held to the same.
    pub(crate) fn wasix() -> Self {
        let own: Vec<&Row> = wasix_rows().collect();
        let shared = rows().iter().filter(|row| row.dialect == "WASI preview1");
        let shared = shared.filter(|row| !own.iter().any(|other| other.name == row.name));
        let of_wasix = |row: &Row| Row { dialect: "WASIX".to_owned(), ..row.clone() };
        Self::importing(shared.chain(own.iter().copied()).map(of_wasix).collect())
    }

    /// What it imports.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// With what there was before WasmEdge 0.10.
    pub(crate) fn legacy() -> Self {
        let newer = |row: &Row| match row.name.as_str() {
            "epoll_oneoff" | "sock_recv_from" | "sock_send_to" => true,
            "sock_getlocaladdr" | "sock_getpeeraddr" => row.signature == "(iii)i",
            name => name.ends_with("_v2"),
        };
        Self::importing(rows().iter().filter(|row| !newer(row)).cloned().collect())
    }

    /// With these hostcalls, in this order.
    pub(crate) fn only(keys: &[&str]) -> Self {
        let row = |key: &&str| rows().iter().find(|row| row.key() == **key).unwrap_or_else(|| panic!("no row {key}"));
        Self::importing(keys.iter().map(row).cloned().collect())
    }

    /// With these hostcalls, in this order.
    pub(crate) fn importing(rows: Vec<Row>) -> Self {
        Self {
            rows,
            policy: Policy::default(),
            limits: Limits::default(),
            directories: Vec::new(),
            listeners: Vec::new(),
            stdin: StdioTarget::Null,
            stdout: StdioTarget::Null,
            network: None,
            on_listen: None,
            front: Front::default(),
        }
    }

    /// Publishes a port as `-p` does.
    pub(crate) fn publish(mut self, text: &str) -> Self {
        self.policy.publish.push(text.parse().expect("a port"));
        self
    }

    /// Lets it listen on any address.
    pub(crate) fn listens_anywhere(mut self) -> Self {
        self.policy.listen = Listen::Anywhere;
        self
    }

    /// Calls this when a port begins to be served.
    pub(crate) fn on_listen(mut self, tell: impl Fn(&Publish) + Send + Sync + 'static) -> Self {
        self.on_listen = Some(Box::new(tell));
        self
    }

    /// Publishes a port to this program alone.
    pub(crate) fn publish_in_memory(mut self, port: u16) -> Self {
        self.policy.publish.push(Publish::in_memory(port));
        self
    }

    /// Allows outbound traffic as `--allow-net` does.
    pub(crate) fn allow(mut self, rule: &str) -> Self {
        self.policy.outbound.push(rule.parse().expect("a rule"));
        self
    }

    pub(crate) fn limit(mut self, name: &str, value: u64) -> Self {
        assert!(self.limits.set(name, value), "no limit {name}");
        self
    }

    pub(crate) fn directory(self, host: &Path, guest: &str) -> Self {
        self.share(host, guest, false)
    }

    pub(crate) fn read_only(self, host: &Path, guest: &str) -> Self {
        self.share(host, guest, true)
    }

    fn share(mut self, host: &Path, guest: &str, read_only: bool) -> Self {
        self.directories.push(Directory { host: host.to_owned(), guest: guest.to_owned(), read_only });
        self
    }

    /// Hands over a listener on a free port of loopback.
    pub(crate) fn listener(mut self) -> Self {
        self.listeners.push(Listener::Bind(([127, 0, 0, 1], 0).into()));
        self
    }

    pub(crate) fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdin = StdioTarget::Fd(fd.into());
        self
    }

    pub(crate) fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdout = StdioTarget::Fd(fd.into());
        self
    }

    /// With this in front of it.
    pub(crate) fn front(mut self, front: Front) -> Self {
        self.front = front;
        self
    }

    /// On a simulated network.
    pub(crate) fn simulated(mut self, network: Arc<Simulated>) -> Self {
        self.network = Some(network);
        self
    }

    pub(crate) fn start(self) -> Puppet {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_start(self) -> Result<Puppet, Error> {
        let (ours, theirs) = UnixStream::pair().expect("a test may open descriptors");
        let mut server = compiled(&self.rows).policy(self.policy).limits(self.limits).front(self.front).stdio(
            self.stdin,
            self.stdout,
            StdioTarget::Fd(theirs.into()),
        );
        for directory in self.directories {
            server = server.directory(directory);
        }
        for listener in self.listeners {
            server = server.listener(listener);
        }
        if let Some(network) = self.network {
            server = server.simulated(network);
        }
        if let Some(tell) = self.on_listen {
            server = server.on_listen(tell);
        }
        Ok(Puppet::new(server.start()?, ours, self.rows))
    }
}

/// The puppet with these imports; each is compiled once.
fn compiled(rows: &[Row]) -> Server {
    static COMPILED: Mutex<Option<HashMap<String, Artifact>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().expect("no panic while held");
    let key: String = rows.iter().map(|row| row.namespace().to_owned() + &row.key()).collect();
    let artifact = compiled.get_or_insert_default().entry(key).or_insert_with(|| {
        let bytes = wat::parse_str(module::text(rows)).unwrap_or_else(|error| panic!("{error}"));
        let module = Artifact::from_bytes("puppet", bytes);
        Artifact::from_bytes("puppet", runtime().precompile(&module).unwrap_or_else(|error| panic!("{error}")))
    });
    runtime().load_precompiled(artifact).unwrap_or_else(|error| panic!("{error}"))
}

/// A server of a module in text form, or why there is none.
pub(crate) fn load(text: &str) -> Result<Server, Error> {
    let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"));
    runtime().load(&Artifact::from_bytes("test.wasm", bytes))
}

/// The runtime of all tests of a process.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("tests run where anyport does"))
}
