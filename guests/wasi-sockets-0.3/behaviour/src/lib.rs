//! The behaviour guest of wasi:sockets 0.3: the protocol is at the top of `guests/behaviour/behaviour.c`, whose
//! twin it is. Each client is a task. The host tells no errors of accepting, so none are counted.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::process;

use wasip3::sockets::types::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamWriter};
use wasip3::{spawn_local, wit_stream};

/// A longer line ends the connection.
const LINE_MAX: usize = 64 << 10;
/// Made at a time, and read while more comes than is asked for.
const CHUNK: usize = 64 << 10;
/// What a connection holds that waits for its client: there may be thousands.
const IDLE_CHUNK: usize = 2 << 10;

/// The numbers that preview 1 has for errors.
const CONNRESET: u16 = 15;
const IO: u16 = 29;
const MFILE: u16 = 33;
const PIPE: u16 = 64;

/// What all connections together have seen.
#[derive(Default)]
struct Seen {
    open: Cell<u32>,
    accepted: Cell<u64>,
    discarded: Cell<u64>,
    errors: Cell<u64>,
    last_error: Cell<u16>,
    /// Sockets that are held for the sake of it.
    held: RefCell<Vec<TcpSocket>>,
}

thread_local! {
    static SEEN: Seen = Seen::default();
}

wasip3::cli::command::export!(Behaviour);

struct Behaviour;

impl wasip3::exports::cli::run::Guest for Behaviour {
    async fn run() -> Result<(), ()> {
        listen().await.map_err(|error| eprintln!("listen: {error:?}"))
    }
}

async fn listen() -> Result<(), ErrorCode> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.set_listen_backlog_size(1024)?;
    socket.bind(IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (0, 0, 0, 0) }))?;
    let mut connections = socket.listen()?;
    println!("listening on fd 0");
    io::stdout().flush().map_err(|_| ErrorCode::Other(None))?;
    while let Some(connection) = connections.next().await {
        spawn_local(serve(connection));
    }
    Ok(())
}

async fn serve(socket: TcpSocket) {
    SEEN.with(|seen| {
        seen.accepted.set(seen.accepted.get() + 1);
        seen.open.set(seen.open.get() + 1);
    });
    let (input, received) = socket.receive();
    let (output, data) = wit_stream::new();
    let sent = socket.send(data);
    let mut connection =
        Connection { input, received: Some(received), output: Some(output), sent: Some(sent), unread: Vec::new(), chunk: IDLE_CHUNK };
    if let Err(End::Failed(error)) = connection.converse().await {
        SEEN.with(|seen| {
            seen.errors.set(seen.errors.get() + 1);
            seen.last_error.set(error);
        });
    }
    drop((connection, socket));
    SEEN.with(|seen| seen.open.set(seen.open.get() - 1));
}

/// Why there is nothing more to say.
enum End {
    /// All was said.
    Over,
    /// One of the streams ended before its time.
    Failed(u16),
}

type Said<T = ()> = Result<T, End>;

type Outcome = FutureReader<Result<(), ErrorCode>>;

struct Connection {
    input: StreamReader<u8>,
    /// None when the client's stream has ended.
    received: Option<Outcome>,
    /// None when ours has.
    output: Option<StreamWriter<u8>>,
    sent: Option<Outcome>,
    /// What came and was not yet used.
    unread: Vec<u8>,
    /// As much as is read next.
    chunk: usize,
}

impl Connection {
    async fn converse(&mut self) -> Said {
        loop {
            let Some(line) = self.line().await? else { return Err(End::Over) };
            let space = line.iter().position(|byte| *byte == b' ');
            let (command, argument) = space.map_or((&line[..], &[][..]), |at| (&line[..at], &line[at + 1..]));
            self.run(command, argument).await?;
        }
    }

    /// The next line; none at the end of the stream, where half a line is none.
    async fn line(&mut self) -> Said<Option<Vec<u8>>> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.unread[looked..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=looked + at).collect();
                line.pop();
                return Ok(Some(line));
            }
            looked = self.unread.len();
            if looked >= LINE_MAX {
                self.say("error line too long").await?;
                return Ok(None);
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Whether anything came; nothing does at the end.
    async fn receive(&mut self) -> Said<bool> {
        if self.received.is_none() {
            return Ok(false);
        }
        let (_, bytes) = self.input.read(Vec::with_capacity(self.chunk)).await;
        self.chunk = if bytes.len() < self.chunk { IDLE_CHUNK } else { CHUNK };
        if bytes.is_empty() {
            return outcome(self.received.take()).await.map(|()| false);
        }
        self.unread.extend(&bytes);
        Ok(true)
    }

    async fn say(&mut self, text: &str) -> Said {
        self.send(format!("{text}\n").into_bytes()).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Said {
        let Some(output) = &mut self.output else { return Err(End::Failed(PIPE)) };
        if output.write_all(bytes).await.is_empty() {
            return Ok(());
        }
        outcome(self.sent.take()).await?;
        Err(End::Failed(PIPE))
    }

    async fn run(&mut self, command: &[u8], argument: &[u8]) -> Said {
        let text = String::from_utf8_lossy(argument).into_owned();
        let size = || text.parse().unwrap_or(0);
        let answer = match command {
            b"echo" => return self.send([argument, b"\n"].concat()).await,
            b"sink" => return self.sink(size()).await,
            b"source" => return self.source(size()).await,
            b"eof" => {
                self.say("waiting").await?;
                self.discard().await?;
                self.say("eof seen").await?;
                return Err(End::Over);
            }
            b"halfclose" => {
                self.say("closing").await?;
                self.output = None;
                self.discard().await?;
                return Err(End::Over);
            }
            b"close" => return Err(End::Over),
            b"count" => SEEN.with(|seen| format!("open {} accepted {}", seen.open.get(), seen.accepted.get())),
            b"discarded" => SEEN.with(|seen| format!("discarded {}", seen.discarded.get())),
            b"errno" => SEEN.with(|seen| format!("errors {} last {}", seen.errors.get(), seen.last_error.get())),
            b"env" => std::env::var(&text).unwrap_or_default(),
            b"fdfill" | b"fdhold" => hold(command),
            b"fdfree" => SEEN.with(|seen| format!("fdfree {}", seen.held.borrow_mut().drain(..).count())),
            b"exit" => process::exit(text.parse().unwrap_or(0)),
            b"trap" => process::abort(),
            b"spin" => loop {
                std::hint::black_box(());
            },
            _ => "error unknown command".to_owned(),
        };
        self.say(&answer).await
    }

    /// All that comes until the client's stream ends.
    async fn discard(&mut self) -> Said {
        loop {
            let length = self.unread.drain(..).count() as u64;
            SEEN.with(|seen| seen.discarded.set(seen.discarded.get() + length));
            if !self.receive().await? {
                return Ok(());
            }
        }
    }

    async fn sink(&mut self, size: u64) -> Said {
        let (mut left, mut hash) = (size, 2_166_136_261_u32);
        while left > 0 {
            if self.unread.is_empty() && !self.receive().await? {
                return Err(End::Over);
            }
            let length = self.unread.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            for byte in self.unread.drain(..length) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
            }
            left -= length as u64;
        }
        self.say(&format!("sunk {size} {hash:08x}")).await
    }

    async fn source(&mut self, size: u64) -> Said {
        let byte = |at: u64| ((at % 251 * 31 + 7) % 251) as u8;
        let mut done = 0;
        while done < size {
            let end = size.min(done + CHUNK as u64);
            self.send((done..end).map(byte).collect()).await?;
            done = end;
        }
        Ok(())
    }
}

/// What became of a stream that has ended.
async fn outcome(outcome: Option<Outcome>) -> Said {
    let Some(outcome) = outcome else { return Ok(()) };
    outcome.await.map_err(|error| {
        End::Failed(match error {
            ErrorCode::ConnectionReset => CONNRESET,
            ErrorCode::ConnectionBroken => PIPE,
            _ => IO,
        })
    })
}

/// Opens sockets until one is refused.
fn hold(command: &[u8]) -> String {
    SEEN.with(|seen| {
        let mut held = seen.held.borrow_mut();
        let before = held.len();
        let refused = loop {
            match TcpSocket::create(IpAddressFamily::Ipv4) {
                Ok(socket) => held.push(socket),
                Err(ErrorCode::Other(Some(_))) => break MFILE,
                Err(_) => break IO,
            }
        };
        let opened = held.len() - before;
        if command == b"fdfill" {
            held.truncate(before);
        }
        format!("{} {opened} errno {refused}", String::from_utf8_lossy(command))
    })
}
