//! A guest's own HTTP requests: what `wasi:http` sends goes out by here.
//!
//! Asks the policy first; owns the connections, which the instances of one worker share, and the time that a
//! server has to answer.

mod answer;
mod connect;
mod fault;
mod trust;
mod upload;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::{HeaderName, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode as ErrorCode02;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode as ErrorCode03;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

use self::answer::Answer;
use self::connect::{Connector, Reach, Served};
use self::upload::{Progress, Source, Upload};
use crate::error::printable;
use crate::limits::{ANSWER_FIELDS, KEPT, KEPT_FOR, KEPT_PER_HOST, Limits, REQUEST_CONNECT_TIMEOUT, REQUEST_SILENCE};
use crate::net::Network;
use crate::net::resolve::Resolver;
use crate::policy::Gate;
use crate::spelling::option;

pub(crate) use self::trust::Trust;

/// A guest's way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    way: Arc<Way>,
    /// How many of its requests are under way; made with the first.
    under_way: Option<Arc<AtomicUsize>>,
}

/// The way out of all guests of a worker, with the connections that are kept for the next requests.
#[derive(Debug)]
pub(crate) struct Way {
    reach: Arc<Reach>,
    /// Made at the first request: most guests send none.
    client: Mutex<Option<Client>>,
    under_way: Arc<AtomicUsize>,
    limits: Arc<Limits>,
    told: AtomicBool,
}

type Client = legacy::Client<Connector, Upload>;

/// Why there is no answer.
struct Failed {
    error: Error,
    /// The connection had answered others before.
    was_kept: bool,
}

impl Failed {
    fn at_once(error: Error) -> Self {
        Self { error, was_kept: false }
    }
}

/// Tells of what goes wrong with a body that is under way.
type Transfer = Box<dyn Future<Output = Result<()>> + Send>;

type Sent = Result<(Response<WasiBody>, Transfer)>;

impl Outgoing {
    /// The same for another thread of the guest.
    pub(crate) fn sibling(&self) -> Self {
        Self { way: Arc::clone(&self.way), under_way: None }
    }

    pub(crate) fn new(way: Arc<Way>) -> Self {
        Self { way, under_way: None }
    }

    /// Counts a request, if the guest may have one more.
    fn begin(&mut self) -> Result<UnderWay> {
        let own = self.under_way.get_or_insert_default();
        if own.load(Ordering::Relaxed) >= self.way.limits.descriptors {
            self.way.tell_limit();
            return Err(Error::ConnectionLimitReached);
        }
        Ok(UnderWay::new([own, &self.way.under_way]))
    }
}

/// What has gone wrong with a body, in the codes of either version.
macro_rules! body_error {
    ($error:expr, $codes:ident) => {
        match fault::of($error, Error::ConnectionTerminated) {
            Error::HttpRequestBodySize(size) => $codes::HttpRequestBodySize(size),
            Error::ConnectionTerminated => $codes::ConnectionTerminated,
            Error::ConnectionReadTimeout => $codes::ConnectionReadTimeout,
            _ => $codes::HttpProtocolError,
        }
    };
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self, request: Request<WasiBody>, options: Option<RequestOptions>, _transfer: Transfer,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let (way, under_way) = (Arc::clone(&self.way), self.begin());
        Box::new(async move {
            let answer = way.send(request, options.unwrap_or_default(), under_way?).await?;
            // What there is to tell of the transfer, the bodies tell.
            Ok((answer, Box::new(async { Ok(()) }) as Transfer))
        })
    }

    /// Asked of each field of each request that comes in: the default makes a list and a closure for it.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN.contains(name)
    }

    /// It is the connection's matter: HTTP/2 has none.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode02 {
        body_error!(error, ErrorCode02)
    }

    fn p3_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode03 {
        body_error!(error, ErrorCode03)
    }
}

impl Way {
    pub(crate) fn new(
        gate: &Arc<Gate>, network: &Network, resolver: &Arc<Resolver>, trust: &Arc<Trust>, limits: &Arc<Limits>,
    ) -> Arc<Self> {
        Arc::new(Self {
            reach: Reach::new(gate, network, resolver, trust, limits),
            client: Mutex::default(),
            under_way: Arc::default(),
            limits: Arc::clone(limits),
            told: AtomicBool::new(false),
        })
    }

    /// Sends a request and waits for the head of its answer.
    async fn send(
        &self, request: Request<WasiBody>, options: RequestOptions, under_way: UnderWay,
    ) -> Result<Response<WasiBody>> {
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let Destination { host, port } = Destination::of(request.uri())?;
        self.reach.gate.request(&host, port).map_err(|_| match host.parse::<std::net::IpAddr>() {
            Ok(_) => Error::DestinationIpProhibited,
            Err(_) => Error::HttpRequestDenied,
        })?;
        let silence = options.between_bytes_timeout.unwrap_or(REQUEST_SILENCE);
        let answer = self.head(request, options).await.inspect_err(|error| {
            tracing::debug!("a request to {}:{port} has failed: {error}", printable(&host));
        })?;
        Ok(answer.map(|body| Answer::new(body, silence, under_way).boxed_unsync()))
    }

    /// The answer to a request. One that changes nothing (RFC 9110, 9.2.1) is sent once more where a connection that
    /// was kept ends before it is answered: the server may have closed it at that moment, and nobody is at fault (RFC
    /// 9112, 9.3.1). Both together have the time of one.
    async fn head(&self, request: Request<WasiBody>, mut options: RequestOptions) -> Result<Response<Incoming>> {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let source = Source::new(body);
        let again = parts.method.is_safe().then(|| (parts.clone(), source.clone()));
        let first = self.attempt(Request::from_parts(parts, source), options).await;
        let outcome = match (first, again) {
            (Err(Failed { error: Error::ConnectionTerminated, was_kept: true }), Some((parts, source)))
                if source.is_whole() =>
            {
                let first_byte = options.first_byte_timeout.unwrap_or(REQUEST_SILENCE);
                options.first_byte_timeout = Some(first_byte.saturating_sub(began.elapsed()));
                self.attempt(Request::from_parts(parts, source), options).await
            }
            (first, _) => first,
        };
        outcome.map_err(|failed| failed.error)
    }

    async fn attempt(
        &self, request: Request<Source>, options: RequestOptions,
    ) -> std::result::Result<Response<Incoming>, Failed> {
        let progress = Progress::new();
        let mut request = request.map(|source| Upload::new(source, &progress));
        let mut captured = capture_connection(&mut request);
        let mut answer = pin!(self.client().request(request));
        let connecting = options.connect_timeout.unwrap_or(REQUEST_CONNECT_TIMEOUT);
        let connected = tokio::time::timeout(connecting, async {
            captured.wait_for_connection_metadata().await;
        });
        let ended = tokio::select! {
            biased;
            ended = &mut answer => ended,
            in_time = connected => {
                in_time.map_err(|_| Failed::at_once(Error::ConnectionTimeout))?;
                let first_byte = options.first_byte_timeout.unwrap_or(REQUEST_SILENCE);
                tokio::select! {
                    biased;
                    ended = answer => ended,
                    () = progress.stalled(first_byte) => return Err(Failed::at_once(Error::HttpResponseTimeout)),
                }
            }
        };
        let served = Served::of(&captured);
        match ended {
            Ok(answer) => {
                served.inspect(Served::set);
                Ok(answer)
            }
            Err(cause) => {
                let error = fault::of(&cause, Error::ConnectionTerminated);
                let was_kept = served.is_some_and(|served| served.get()) && !fault::is_answer(&cause);
                Err(Failed { error, was_kept })
            }
        }
    }

    /// The client with its connections; a new one where too many are kept, which the old one then closes.
    fn client(&self) -> Client {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.reach.open().saturating_sub(self.under_way.load(Ordering::Relaxed));
        if kept > KEPT {
            *client = None;
        }
        client.get_or_insert_with(|| self.make_client()).clone()
    }

    fn make_client(&self) -> Client {
        let head = self.limits.header_bytes.max(HEAD_LEAST);
        legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT_PER_HOST)
            .http1_max_headers(ANSWER_FIELDS)
            .http1_max_buf_size(head)
            .http2_max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
            .build(Connector(Arc::clone(&self.reach)))
    }

    fn tell_limit(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let most = self.limits.descriptors;
            tracing::warn!(
                "the guest may not have more than {most} requests under way; to allow more, add `{}`",
                option("limit", format!("descriptors={}", most.saturating_mul(2).max(1)))
            );
        }
    }
}

/// What wasmtime-wasi-http forbids a guest, made once.
static FORBIDDEN: [HeaderName; 9] = DEFAULT_FORBIDDEN_HEADERS;

/// The least that hyper takes for its buffer.
const HEAD_LEAST: usize = 8192;

/// A request is under way for as long as this is held.
#[derive(Debug)]
struct UnderWay([Arc<AtomicUsize>; 2]);

impl UnderWay {
    fn new(counts: [&Arc<AtomicUsize>; 2]) -> Self {
        Self(counts.map(|count| {
            count.fetch_add(1, Ordering::Relaxed);
            Arc::clone(count)
        }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Where a request goes: a name or a number, without brackets.
struct Destination {
    host: String,
    port: u16,
}

impl Destination {
    /// What a URI says of it, and says to hyper too: no user, and nothing that no host has in its name.
    fn of(uri: &Uri) -> Result<Self> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = authority.host();
        let port = match (authority.as_str().strip_prefix(host), uri.scheme_str()) {
            (Some(""), Some("https")) => 443,
            (Some(""), _) => 80,
            (Some(_), _) => authority.port_u16().filter(|port| *port > 0).ok_or(Error::HttpRequestUriInvalid)?,
            (None, _) => return Err(Error::HttpRequestUriInvalid),
        };
        let number = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_one = match number {
            Some(number) => number.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
        };
        if !is_one {
            return Err(Error::HttpRequestUriInvalid);
        }
        Ok(Self { host: number.unwrap_or(host).to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_so_many_requests_under_way_and_no_more() {
        let limits = Arc::new(Limits { descriptors: 2, ..Limits::default() });
        let gate = Arc::new(Gate::new(crate::policy::Policy::default()));
        let way = Way::new(&gate, &Network::Os, &Arc::default(), &Arc::default(), &limits);
        let mut guest = Outgoing::new(Arc::clone(&way));
        let first = guest.begin().expect("room");
        let _second = guest.begin().expect("room");
        assert!(matches!(guest.begin(), Err(Error::ConnectionLimitReached)));
        // Another guest has its own.
        assert!(Outgoing::new(way).begin().is_ok());
        drop(first);
        assert!(guest.begin().is_ok());
    }

    #[test]
    fn a_destination_is_a_host_and_a_port_and_nothing_else() {
        for (uri, want) in [
            ("http://a.example/x", Some(("a.example", 80))),
            ("https://a.example", Some(("a.example", 443))),
            ("https://a.example:8443/", Some(("a.example", 8443))),
            ("http://127.0.0.1:81/", Some(("127.0.0.1", 81))),
            ("http://[::1]:81/", Some(("::1", 81))),
            ("http://[::1]/", Some(("::1", 80))),
            ("http://allowed.example@other.example/", None),
            ("http://a.example:0/", None),
            ("http://a.example:/", None),
            ("http://a.example:65536/", None),
            ("http://a!b/", None),
            ("/path", None),
        ] {
            let found = uri.parse::<Uri>().ok().and_then(|uri| Destination::of(&uri).ok());
            let found = found.as_ref().map(|found| (found.host.as_str(), found.port));
            assert_eq!(found, want, "{uri}");
        }
    }
}
