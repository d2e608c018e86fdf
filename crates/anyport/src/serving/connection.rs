//! One connection: HTTP/1.1 or HTTP/2, its time limits, its end.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

use super::alarm::Alarm;
use super::wire::Wire;
use super::{Site, admission};
use crate::ingress::{Client, Connection};
use crate::net::queue::Arrival;
use crate::net::stream::Stream;

/// Requests of one HTTP/2 connection at a time: what RFC 9113 advises at least (section 6.5.2).
const STREAMS: u32 = 100;

/// How long a drain leaves a connection open that owes nothing, as for guests that read bytes.
const PARTING: Duration = Duration::from_secs(1);

/// How long a connection may be idle when nearly as many are open as may be.
const CROWDED: Duration = Duration::from_secs(1);

/// How long a client is listened to that still sends when its answer is complete, and nobody reads that: were the
/// connection closed, the kernel would tell it so by a reset, and it would lose the answer. As nginx has it.
/// <https://nginx.org/en/docs/http/ngx_http_core_module.html#lingering_timeout>
const LINGER: Duration = Duration::from_secs(5);

/// What passes on a connection, for its time limits.
pub(super) struct Pulse {
    alarm: Alarm,
    /// Requests that are being answered.
    asked: AtomicU32,
    /// What there is of the next head.
    head: AtomicU8,
    /// The peer does not take what is sent.
    stuck: AtomicBool,
    /// It speaks HTTP/2.
    is_h2: AtomicBool,
    /// The head says in two ways how long the body is.
    is_ambiguous: AtomicBool,
    /// Counts its requests.
    requests: AtomicU32,
    /// Which of them has a body that was not read to its end, if the last one has.
    unread: AtomicU32,
    /// Its answer is complete, and it may still send; or that has lasted for long enough.
    linger: AtomicU8,
    /// It was told that the server is about to leave.
    leaves: AtomicBool,
    /// Answers of HTTP/2 under way, with since when the client owes to take what there is of them.
    owed: Mutex<Slab<Option<Instant>>>,
    /// Set while there is one.
    owes: Alarm,
    client: Client,
    site: Arc<Site>,
}

/// A request is being answered for as long as this is held.
pub(super) struct Asked(Arc<Pulse>);

/// The body of a request of HTTP/1.1, for whoever reads it.
pub(super) struct Unread {
    pulse: Arc<Pulse>,
    request: u32,
}

/// What [`Pulse::head`] is: not asked for yet, awaited since the connection was made, begun.
const NO_HEAD: u8 = 0;
const AWAITED: u8 = 1;
const BEGUN: u8 = 2;

/// What [`Pulse::linger`] is: nothing yet, at it, over.
const LINGERS: u8 = 1;
const HAS_LINGERED: u8 = 2;

/// An answer of HTTP/2 is under way for as long as this is held.
pub(super) struct Taking {
    pulse: Arc<Pulse>,
    place: usize,
}

/// Lets a connection in, and serves it to its end.
pub(super) async fn serve(site: Arc<Site>, arrival: Arrival) {
    let Arrival { stream, peer, permit, is_raw } = arrival;
    match &site.inbound.ingress {
        Some(ingress) if is_raw => match ingress.enter(stream, peer, Some(permit)).await {
            Ok((connection, client)) => exchange(&site, connection, client).await,
            Err(error) => tracing::debug!("the connection of {peer} was refused: {error}"),
        },
        _ => {
            let connection = Connection::Plain(Stream::new(stream, Some(permit)));
            exchange(&site, connection, Client { peer, is_secure: false }).await;
        }
    }
}

/// Requests and answers, until there is no other.
async fn exchange(site: &Arc<Site>, stream: Connection, client: Client) {
    let pulse = Pulse::new(site, client);
    let io = TokioIo::new(Watched { stream, wire: Wire::new(), within_head: None, pulse: Arc::clone(&pulse) });
    let answer = {
        let (site, pulse) = (Arc::clone(site), Arc::clone(&pulse));
        service_fn(move |request: Request<Incoming>| admission::admit(Arc::clone(&site), Asked::new(&pulse), request))
    };
    let builder = builder(site);
    let mut connection = pin!(builder.serve_connection(io, answer));
    let mut graceful = false;
    let ended = std::future::poll_fn(|context| {
        while pulse.alarm.poll_rung(context).is_ready() {
            if pulse.ends_linger() {
                break;
            }
            if graceful || !pulse.is_h2.load(Ordering::Relaxed) {
                return Poll::Ready(None);
            }
            // So that it knows which of its requests were not seen.
            graceful = true;
            connection.as_mut().graceful_shutdown();
            pulse.leaves.store(true, Ordering::Relaxed);
            pulse.alarm.set(PARTING);
        }
        if pulse.poll_untaken(context).is_ready() {
            return Poll::Ready(None);
        }
        if !graceful && site.drains() {
            graceful = true;
            connection.as_mut().graceful_shutdown();
            pulse.part();
        }
        connection.as_mut().poll(context).map(Some)
    });
    let peer = client.peer;
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::debug!("the connection of {peer} ended: {error}");
            if let Some(error) = error.downcast_ref() {
                admission::note_refused(site, client, error);
            }
        }
        None => {
            tracing::debug!("the connection of {peer} was closed: nothing passed for too long");
            if pulse.has_begun() {
                admission::note_unread(site, client, StatusCode::REQUEST_TIMEOUT);
            }
        }
    }
}

/// The header lines that hyper takes by itself.
const HYPERS_LINES: usize = 100;

/// The bytes of a head that hyper takes at least.
pub(super) const HYPERS_BYTES: usize = 8192;

/// A client that closes its side has left, as nginx and others see it: its instance is free at once.
fn builder(site: &Site) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let mut http1 = builder.http1();
    http1.max_buf_size(site.limits.header_bytes.max(HYPERS_BYTES));
    if site.limits.header_lines != HYPERS_LINES {
        // Another number takes an allocation for each head.
        http1.max_headers(site.limits.header_lines);
    }
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(site.limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

impl Asked {
    fn new(pulse: &Arc<Pulse>) -> Self {
        pulse.requests.fetch_add(1, Ordering::Relaxed);
        pulse.site.told().begun.fetch_add(1, Ordering::Relaxed);
        if pulse.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            pulse.alarm.unset();
        }
        Self(Arc::clone(pulse))
    }

    /// Whose request it is.
    pub(super) fn client(&self) -> Client {
        self.0.client
    }

    /// The scheme that the client has used.
    pub(super) fn scheme(&self) -> Scheme {
        if self.0.client.is_secure { Scheme::Https } else { Scheme::Http }
    }

    /// Whether its head says in two ways how long the body is, of which hyper has left one away.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.0.is_ambiguous.load(Ordering::Relaxed)
    }

    /// Its body, which is yet to be read.
    pub(super) fn unread(&self) -> Unread {
        let request = self.0.requests.load(Ordering::Relaxed);
        self.0.unread.store(request, Ordering::Relaxed);
        Unread { pulse: Arc::clone(&self.0), request }
    }

    /// Its answer, of which nothing is owed yet.
    pub(super) fn taking(&self) -> Taking {
        let place = self.0.owed().insert(None);
        Taking { pulse: Arc::clone(&self.0), place }
    }
}

impl Unread {
    /// All of it was read.
    pub(super) fn end(&self) {
        // Unless the body is another's by now.
        let _ = self.pulse.unread.compare_exchange(self.request, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Taking {
    /// Notes whether the client is to take something of the answer, from now on.
    pub(super) fn is_owed(&self, is_owed: bool) {
        self.pulse.owed()[self.place] = is_owed.then(Instant::now);
        if is_owed && !self.pulse.owes.is_set() {
            self.pulse.owes.set(self.pulse.site.limits.timeout);
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.pulse.owed().remove(self.place);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.site.told().ended.fetch_add(1, Ordering::Release);
        if self.0.asked.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.head.store(NO_HEAD, Ordering::Relaxed);
            self.0.alarm.set(self.0.idle());
        }
    }
}

impl Pulse {
    fn new(site: &Arc<Site>, client: Client) -> Arc<Self> {
        let alarm = site.alarms.alarm();
        // The first head is awaited like the rest of one: who only connects gets no longer.
        alarm.set(site.limits.header_timeout);
        Arc::new(Self {
            alarm,
            asked: AtomicU32::new(0),
            head: AtomicU8::new(AWAITED),
            stuck: AtomicBool::new(false),
            is_h2: AtomicBool::new(false),
            is_ambiguous: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            unread: AtomicU32::new(0),
            linger: AtomicU8::new(0),
            leaves: AtomicBool::new(false),
            owed: Mutex::default(),
            owes: site.alarms.alarm(),
            client,
            site: Arc::clone(site),
        })
    }

    /// Ready when the client has left an answer untaken for too long.
    fn poll_untaken(&self, context: &mut Context<'_>) -> Poll<()> {
        while self.owes.poll_rung(context).is_ready() {
            let timeout = self.site.limits.timeout;
            let Some(since) = self.owed().iter().filter_map(|(_, since)| *since).min() else { continue };
            match timeout.checked_sub(since.elapsed()) {
                None | Some(Duration::ZERO) => return Poll::Ready(()),
                Some(left) => self.owes.set(left),
            }
        }
        Poll::Pending
    }

    fn owed(&self) -> MutexGuard<'_, Slab<Option<Instant>>> {
        self.owed.lock().expect("no panic while held")
    }

    /// The server drains: a client that is owed nothing has a little time. One of HTTP/2 is asked by a PING what it
    /// has sent so far, and may never answer.
    fn part(&self) {
        if self.asked.load(Ordering::Relaxed) == 0 {
            self.alarm.set(PARTING);
            // Where hyper has thrown the rest of a body away, and waits for the next request.
            self.unread.store(0, Ordering::Relaxed);
        }
    }

    /// How long it may be idle, from now on. Where few others have room, not for long.
    fn idle(&self) -> Duration {
        let limit = self.site.limits.idle_timeout;
        self.parting(if self.site.is_nearly_full() { limit.min(CROWDED) } else { limit })
    }

    /// This time limit, or a shorter one for who was told to go.
    fn parting(&self, limit: Duration) -> Duration {
        if self.site.drains() || self.leaves.load(Ordering::Relaxed) { limit.min(PARTING) } else { limit }
    }

    /// The answer is complete. Whether its client may still send: a body, or a head that was refused.
    fn may_be_sending(&self) -> bool {
        let unread = self.unread.load(Ordering::Relaxed);
        let sends_body = unread > 0 && unread == self.requests.load(Ordering::Relaxed);
        self.has_begun() || (sends_body && !self.is_h2.load(Ordering::Relaxed))
    }

    /// Whether a head of HTTP/1.1 has begun, and is not complete.
    fn has_begun(&self) -> bool {
        let is_idle = self.asked.load(Ordering::Relaxed) == 0 && !self.is_h2.load(Ordering::Relaxed);
        is_idle && self.head.load(Ordering::Relaxed) == BEGUN
    }

    /// Has a client that still sends listened to no longer; false if there is none.
    fn ends_linger(&self) -> bool {
        let swapped = self.linger.compare_exchange(LINGERS, HAS_LINGERED, Ordering::Relaxed, Ordering::Relaxed);
        swapped.is_ok()
    }

    /// Bytes of the peer have come that are no frames of HTTP/2. Whether they are the first of a head.
    fn received(&self) -> bool {
        if self.asked.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let before = self.head.swap(BEGUN, Ordering::Relaxed);
        if before == NO_HEAD {
            self.alarm.set(self.parting(self.site.limits.header_timeout));
        }
        before != BEGUN
    }

    /// The peer speaks HTTP/2. It may ask later, as browsers do that connect ahead.
    fn is_of_h2(&self) {
        self.is_h2.store(true, Ordering::Relaxed);
        self.head.store(NO_HEAD, Ordering::Relaxed);
        self.alarm.set(self.idle());
    }

    /// The peer has taken bytes, or does not.
    fn sent(&self, taken: bool) {
        if taken {
            if self.stuck.load(Ordering::Relaxed) {
                self.stuck.store(false, Ordering::Relaxed);
                match self.asked.load(Ordering::Relaxed) {
                    0 => self.alarm.set(self.idle()),
                    _ => self.alarm.unset(),
                }
            }
        } else if !self.stuck.swap(true, Ordering::Relaxed) {
            self.alarm.set(self.site.limits.timeout);
        }
    }
}

/// A stream whose traffic is noted.
struct Watched {
    stream: Connection,
    wire: Wire,
    /// Set while a head of HTTP/2 has begun, and is not complete: nothing else may come then.
    within_head: Option<Alarm>,
    pulse: Arc<Pulse>,
}

/// What is thrown away at once of what a client sends, before others come first: so many times so many bytes.
const LINGER_READS: usize = 16;
const LINGER_BYTES: usize = 16 << 10;

impl Watched {
    /// Notes what has come.
    fn received(&mut self, bytes: &[u8]) {
        let is_h2 = matches!(self.wire, Wire::Http2(_));
        let is_new = !is_h2 && self.pulse.received();
        self.wire.read(bytes, is_new);
        match &self.wire {
            Wire::Unknown(_) => {}
            Wire::Http1(head) => self.pulse.is_ambiguous.store(head.is_ambiguous(), Ordering::Relaxed),
            Wire::Http2(frames) => {
                if !is_h2 {
                    self.pulse.is_of_h2();
                }
                if !frames.is_within_head() {
                    self.within_head = None;
                } else if self.within_head.is_none() {
                    let alarm = self.pulse.site.alarms.alarm();
                    alarm.set(self.pulse.site.limits.header_timeout);
                    self.within_head = Some(alarm);
                }
            }
        }
    }

    /// Ready when the client has sent all that it had, or was listened to for long enough.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pulse.linger.load(Ordering::Relaxed) == HAS_LINGERED {
            return Poll::Ready(());
        }
        let mut bytes = [MaybeUninit::uninit(); LINGER_BYTES];
        for _ in 0..LINGER_READS {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match buffer.filled().get(before..) {
            Some(bytes) if polled.is_ready() && !bytes.is_empty() => self.received(bytes),
            _ => {}
        }
        match &self.within_head {
            Some(alarm) if polled.is_pending() => {
                alarm.poll_rung(context).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "a head does not end")))
            }
            _ => polled,
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pulse.sent(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.pulse.sent(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS holds bytes back that the peer does not take.
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.pulse.sent(polled.is_ready());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.pulse.linger.load(Ordering::Relaxed) == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            if !self.pulse.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
            self.pulse.linger.store(LINGERS, Ordering::Relaxed);
            self.pulse.alarm.set(self.pulse.parting(LINGER));
        }
        self.poll_linger(context).map(Ok)
    }
}
