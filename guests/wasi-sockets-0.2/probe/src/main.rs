//! Asks a host of wasi:sockets 0.2 what it does, and prints its answers, one line each, `QUESTION: ANSWER`:
//! nothing to pass or fail. An error is the name that the specification gives it. What is asked, and of
//! whom, is in the environment; without any of it, only what needs nobody else is.
//!
//! | variable | |
//! |---|---|
//! | `TCP=ADDRESS` | connects there, sends `probe` and a newline, prints what comes until the end of the stream |
//! | `UDP=ADDRESS` | sends the datagram `probe` there and prints the answer, from a socket that is not connected and from one that is |
//! | `NAME=NAME` | looks it up |
//! | `LISTEN=ADDRESS` | listens there; sends the one client that it waits for what it sent, and ends the stream |
//! | `UDP_ECHO=ADDRESS` | sends each datagram that comes there back, until one says `end` |
//!
//! They are asked in this order. An ADDRESS is `127.0.0.1:80` or `[::1]:80`.

mod udp;

use std::env;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::{self, Pollable};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// No answer comes later than this.
const PATIENCE_NS: u64 = 2_000_000_000;

type Answer<T> = Result<T, ErrorCode>;

fn main() {
    let network = instance_network();
    tcp_alone(&network);
    udp::alone(&network);
    if let Some(address) = address("TCP") {
        connect(&network, address);
    }
    if let Some(address) = address("UDP") {
        udp::ask(&network, address);
    }
    if let Ok(name) = env::var("NAME") {
        say(&format!("look {name} up"), look_up(&network, &name));
    }
    if let Some(address) = address("LISTEN") {
        say("listen and serve one", serve(&network, address));
    }
    if let Some(address) = address("UDP_ECHO") {
        say("echo datagrams", udp::echo(&network, address));
    }
}

// === TCP ===

fn tcp_alone(network: &Network) {
    let socket = create_tcp_socket(IpAddressFamily::Ipv6);
    say("create an IPv6 socket", socket.map(|_| "done"));
    let socket = match create_tcp_socket(IpAddressFamily::Ipv4) {
        Ok(socket) => socket,
        Err(error) => return say("create a socket", Err::<&str, _>(error)),
    };
    say("create a socket", Ok("done"));
    say("listen unbound", done(socket.start_listen()));
    say("local address unbound", socket.local_address().map(native));
    say("remote address unconnected", socket.remote_address().map(native));
    say("accept before listening", socket.accept().map(|_| "a connection"));
    say("shut down unconnected", done(socket.shutdown(ShutdownType::Both)));
    say("finish what was not started", done(socket.finish_bind()));
    say("set a hop limit of 0", done(socket.set_hop_limit(0)));
    say("set a hop limit of 7", socket.set_hop_limit(7).and_then(|()| socket.hop_limit()));
    say("set a backlog of 0", done(socket.set_listen_backlog_size(0)));
    say("set a receive buffer of 0", done(socket.set_receive_buffer_size(0)));
    say("keep alive", socket.set_keep_alive_enabled(true).and_then(|()| socket.keep_alive_enabled()));
    say("keep alive after 0 ns", done(socket.set_keep_alive_idle_time(0)));
    say("connect to port 0", start_connect(&socket, network, "127.0.0.1:0"));
    say("connect to any address", start_connect(&socket, network, "0.0.0.0:80"));
    say("connect to IPv6 from IPv4", start_connect(&socket, network, "[::1]:80"));
    say("bind to a multicast address", start_bind(&socket, network, "224.0.0.1:0"));
    say("bind to an address of others", start_bind(&socket, network, "192.0.2.1:0"));
}

fn start_connect(socket: &TcpSocket, network: &Network, address: &str) -> Answer<&'static str> {
    done(socket.start_connect(network, wasi(address.parse().expect("an address"))))
}

fn start_bind(socket: &TcpSocket, network: &Network, address: &str) -> Answer<&'static str> {
    socket.start_bind(network, wasi(address.parse().expect("an address")))?;
    done(wait(|| socket.subscribe(), || socket.finish_bind()))
}

fn connect(network: &Network, address: SocketAddr) {
    let socket = match create_tcp_socket(family(address)) {
        Ok(socket) => socket,
        Err(error) => return say("connect", Err::<&str, _>(error)),
    };
    let connected = socket
        .start_connect(network, wasi(address))
        .and_then(|()| wait(|| socket.subscribe(), || socket.finish_connect()));
    let (input, output) = match connected {
        Ok(streams) => streams,
        Err(error) => return say("connect", Err::<&str, _>(error)),
    };
    say("connect", Ok("done"));
    say("remote address", socket.remote_address().map(native));
    say("connect again", done(socket.start_connect(network, wasi(address))));
    say("listen when connected", done(socket.start_listen()));
    say("send", output.blocking_write_and_flush(b"probe\n").map(|()| "done").map_err(|_| ErrorCode::Unknown));
    say("end the stream", done(socket.shutdown(ShutdownType::Send)));
    say("receive", Ok(received(&input)));
    drop((input, output));
}

fn serve(network: &Network, address: SocketAddr) -> Answer<&'static str> {
    let socket = create_tcp_socket(family(address))?;
    socket.start_bind(network, wasi(address))?;
    wait(|| socket.subscribe(), || socket.finish_bind())?;
    socket.start_listen()?;
    wait(|| socket.subscribe(), || socket.finish_listen())?;
    say("listening at", socket.local_address().map(native));
    say("listens", Ok(socket.is_listening()));
    say("bind again", start_bind(&socket, network, "127.0.0.1:0"));
    let (client, input, output) = loop {
        match socket.accept() {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            accepted => break accepted?,
        }
    };
    say("client", client.remote_address().map(|address| native(address).ip()));
    while let Ok(bytes) = input.blocking_read(4096) {
        write(&output, &bytes)?;
    }
    client.shutdown(ShutdownType::Send)?;
    drop((input, output));
    Ok("done")
}

fn write(output: &OutputStream, bytes: &[u8]) -> Answer<()> {
    // It takes no more than that at once.
    bytes.chunks(4096).try_for_each(|part| output.blocking_write_and_flush(part).map_err(|_| ErrorCode::Unknown))
}

/// All that comes until the end of the stream.
fn received(input: &InputStream) -> String {
    let mut text = Vec::new();
    loop {
        match input.blocking_read(4096) {
            Ok(bytes) => text.extend(bytes),
            Err(StreamError::Closed) => return format!("{:?}", String::from_utf8_lossy(&text)),
            Err(StreamError::LastOperationFailed(error)) => return error.to_debug_string(),
        }
    }
}

// === names ===

fn look_up(network: &Network, name: &str) -> Answer<String> {
    let stream = resolve_addresses(network, name)?;
    let mut addresses = Vec::new();
    while let Some(address) = wait(|| stream.subscribe(), || stream.resolve_next_address())? {
        addresses.push(match address {
            IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]).to_string(),
            IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]).to_string(),
        });
    }
    addresses.sort();
    Ok(addresses.join(" "))
}

// === what all of it takes ===

fn say(question: &str, answer: Answer<impl Display>) {
    match answer {
        Ok(answer) => println!("{question}: {answer}"),
        Err(error) => println!("{question}: {}", error.name()),
    }
}

fn done(answer: Answer<()>) -> Answer<&'static str> {
    answer.map(|()| "done")
}

/// Asks until the answer is another than to wait, which it does for a time.
fn wait<T>(subscribe: impl Fn() -> Pollable, mut ask: impl FnMut() -> Answer<T>) -> Answer<T> {
    let end = monotonic_clock::subscribe_duration(PATIENCE_NS);
    loop {
        let answer = ask();
        if !matches!(answer, Err(ErrorCode::WouldBlock)) {
            return answer;
        }
        let ready = subscribe();
        // The first is the time, which is then up.
        if poll::poll(&[&end, &ready])[0] == 0 {
            return Err(ErrorCode::Timeout);
        }
    }
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
