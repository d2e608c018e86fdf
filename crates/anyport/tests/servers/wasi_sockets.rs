//! What components of wasi:sockets are told: `guests/wasi-sockets-0.2/probe` asks, and prints the answers, and so does
//! `guests/wasi-sockets-0.3/probe` of datagrams, names and how many sockets there may be.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use anyport::server::StdioTarget;
use anyport::{Artifact, Limits, Listen, Outcome, Policy, Publish, Running, Runtime, Server};

use crate::wat_support::DEADLINE;

/// A probe that was started, and what it prints.
struct Probe {
    running: Running,
    printed: io::PipeReader,
}

impl Probe {
    fn start(policy: Policy, asks: &[(&str, &str)]) -> Self {
        Self::of(probe(Version::V02), policy, asks)
    }

    fn start_03(policy: Policy, asks: &[(&str, &str)]) -> Self {
        Self::of(probe(Version::V03), policy, asks)
    }

    fn of(server: Server, policy: Policy, asks: &[(&str, &str)]) -> Self {
        let (printed, writer) = io::pipe().expect("a test may open descriptors");
        let errors = writer.try_clone().expect("a test may open descriptors");
        let server = asks.iter().fold(server, |server, (name, value)| server.env(*name, *value));
        let server = server.policy(policy).stdio(
            StdioTarget::Null,
            StdioTarget::Fd(writer.into()),
            StdioTarget::Fd(errors.into()),
        );
        let running = server.start().unwrap_or_else(|error| panic!("{error}"));
        Self { running, printed }
    }

    /// Where its port is on the host, when it serves it.
    fn address(&self) -> SocketAddr {
        self.running.ports()[0].address().expect("it is an IP port")
    }

    /// All that it has printed, when it has come to its end.
    fn text(self) -> String {
        let Self { running, mut printed } = self;
        let ended = running.wait();
        let mut text = String::new();
        printed.read_to_string(&mut text).expect("it is a pipe");
        assert_eq!(ended, Outcome::Exited(0), "{text}");
        text
    }

    /// What it has printed of that for which it was asked.
    fn answers(self) -> Vec<String> {
        let text = self.text();
        let rest = text.strip_prefix(ALONE).or_else(|| text.strip_prefix(ALONE_03)).unwrap_or_else(|| panic!("{text}"));
        rest.lines().map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy)]
enum Version {
    V02,
    V03,
}

fn probe(version: Version) -> Server {
    static COMPILED: [OnceLock<(Runtime, Artifact)>; 2] = [const { OnceLock::new() }; 2];
    let (runtime, compiled) = COMPILED[version as usize].get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
        let path = match version {
            Version::V02 => folder.join("wasi-sockets-0.2/probe/probe.wasm"),
            Version::V03 => folder.join("wasi-sockets-0.3/probe/probe.wasm"),
        };
        let runtime = Runtime::builder().build().expect("tests run where anyport does");
        let artifact = Artifact::from_file(path).expect("the guests are committed");
        let compiled = runtime.precompile(&artifact).expect("the guests are valid");
        (runtime, Artifact::from_bytes("probe", compiled))
    });
    runtime.load_precompiled(compiled).expect("this runtime has compiled it")
}

fn publishes(publish: &str) -> Policy {
    Policy { publish: vec![publish.parse().expect("a port")], ..Policy::default() }
}

fn reaches(rule: &str) -> Policy {
    Policy { outbound: vec![rule.parse().expect("a rule")], ..Policy::default() }
}

/// What needs nobody else, and no permission.
const ALONE: &str = "\
create an IPv6 socket: done
create a socket: done
listen unbound: invalid-state
local address unbound: invalid-state
remote address unconnected: invalid-state
accept before listening: invalid-state
shut down unconnected: invalid-state
finish what was not started: not-in-progress
set a hop limit of 0: invalid-argument
set a hop limit of 7: 7
set a backlog of 0: invalid-argument
set a receive buffer of 0: invalid-argument
keep alive: true
keep alive after 0 ns: invalid-argument
connect to port 0: invalid-argument
connect to any address: invalid-argument
connect to IPv6 from IPv4: invalid-argument
bind to a multicast address: invalid-argument
bind to an address of others: address-not-bindable
create a UDP socket: done
UDP streams unbound: invalid-state
UDP local address unbound: invalid-state
set a UDP hop limit of 0: invalid-argument
UDP bind: done
UDP bind again: invalid-state
UDP local address: 127.0.0.1
UDP connect to port 0: invalid-argument
send to nobody: invalid-argument
";

const ALONE_03: &str = "\
create a UDP socket: done
UDP local address unbound: invalid-state
UDP receive unbound: invalid-state
UDP disconnect unconnected: invalid-state
set a UDP hop limit of 0: invalid-argument
UDP bind to IPv6 from IPv4: invalid-argument
UDP bind: done
UDP bind again: invalid-state
UDP local address: 127.0.0.1
UDP remote address unconnected: invalid-state
UDP connect to port 0: invalid-argument
send to nobody: invalid-argument
";

#[test]
fn each_wrong_call_has_its_error() {
    assert_eq!(Probe::start(Policy::default(), &[]).text(), ALONE);
    assert_eq!(Probe::start_03(Policy::default(), &[]).text(), ALONE_03);
}

#[test]
fn what_is_not_allowed_is_refused_with_the_flag() {
    let asks = [("TCP", "127.0.0.1:9"), ("UDP", "127.0.0.1:9"), ("NAME", "example.org"), ("LISTEN", "0.0.0.0:80")];
    let probe = Probe::start(Policy::default(), &asks);
    let began = Instant::now();
    let refusals = loop {
        let refusals = probe.running.status().refusals;
        // Of three kinds, since those of TCP and UDP are the same.
        if refusals.len() == 3 {
            break refusals;
        }
        assert!(began.elapsed() < DEADLINE, "{refusals:?}");
        thread::yield_now();
    };
    let answers = [
        "connect: access-denied",
        "UDP answer, unconnected: access-denied",
        "UDP answer, connected: access-denied",
        "look example.org up: access-denied",
        "listen and serve one: access-denied",
    ];
    assert_eq!(probe.answers(), answers);
    let refusals: Vec<String> = refusals.into_keys().collect();
    for flag in ["`--allow-net 127.0.0.1:9`", "`--allow-dns`", "`-p 80:80`"] {
        assert!(refusals.iter().any(|refusal| refusal.ends_with(flag)), "{flag}: {refusals:?}");
    }
}

#[test]
fn datagrams_and_names_of_03_are_refused_alike() {
    let asks = [("UDP", "127.0.0.1:9"), ("NAME", "example.org"), ("UDP_ECHO", "0.0.0.0:53")];
    let answers = [
        "UDP answer, unconnected: access-denied",
        "UDP answer, connected: access-denied",
        "look example.org up: access-denied",
        "echo datagrams: access-denied",
    ];
    assert_eq!(Probe::start_03(Policy::default(), &asks).answers(), answers);
}

#[test]
fn a_guest_that_opens_sockets_without_end_is_told_and_goes_on() {
    // Standard streams, the socket of its other questions, and these.
    for (most, opened) in [(4, 1), (40, 37), (400, 397)] {
        let mut limits = Limits::default();
        limits.descriptors = most;
        let probe = Probe::of(probe(Version::V03).limits(limits), Policy::default(), &[("FILL", "1")]);
        let answers = [
            format!("sockets at a time: {opened}"),
            "one more: other".to_owned(),
            "one when they are closed: done".to_owned(),
        ];
        assert_eq!(probe.answers(), answers);
    }
}

#[test]
fn a_client_of_others_by_03() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    udp.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let at = udp.local_addr().expect("it is bound").to_string();
    let probe = Probe::start_03(reaches("127.0.0.1"), &[("UDP", &at), ("NAME", "127.0.0.1")]);
    answers_twice(&udp);
    assert_eq!(
        probe.answers(),
        [
            format!("UDP answer, unconnected: \"answer\" from {at}"),
            format!("UDP answer, connected: \"answer\" from {at}"),
            "look 127.0.0.1 up: 127.0.0.1".to_owned(),
        ]
    );
}

#[test]
fn names_of_03_are_looked_up_where_that_is_allowed() {
    let policy = Policy { name_lookup: true, ..Policy::default() };
    let found = Probe::start_03(policy.clone(), &[("NAME", "localhost")]).answers();
    assert!(found[0].split([' ', ':']).any(|word| word == "127.0.0.1"), "{found:?}");
    for (name, answer) in [("no-such-host.invalid", "name-unresolvable"), ("a b", "invalid-argument")] {
        assert_eq!(Probe::start_03(policy.clone(), &[("NAME", name)]).answers(), [format!("look {name} up: {answer}")]);
    }
}

#[test]
fn a_client_of_others() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    udp.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let at = [tcp.local_addr().expect("it is bound"), udp.local_addr().expect("it is bound")];
    let [tcp_at, udp_at] = at.map(|address| address.to_string());
    let asks = [("TCP", tcp_at.as_str()), ("UDP", udp_at.as_str()), ("NAME", "127.0.0.1")];
    let probe = Probe::start(reaches("127.0.0.1"), &asks);

    let (mut client, _) = tcp.accept().expect("it connects");
    client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("it ends its stream");
    assert_eq!(said, "probe\n");
    client.write_all(b"answer").expect("it reads");
    drop(client);
    answers_twice(&udp);
    assert_eq!(
        probe.answers(),
        [
            "connect: done".to_owned(),
            format!("remote address: {tcp_at}"),
            "connect again: invalid-state".to_owned(),
            "listen when connected: invalid-state".to_owned(),
            "send: done".to_owned(),
            "end the stream: done".to_owned(),
            "receive: \"answer\"".to_owned(),
            format!("UDP answer, unconnected: \"answer\" from {udp_at}"),
            format!("UDP answer, connected: \"answer\" from {udp_at}"),
            "look 127.0.0.1 up: 127.0.0.1".to_owned(),
        ]
    );
}

/// Answers a probe's two datagrams, after somebody else.
fn answers_twice(udp: &UdpSocket) {
    for _ in 0..2 {
        let mut datagram = [0; 16];
        let (length, from) = udp.recv_from(&mut datagram).expect("it asks");
        assert_eq!(&datagram[..length], b"probe");
        // Of somebody else: it is for no socket that is connected, and none may hear of it.
        let stranger = UdpSocket::bind("127.0.0.2:0").expect("a free port");
        stranger.send_to(b"stranger", from).expect("there is room");
        udp.send_to(b"answer", from).expect("there is room");
    }
}

#[test]
fn nobody_there_is_an_error_of_its_own() {
    // Of a port that was closed: nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let probe = Probe::start(reaches("127.0.0.1"), &[("TCP", &closed.to_string())]);
    assert_eq!(probe.answers(), ["connect: connection-refused"]);
}

/// Whatever address the guest binds, its clients are those of the published port; it is told the port that it asked
/// for, and of a client of the other IP version in its own words.
#[test]
fn a_server_on_a_published_port() {
    for (address, local, client) in [
        ("0.0.0.0:80", "0.0.0.0:80", IpAddr::from(Ipv4Addr::LOCALHOST)),
        ("127.0.0.1:80", "127.0.0.1:80", Ipv4Addr::LOCALHOST.into()),
        ("[::]:80", "[::]:80", Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()),
        ("[::1]:80", "[::1]:80", IpAddr::from(Ipv6Addr::from_bits(0xffff_7f00_0001))),
    ] {
        let probe = Probe::start(publishes("0:80"), &[("LISTEN", address)]);
        echoes(connected(probe.address()));
        assert_eq!(
            probe.answers(),
            [
                format!("listening at: {local}"),
                "listens: true".to_owned(),
                "bind again: invalid-state".to_owned(),
                format!("client: {client}"),
                "listen and serve one: done".to_owned(),
            ]
        );
    }
}

#[test]
fn a_server_within_this_process_and_anywhere() {
    let policy = Policy { publish: vec![Publish::in_memory(80)], ..Policy::default() };
    let probe = Probe::start(policy, &[("LISTEN", "0.0.0.0:80")]);
    echoes(probe.running.connect(80).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(probe.answers().last().map(String::as_str), Some("listen and serve one: done"));

    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound");
    let policy = Policy { listen: Listen::Anywhere, ..Policy::default() };
    let probe = Probe::start(policy, &[("LISTEN", &free.to_string())]);
    echoes(connected(free));
    let answers = probe.answers();
    assert_eq!(answers[0], format!("listening at: {free}"));
    assert_eq!(answers.last().map(String::as_str), Some("listen and serve one: done"));
}

/// Who has asked is answered, and a flood is no more than the guest takes.
#[test]
fn datagrams_of_a_published_port() {
    for (version, workers) in [(Version::V02, 1), (Version::V02, 2), (Version::V03, 1), (Version::V03, 2)] {
        let server = probe(version).workers(workers);
        let probe = Probe::of(server, publishes("0:53/udp"), &[("UDP_ECHO", "0.0.0.0:53")]);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.connect(probe.address()).expect("it is an address");
        client.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
        for turn in 0..100_u32 {
            // A large one, a small one, an empty one.
            for datagram in [vec![7; 8000], turn.to_le_bytes().to_vec(), Vec::new()] {
                client.send(&datagram).expect("the port is bound");
                let mut answer = [0; 9000];
                let length = client.recv(&mut answer).expect("it is answered");
                assert_eq!(answer[..length], datagram);
            }
        }
        for _ in 0..20_000 {
            client.send(b"flood").expect("the port is bound");
        }
        while !probe.running.status().workers.iter().all(|worker| !worker.running) {
            // The last guest to end leaves nobody there.
            let _ = client.send(b"end");
            thread::yield_now();
        }
        let text = probe.text();
        assert_eq!(text.matches("echo datagrams: done\n").count(), workers, "{text}");
    }
}

/// Until the guest listens, clients are refused.
fn connected(to: SocketAddr) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(to) {
            Ok(stream) => {
                stream.set_read_timeout(Some(DEADLINE)).expect("it is not zero");
                return stream;
            }
            Err(error) => assert!(began.elapsed() < DEADLINE, "{error}"),
        }
        thread::yield_now();
    }
}

/// A stream that a client can end.
trait Halves: Read + Write {
    fn finish(&self) -> io::Result<()>;
}

impl Halves for TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Halves for std::os::unix::net::UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn echoes(mut client: impl Halves) {
    client.write_all(b"hello").expect("the guest reads");
    client.finish().expect("it is connected");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the guest answers");
    assert_eq!(answer, "hello");
}
