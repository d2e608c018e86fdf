//! A client of a behaviour guest, on any network. Every wait has an end.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyport::simulated::Connection;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::bytes::{assert_same, pattern};

/// How long anything may take before it counts as stuck: long, for machines with much else to do.
const DEADLINE: Duration = Duration::from_secs(30);

/// What was being done when a connection failed, or the time was over.
#[derive(Debug)]
pub(crate) struct Failure {
    doing: String,
    error: io::Error,
}

pub(crate) type Tested<T = ()> = Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "while {}: {}", self.doing, self.error)
    }
}

impl Failure {
    /// Whether nothing came at all, which no network brings about.
    pub(crate) fn is_stuck(&self) -> bool {
        self.error.kind() == io::ErrorKind::TimedOut
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.error.kind(), failure.to_string())
    }
}

/// Does something within the deadline.
pub(crate) async fn within<T>(doing: impl Into<String>, action: impl Future<Output = io::Result<T>>) -> Tested<T> {
    let outcome = match tokio::time::timeout(DEADLINE, action).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came of it in {DEADLINE:?}"))),
    };
    outcome.map_err(|error| Failure { doing: doing.into(), error })
}

/// One connection to a guest. Dropping it closes it.
pub(crate) struct Client {
    stream: BufReader<Stream>,
}

/// What `count` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) open: u32,
    pub(crate) accepted: u64,
}

/// What `errno` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errors {
    pub(crate) count: u64,
    pub(crate) last: u16,
}

impl Client {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a command and gives the line that answers it.
    pub(crate) async fn ask(&mut self, command: &str) -> Tested<String> {
        self.send(format!("{command}\n")).await?;
        self.line().await
    }

    pub(crate) async fn count(&mut self) -> Tested<Count> {
        let answer = self.ask("count").await?;
        let [open, accepted] = numbers(&answer, ["open", "accepted"]);
        Ok(Count { open: u32::try_from(open).expect("less than the accepted ones"), accepted })
    }

    pub(crate) async fn errors(&mut self) -> Tested<Errors> {
        let answer = self.ask("errno").await?;
        let [count, last] = numbers(&answer, ["errors", "last"]);
        Ok(Errors { count, last: u16::try_from(last).expect("an errno") })
    }

    /// Asks for bytes, and checks those that come.
    pub(crate) async fn source(&mut self, length: usize) -> Tested {
        self.send(format!("source {length}\n")).await?;
        assert_same(&self.take(length).await?, &pattern(length));
        Ok(())
    }

    /// Has the guest sum up these bytes.
    pub(crate) async fn sink(&mut self, bytes: &[u8]) -> Tested<String> {
        self.send(format!("sink {}\n", bytes.len())).await?;
        self.send(bytes).await?;
        self.line().await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Tested {
        let bytes = bytes.as_ref();
        within(format!("sending {}", shortened(bytes)), self.stream.write_all(bytes)).await
    }

    /// The next line, without its end.
    pub(crate) async fn line(&mut self) -> Tested<String> {
        let mut line = Vec::new();
        within("waiting for a line", async {
            self.stream.read_until(b'\n', &mut line).await?;
            match line.pop() {
                Some(b'\n') => {}
                Some(last) => line.push(last),
                None => {}
            }
            String::from_utf8(line).map_err(io::Error::other)
        })
        .await
    }

    /// So many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Tested<Vec<u8>> {
        let mut bytes = vec![0; length];
        within(format!("waiting for {length} bytes"), self.stream.read_exact(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Sends one thing while it receives another, as one must where neither fits into the buffers.
    pub(crate) async fn exchange(&mut self, request: &[u8], length: usize) -> Tested<Vec<u8>> {
        let mut answer = vec![0; length];
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        within(format!("sending {} bytes and receiving {length}", request.len()), async {
            tokio::try_join!(writing.write_all(request), reading.read_exact(&mut answer))
        })
        .await?;
        Ok(answer)
    }

    /// Ends this side's stream.
    pub(crate) async fn finish(&mut self) -> Tested {
        within("shutting down", self.stream.shutdown()).await
    }

    /// All that comes until the guest's side ends.
    pub(crate) async fn rest(&mut self) -> Tested<Vec<u8>> {
        let mut bytes = Vec::new();
        within("waiting for the end", self.stream.read_to_end(&mut bytes)).await?;
        Ok(bytes)
    }

    /// The guest's side ends, and nothing comes before that.
    pub(crate) async fn end(&mut self) -> Tested {
        assert_same(&self.rest().await?, b"");
        Ok(())
    }

    /// Goes away without a word to the guest but that the connection is no more.
    pub(crate) fn reset(self) {
        match self.stream.into_inner() {
            Stream::Os(stream) => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("every socket has it");
            }
            // It ends: these have no reset.
            Stream::Unix(stream) => drop(stream),
            Stream::Simulated(connection) => connection.reset(),
            Stream::Tls(stream) => {
                let (stream, _) = stream.into_inner();
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("every socket has it");
            }
        }
    }
}

/// A connection on any network.
pub(crate) enum Stream {
    Os(TcpStream),
    Unix(UnixStream),
    Simulated(Connection),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Forwards to the connection that this stream is.
macro_rules! on_any {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Os(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Simulated(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_any!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_any!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_any!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_any!(self, stream => stream.poll_shutdown(context))
    }
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        Self::new(Stream::Os(stream))
    }
}

impl From<UnixStream> for Client {
    fn from(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }
}

/// The numbers of an answer, each after its name.
fn numbers(answer: &str, names: [&str; 2]) -> [u64; 2] {
    let words: Vec<&str> = answer.split(' ').collect();
    match words[..] {
        [first, one, second, two] if [first, second] == names => {
            [one, two].map(|number| number.parse().expect("the guest prints numbers"))
        }
        _ => panic!("`{answer}` is not `{} N {} N`", names[0], names[1]),
    }
}

fn shortened(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() < 40 => format!("{text:?}"),
        _ => format!("{} bytes", bytes.len()),
    }
}
