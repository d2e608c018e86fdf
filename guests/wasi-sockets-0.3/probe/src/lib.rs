//! Asks a host of wasi:sockets 0.3 about datagrams, names and how many sockets there may be, and prints its answers, one
//! line each, `QUESTION: ANSWER`: nothing to pass or fail. It is the twin of `guests/wasi-sockets-0.2/probe`, and an
//! error is the name that the specification gives it.
//!
//! | variable | |
//! |---|---|
//! | `UDP=ADDRESS` | sends the datagram `probe` there and prints the answer, from a socket that is not connected and from one that is |
//! | `NAME=NAME` | looks it up |
//! | `FILL=1` | opens sockets until one is refused, closes them, and opens one |
//! | `UDP_ECHO=ADDRESS` | sends each datagram that comes there back, until one says `end` |
//!
//! They are asked in this order, after what needs nobody else. An ADDRESS is `127.0.0.1:80` or `[::1]:80`.

use std::env;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use wasip3::sockets::ip_name_lookup::{self, resolve_addresses};
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};

wasip3::cli::command::export!(Probe);

struct Probe;

type Answer<T> = Result<T, ErrorCode>;

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        alone().await;
        if let Some(address) = address("UDP") {
            say("UDP answer, unconnected", ask(address, false).await);
            say("UDP answer, connected", ask(address, true).await);
        }
        if let Ok(name) = env::var("NAME") {
            say_named(&format!("look {name} up"), look_up(&name).await.map_err(name_error));
        }
        if env::var("FILL").is_ok() {
            fill();
        }
        if let Some(address) = address("UDP_ECHO") {
            say("echo datagrams", echo(address).await);
        }
        Ok(())
    }
}

/// What needs nobody else, and no permission.
async fn alone() {
    let socket = match UdpSocket::create(IpAddressFamily::Ipv4) {
        Ok(socket) => socket,
        Err(error) => return say("create a UDP socket", Err::<&str, _>(error)),
    };
    let (here, ipv6) = (SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80)));
    say("create a UDP socket", Ok("done"));
    say("UDP local address unbound", socket.get_local_address().map(native));
    say("UDP receive unbound", socket.receive().await.map(|_| "a datagram"));
    say("UDP disconnect unconnected", done(socket.disconnect()));
    say("set a UDP hop limit of 0", done(socket.set_unicast_hop_limit(0)));
    say("UDP bind to IPv6 from IPv4", done(socket.bind(wasi(ipv6))));
    say("UDP bind", done(socket.bind(wasi(here))));
    say("UDP bind again", done(socket.bind(wasi(here))));
    say("UDP local address", socket.get_local_address().map(|address| native(address).ip()));
    say("UDP remote address unconnected", socket.get_remote_address().map(native));
    say("UDP connect to port 0", done(socket.connect(wasi(here))));
    say("send to nobody", done(socket.send(b"probe".to_vec(), None).await));
}

/// A datagram to `address`, and what it answers.
async fn ask(address: SocketAddr, connected: bool) -> Answer<String> {
    let socket = UdpSocket::create(family(address))?;
    let to = if connected { socket.connect(wasi(address)).map(|()| None) } else { Ok(Some(wasi(address))) };
    socket.send(b"probe".to_vec(), to?).await?;
    let (data, from) = socket.receive().await?;
    Ok(format!("{:?} from {}", String::from_utf8_lossy(&data), native(from)))
}

/// Until a datagram says `end`.
async fn echo(address: SocketAddr) -> Answer<&'static str> {
    let socket = UdpSocket::create(family(address))?;
    socket.bind(wasi(address))?;
    say("UDP echo at", socket.get_local_address().map(native));
    loop {
        let (data, from) = socket.receive().await?;
        if data == b"end" {
            return Ok("done");
        }
        socket.send(data, Some(from)).await?;
    }
}

/// Sockets of both kinds until one is refused, and again when they are closed.
fn fill() {
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    let refused = loop {
        match TcpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => streams.push(socket),
            Err(error) => break error,
        }
        match UdpSocket::create(IpAddressFamily::Ipv4) {
            Ok(socket) => datagrams.push(socket),
            Err(error) => break error,
        }
    };
    say("sockets at a time", Ok(streams.len() + datagrams.len()));
    say("one more", Err::<&str, _>(refused));
    drop((streams, datagrams));
    say("one when they are closed", TcpSocket::create(IpAddressFamily::Ipv4).map(|_| "done"));
}

async fn look_up(name: &str) -> Result<String, ip_name_lookup::ErrorCode> {
    let found = resolve_addresses(name.to_owned()).await?.into_iter();
    let mut addresses: Vec<String> = found
        .map(|address| match address {
            IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]).to_string(),
            IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]).to_string(),
        })
        .collect();
    addresses.sort();
    Ok(addresses.join(" "))
}

fn say(question: &str, answer: Answer<impl Display>) {
    say_named(question, answer.map_err(|error| error_name(&error)));
}

fn say_named(question: &str, answer: Result<impl Display, &str>) {
    match answer {
        Ok(answer) => println!("{question}: {answer}"),
        Err(error) => println!("{question}: {error}"),
    }
}

fn error_name(error: &ErrorCode) -> &'static str {
    match error {
        ErrorCode::AccessDenied => "access-denied",
        ErrorCode::NotSupported => "not-supported",
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::OutOfMemory => "out-of-memory",
        ErrorCode::Timeout => "timeout",
        ErrorCode::InvalidState => "invalid-state",
        ErrorCode::AddressNotBindable => "address-not-bindable",
        ErrorCode::AddressInUse => "address-in-use",
        ErrorCode::RemoteUnreachable => "remote-unreachable",
        ErrorCode::ConnectionRefused => "connection-refused",
        ErrorCode::ConnectionBroken => "connection-broken",
        ErrorCode::ConnectionReset => "connection-reset",
        ErrorCode::ConnectionAborted => "connection-aborted",
        ErrorCode::DatagramTooLarge => "datagram-too-large",
        ErrorCode::Other(_) => "other",
    }
}

fn name_error(error: ip_name_lookup::ErrorCode) -> &'static str {
    use ip_name_lookup::ErrorCode;
    match error {
        ErrorCode::AccessDenied => "access-denied",
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::NameUnresolvable => "name-unresolvable",
        ErrorCode::TemporaryResolverFailure => "temporary-resolver-failure",
        ErrorCode::PermanentResolverFailure => "permanent-resolver-failure",
        ErrorCode::Other(_) => "other",
    }
}

fn done(answer: Answer<()>) -> Answer<&'static str> {
    answer.map(|()| "done")
}

fn address(variable: &str) -> Option<SocketAddr> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no address: {text}")))
}

fn family(address: SocketAddr) -> IpAddressFamily {
    if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 }
}

fn wasi(address: SocketAddr) -> IpSocketAddress {
    match address {
        SocketAddr::V4(address) => {
            let [a, b, c, d] = address.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) })
        }
        SocketAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.ip().segments();
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port: address.port(),
                flow_info: address.flowinfo(),
                address: (a, b, c, d, e, f, g, h),
                scope_id: address.scope_id(),
            })
        }
    }
}

fn native(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => ([a, b, c, d], port).into(),
        IpSocketAddress::Ipv6(Ipv6SocketAddress { port, address: (a, b, c, d, e, f, g, h), .. }) => {
            ([a, b, c, d, e, f, g, h], port).into()
        }
    }
}
