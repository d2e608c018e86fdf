//! One connection: HTTP/1.1 or HTTP/2, its time limits, its end.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alarm::Alarm;
use super::{Site, request};
use crate::net::stream::Stream;

/// Requests of one HTTP/2 connection at a time: what RFC 9113 advises at least (section 6.5.2).
const STREAMS: u32 = 100;

/// Bytes of a message's head, and header lines in it: half and twice what nginx and Apache take.
const HEADERS: usize = 128;

/// What passes on a connection, for its time limits.
pub(super) struct Pulse {
    alarm: Alarm,
    /// Requests that are being answered.
    asked: AtomicU32,
    /// A head has begun.
    begun: AtomicBool,
    /// The peer does not take what is sent.
    stuck: AtomicBool,
    site: Arc<Site>,
}

/// A request is being answered for as long as this is held.
pub(super) struct Asked(Arc<Pulse>);

/// Serves a connection to its end.
pub(super) async fn serve(site: Arc<Site>, stream: Stream, peer: SocketAddr) {
    let alarm = site.alarms.alarm();
    // The first head is awaited like the rest of one: who only connects gets no longer.
    alarm.set(site.limits.header_timeout);
    let pulse = Arc::new(Pulse {
        alarm,
        asked: AtomicU32::new(0),
        begun: AtomicBool::new(true),
        stuck: AtomicBool::new(false),
        site: Arc::clone(&site),
    });
    let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
    let answer = {
        let (site, pulse) = (Arc::clone(&site), Arc::clone(&pulse));
        service_fn(move |request: Request<Incoming>| request::answer(Arc::clone(&site), Asked::new(&pulse), request))
    };
    let builder = builder(&site);
    let mut connection = pin!(builder.serve_connection(io, answer));
    let mut graceful = false;
    let ended = std::future::poll_fn(|context| {
        if pulse.alarm.poll_rung(context).is_ready() {
            return Poll::Ready(None);
        }
        if !graceful && site.drains() {
            graceful = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context).map(Some)
    });
    match ended.await {
        Some(Ok(())) => {}
        // Who it was cannot be told from what it sent.
        Some(Err(error)) => tracing::debug!("the connection of {peer} ended: {error}"),
        None => tracing::debug!("the connection of {peer} was closed: nothing passed for too long"),
    }
}

fn builder(site: &Site) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_headers(HEADERS).max_buf_size(site.limits.header_bytes.max(8192));
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(site.limits.header_bytes).unwrap_or(u32::MAX));
    builder
}

impl Asked {
    fn new(pulse: &Arc<Pulse>) -> Self {
        if pulse.asked.fetch_add(1, Ordering::Relaxed) == 0 {
            pulse.alarm.unset();
        }
        Self(Arc::clone(pulse))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.0.asked.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.begun.store(false, Ordering::Relaxed);
            self.0.alarm.set(self.0.site.limits.idle_timeout);
        }
    }
}

impl Pulse {
    /// Bytes of the peer have come.
    fn received(&self) {
        if self.asked.load(Ordering::Relaxed) == 0 && !self.begun.swap(true, Ordering::Relaxed) {
            self.alarm.set(self.site.limits.header_timeout);
        }
    }

    /// The peer has taken bytes, or does not.
    fn sent(&self, taken: bool) {
        if taken {
            if self.stuck.load(Ordering::Relaxed) {
                self.stuck.store(false, Ordering::Relaxed);
                match self.asked.load(Ordering::Relaxed) {
                    0 => self.alarm.set(self.site.limits.idle_timeout),
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
    stream: Stream,
    pulse: Arc<Pulse>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.pulse.received();
        }
        polled
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
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
