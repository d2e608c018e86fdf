//! A guest at work, and its clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyport::{Artifact, Policy, Publish, Running, Runtime, Server};

/// For what takes as long as it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The guest, to be given more.
pub(crate) fn server(rules: &[&str]) -> Server {
    static COMPILED: OnceLock<Artifact> = OnceLock::new();
    let runtime = Runtime::builder().build().expect("tests run where anyport does");
    let compiled = COMPILED.get_or_init(|| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests").join(super::GUEST).join("server.wasm");
        let artifact = Artifact::from_file(file).expect("the guests are committed");
        Artifact::from_bytes("echo", runtime.precompile(&artifact).expect("it is valid"))
    });
    let policy = Policy {
        publish: vec!["127.0.0.1:0:8080".parse().expect("a port")],
        outbound: rules.iter().map(|rule| rule.parse().expect("a rule")).collect(),
        ..Policy::default()
    };
    // Each worker has connections of its own.
    runtime.load_precompiled(compiled).expect("it was compiled here").policy(policy).workers(1)
}

/// The guest at work.
pub(crate) struct Guest(Running);

impl Guest {
    pub(crate) fn start(server: Server) -> Self {
        Self(server.start().expect("it can be started"))
    }

    pub(crate) fn allowed(rules: &[&str]) -> Self {
        Self::start(server(rules))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.ports().first().and_then(Publish::address).expect("a port is published")
    }

    /// Lets the guest send a request, and gives what it got: the status, and the body.
    pub(crate) fn fetch(&self, url: &str) -> (u16, String) {
        self.send("GET", url, "")
    }

    pub(crate) fn send(&self, method: &str, url: &str, body: &str) -> (u16, String) {
        let mut client = self.begin(method, url, body);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("the answer is whole");
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).unwrap_or_else(|| panic!("{answer:?} is no answer"))
    }

    /// The same, up to the answer. HTTP/1.0: its body is not in chunks.
    pub(crate) fn begin(&self, method: &str, url: &str, body: &str) -> TcpStream {
        let head =
            format!("{method} /fetch?url={url} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.write(&head)
    }

    pub(crate) fn write(&self, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address()).expect("it listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        client.write_all(text.as_bytes()).expect("it takes the request");
        client
    }

    pub(crate) fn running(&self) -> &Running {
        &self.0
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.stop();
    }
}
