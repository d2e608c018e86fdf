//! The behaviour guest of wasi:sockets 0.2: the protocol is at the top of `guests/behaviour/behaviour.c`, whose
//! twin it is. It serves all its clients at once, and sleeps in `wasi:io/poll` and nowhere else.

mod connection;

use std::cell::Cell;
use std::io::{self, Write};

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::{self, Pollable};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use connection::Connection;

/// Connections that are accepted before others get their turn.
const ACCEPT_MAX: usize = 64;

/// How long the listener is left alone after accept has failed, say for want of sockets: it stays ready, so that
/// to look at it meanwhile would be a busy loop.
const ACCEPT_PAUSE_NS: u64 = 50_000_000;

/// The numbers that preview 1 has for errors.
pub const CONNABORTED: u16 = 13;
pub const CONNREFUSED: u16 = 14;
pub const CONNRESET: u16 = 15;
pub const IO: u16 = 29;
pub const MFILE: u16 = 33;
pub const PIPE: u16 = 64;

/// What all connections together have seen.
#[derive(Default)]
pub struct Seen {
    pub open: Cell<u32>,
    pub accepted: Cell<u64>,
    pub discarded: Cell<u64>,
    pub errors: Cell<u64>,
    pub last_error: Cell<u16>,
}

impl Seen {
    pub fn failed(&self, error: u16) {
        add(&self.errors, 1);
        self.last_error.set(error);
    }
}

pub fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

/// What there is to know beside a connection.
#[derive(Default)]
pub struct Server {
    pub seen: Seen,
    /// Sockets that are held for the sake of it.
    pub held: Vec<TcpSocket>,
}

fn main() {
    let listener = listen().unwrap_or_else(|error| fail(error.name()));
    println!("listening on fd 0");
    io::stdout().flush().unwrap_or_else(|error| fail(&error.to_string()));
    serve(&listener);
}

fn fail(why: &str) -> ! {
    eprintln!("listen: {why}");
    std::process::exit(1)
}

fn listen() -> Result<TcpSocket, ErrorCode> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) });
    socket.set_listen_backlog_size(1024)?;
    socket.start_bind(&instance_network(), address)?;
    wait(&socket, TcpSocket::finish_bind)?;
    socket.start_listen()?;
    wait(&socket, TcpSocket::finish_listen)?;
    Ok(socket)
}

fn wait<T>(socket: &TcpSocket, finish: impl Fn(&TcpSocket) -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match finish(socket) {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            outcome => return outcome,
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Pause,
    Input(usize),
    Output(usize),
}

fn serve(listener: &TcpSocket) -> ! {
    let mut server = Server::default();
    let mut connections: Vec<Connection> = Vec::new();
    let arrival = listener.subscribe();
    let mut pause = None;
    loop {
        connections.retain(|connection| !connection.closed);
        let (sources, waited) = sources(&connections, &arrival, pause.as_ref());
        let ready = poll::poll(&waited);
        for source in ready.into_iter().map(|at| sources[at as usize]) {
            match source {
                Source::Pause => pause = None,
                Source::Listener => {
                    if let Err(error) = accept_all(listener, &server, &mut connections) {
                        server.seen.failed(error);
                        pause = Some(monotonic_clock::subscribe_duration(ACCEPT_PAUSE_NS));
                    }
                }
                Source::Input(at) => connections[at].receive_and_serve(&mut server),
                Source::Output(at) => connections[at].serve(&mut server),
            }
        }
    }
}

fn sources<'c>(
    connections: &'c [Connection], arrival: &'c Pollable, pause: Option<&'c Pollable>,
) -> (Vec<Source>, Vec<&'c Pollable>) {
    let (mut sources, mut waited) = (Vec::new(), Vec::new());
    let mut add = |source, pollable| {
        sources.push(source);
        waited.push(pollable);
    };
    for (at, connection) in connections.iter().enumerate() {
        if connection.wants_input() {
            add(Source::Input(at), &connection.readable);
        }
        if connection.wants_room() {
            add(Source::Output(at), &connection.writable);
        }
    }
    match pause {
        Some(pause) => add(Source::Pause, pause),
        None => add(Source::Listener, arrival),
    }
    (sources, waited)
}

fn accept_all(listener: &TcpSocket, server: &Server, connections: &mut Vec<Connection>) -> Result<(), u16> {
    for _ in 0..ACCEPT_MAX {
        match listener.accept() {
            Ok((socket, input, output)) => connections.push(Connection::new(&server.seen, socket, input, output)),
            Err(ErrorCode::WouldBlock) => return Ok(()),
            Err(error) => return Err(number(error)),
        }
    }
    Ok(())
}

pub fn number(error: ErrorCode) -> u16 {
    match error {
        ErrorCode::NewSocketLimit => MFILE,
        ErrorCode::ConnectionReset => CONNRESET,
        ErrorCode::ConnectionRefused => CONNREFUSED,
        ErrorCode::ConnectionAborted => CONNABORTED,
        _ => IO,
    }
}
