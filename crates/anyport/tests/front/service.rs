//! A component that serves requests, at work, and its clients.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyport::server::{CertificateFiles, Front, StdioTarget};
use anyport::{Artifact, Limits, Policy, Publish, Running, Runtime, Server};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Tested, within};

/// A server of `guests/wasi-http-0.2/echo`, compiled once for the process.
pub(crate) fn echo() -> Server {
    echo_of("0.2")
}

/// Of the guest for this version of wasi:http.
fn echo_of(version: &str) -> Server {
    static COMPILED: [OnceLock<Artifact>; 2] = [const { OnceLock::new() }; 2];
    let compiled = COMPILED[usize::from(version == "0.3")].get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
        let file = folder.join(format!("wasi-http-{version}/echo/server.wasm"));
        let artifact = Artifact::from_file(file).expect("the guests are committed");
        Artifact::from_bytes("echo", runtime().precompile(&artifact).expect("the guests are valid"))
    });
    runtime().load_precompiled(compiled).expect("this runtime has compiled it")
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::builder().build().expect("tests run where anyport does"))
}

/// A file of the tests' certificates.
pub(crate) fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/front/certificates").join(name)
}

/// A certificate with its key, by their name.
pub(crate) fn pair(name: &str) -> CertificateFiles {
    CertificateFiles { chain: certificate(&format!("{name}.pem")), key: certificate(&format!("{name}.key")) }
}

/// A service, and what its guests print.
pub(crate) struct Service {
    pub(crate) running: Running,
    printed: BufReader<pipe::Receiver>,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::with(|_, _| {})
    }

    /// With other limits, or with more in front of it.
    pub(crate) fn with(change: impl FnOnce(&mut Limits, &mut Front)) -> Self {
        Self::of(1, vec!["0:8080".parse().expect("a port")], change)
    }

    pub(crate) fn of(workers: usize, publish: Vec<Publish>, change: impl FnOnce(&mut Limits, &mut Front)) -> Self {
        Self::start_of("0.2", workers, publish, change)
    }

    /// A service of each version of wasi:http.
    pub(crate) fn of_each_version(change: impl Fn(&mut Limits, &mut Front)) -> [Self; 2] {
        let publish = || vec!["0:8080".parse().expect("a port")];
        ["0.2", "0.3"].map(|version| Self::start_of(version, 1, publish(), &change))
    }

    fn start_of(
        version: &str, workers: usize, publish: Vec<Publish>, change: impl FnOnce(&mut Limits, &mut Front),
    ) -> Self {
        let (mut limits, mut front) = (Limits::default(), Front::default());
        // The pool is made in a moment.
        limits.instances = 16;
        change(&mut limits, &mut front);
        let (reader, writer) = io::pipe().expect("a test may open descriptors");
        let server = echo_of(version).policy(Policy { publish, ..Policy::default() }).limits(limits).front(front);
        let server =
            server.workers(workers).stdio(StdioTarget::Null, StdioTarget::Fd(writer.into()), StdioTarget::Null);
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        let printed = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        Self { running, printed: BufReader::new(printed) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.ports()[0].address().expect("an IP port")
    }

    pub(crate) async fn connect(&self) -> Tested<TcpStream> {
        within("connecting", TcpStream::connect(self.address())).await
    }

    /// What comes after this, up to the end of the connection.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Tested<String> {
        let mut stream = self.connect().await?;
        within("sending", stream.write_all(bytes.as_ref())).await?;
        all(&mut stream).await
    }

    /// Asks for a page, on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Tested<String> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    /// What guests print.
    pub(crate) fn printed(&mut self) -> &mut BufReader<pipe::Receiver> {
        &mut self.printed
    }

    /// Which guests were called with `/stdout?text=WORD` up to now.
    pub(crate) async fn called(&mut self) -> Tested<Vec<String>> {
        let answer = self.get("/stdout?text=last").await?;
        assert!(answer.ends_with("written\n"), "{answer}");
        let mut called = Vec::new();
        loop {
            let mut line = String::new();
            within("waiting for what the guest prints", self.printed.read_line(&mut line)).await?;
            match line.trim_end() {
                "last" => return Ok(called),
                word => called.push(word.to_owned()),
            }
        }
    }
}

/// All that comes, to the end of the connection, however it ends.
pub(crate) async fn all(stream: &mut (impl AsyncRead + Unpin)) -> Tested<String> {
    let mut bytes = Vec::new();
    within("waiting for the end", async {
        match stream.read_to_end(&mut bytes).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            _ => Ok(()),
        }
    })
    .await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All up to this.
pub(crate) async fn until(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> Tested<String> {
    let mut text = String::new();
    within(format!("waiting for {wanted:?}"), async {
        while !text.contains(wanted) {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).await?;
            if length == 0 {
                return Err(io::Error::other(format!("it ends with {text:?}")));
            }
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        Ok(())
    })
    .await?;
    Ok(text)
}

/// The status of an answer; 0 for none.
pub(crate) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// A client that trusts the tests' authority.
pub(crate) fn trusting(change: impl FnOnce(&mut ClientConfig)) -> TlsConnector {
    of_versions(rustls::DEFAULT_VERSIONS, change)
}

pub(crate) fn of_versions(
    versions: &[&'static rustls::SupportedProtocolVersion], change: impl FnOnce(&mut ClientConfig),
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("ca.pem")).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    change(&mut config);
    TlsConnector::from(Arc::new(config))
}

/// A handshake with a server of this name.
pub(crate) async fn shake(connector: &TlsConnector, name: &str, stream: TcpStream) -> Tested<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    within("shaking hands", connector.connect(name, stream)).await
}
