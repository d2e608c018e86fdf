//! What a request passes before a guest is called, and an answer on its way back: refusals, forwarded lines, limits,
//! the access log.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, REFERER, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wasmtime_wasi_http::Error;

use super::answer::{Answer, answer as say};
use super::connection::{Asked, HYPERS_BYTES, Taking};
use super::upload::{Fate, TOO_LARGE_ANSWER, Upload};
use super::{RequestId, Site, expect, request, sanity};
use crate::access_log::{Entry, Log, RequestLine};
use crate::ingress::Client;

/// What proxies tell of clients. Where we tell it, nobody else does.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip"];

const TOO_MANY_LINES: (StatusCode, &str) =
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has too many header lines\n");

const TWO_LENGTHS: (StatusCode, &str) =
    (StatusCode::BAD_REQUEST, "the request has both `content-length` and `transfer-encoding`\n");

const TOO_LARGE_HEAD: (StatusCode, &str) =
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head of the request is too large\n");

/// Answers a request; whatever happens, there is an answer.
pub(super) async fn admit(
    site: Arc<Site>, asked: Asked, mut request: Request<Incoming>,
) -> Result<Response<Admitted>, Infallible> {
    let id = site.next_id();
    let client = asked.client();
    let version = request.version();
    let record = site.inbound.log.as_ref().map(|log| Box::new(Record::new(log, client, &request, id)));
    let taking = (version >= Version::HTTP_2).then(|| asked.taking());
    let is_head = request.method() == Method::HEAD;
    if request.uri().authority().is_none() && version == Version::HTTP_10 && !request.headers().contains_key(HOST) {
        // Guests of wasi:http are told of one.
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    }
    // First: what is refused has a body too, which its client may be sending.
    let mut request = request.map(|body| Upload::new(body, &site, &asked));
    let unfit = unfit_head(&site, &asked, &request);
    if site.inbound.x_forwarded {
        forward(request.headers_mut(), client);
    }
    let admitted = unfit.map_or_else(|| checked(request), Err);
    let answer = match admitted {
        Err((status, why)) => closing(say(status, why, id), version),
        Ok(request) => {
            let fate = request.body().fate();
            let waiting = fate.as_deref().filter(|_| expect::is_expected(&request));
            let answered = match (request::answer(&site, id, asked, request).await, waiting) {
                (Ok(answer), Some(fate)) => expect::hold(answer, fate).await,
                (answered, _) => answered,
            };
            match (answered, fate.as_deref().and_then(Fate::status)) {
                // Whatever the guest has made of a body that failed.
                (answered, Some((status, why))) => {
                    tracing::debug!("request {id}: {}", why.trim_end());
                    if let Some(refused) = answered.err().filter(|refused| !refused.is_clients()) {
                        refused.tell(&site, id);
                    }
                    closing(say(status, why, id), version)
                }
                (answered, None) => answered.unwrap_or_else(|refused| refused.tell(&site, id)),
            }
        }
    };
    Ok(Admitted::wrap(answer, is_head, record, taking))
}

/// What is said of a head with more in it than it may have, where hyper does not see to that.
fn unfit_head(site: &Site, asked: &Asked, request: &Request<Upload>) -> Option<(StatusCode, &'static str)> {
    let limits = &site.limits;
    if request.version() >= Version::HTTP_2 {
        has_too_many_lines(request.headers(), limits.header_lines).then_some(TOO_MANY_LINES)
    } else if request.headers().contains_key(TRANSFER_ENCODING) && asked.is_ambiguous() {
        Some(TWO_LENGTHS)
    } else {
        let is_too_large = limits.header_bytes < HYPERS_BYTES && head_bytes(request) > limits.header_bytes;
        is_too_large.then_some(TOO_LARGE_HEAD)
    }
}

fn has_too_many_lines(headers: &HeaderMap, most: usize) -> bool {
    // The parts of one line may come apart (RFC 9113, 8.2.3).
    let crumbs = || headers.get_all(COOKIE).iter().count().saturating_sub(1);
    let lines = headers.len();
    lines > most && lines - crumbs() > most
}

/// About as many bytes as the head of a request of HTTP/1.1 came in.
fn head_bytes(request: &Request<Upload>) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    let first = request.method().as_str().len() + request.uri().to_string().len();
    first + request.headers().iter().map(line).sum::<usize>()
}

/// The request as a guest may have it, or what its client is told instead.
fn checked(request: Request<Upload>) -> Result<Request<Upload>, (StatusCode, &'static str)> {
    sanity::check(&request).map_err(|refusal| (refusal.status, refusal.why))?;
    if request.body().is_too_large() { Err(TOO_LARGE_ANSWER) } else { Ok(request) }
}

/// Nothing that follows on the connection is a request: who knows where it would begin.
fn closing(mut answer: Response<Answer>, version: Version) -> Response<Answer> {
    if version < Version::HTTP_2 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Tells the guest whose request it is.
fn forward(headers: &mut HeaderMap, client: Client) {
    for name in FORWARDED {
        headers.remove(name);
    }
    let scheme = if client.is_secure { "https" } else { "http" };
    headers.insert(HeaderName::from_static("x-forwarded-proto"), HeaderValue::from_static(scheme));
    if let Ok(peer) = HeaderValue::from_str(&client.peer.ip().to_canonical().to_string()) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), peer);
    }
}

/// Writes of bytes that were no request, which hyper has answered by itself. A target of more than 64 KiB is 414 to its
/// client, which hyper does not tell from 431.
pub(super) fn note_refused(site: &Site, client: Client, error: &hyper::Error) {
    if !error.is_parse() || error.is_parse_version_h2() {
        return;
    }
    let is_large = error.is_parse_too_large();
    let status = if is_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    note_unread(site, client, status);
}

/// Writes of what was no request, or only the begin of one.
pub(super) fn note_unread(site: &Site, client: Client, status: StatusCode) {
    let Some(log) = &site.inbound.log else { return };
    log.write(&Entry {
        peer: client.peer,
        request: None,
        host: None,
        referrer: None,
        agent: None,
        status: Some(status.as_u16()),
        bytes: 0,
        took: std::time::Duration::ZERO,
        id: site.next_id().to_string(),
        is_secure: client.is_secure,
    });
}

/// What is known of a request for the access log, which is told when it is dropped: then it is over.
struct Record {
    log: Arc<Log>,
    entry: Entry,
    began: Instant,
}

impl Record {
    fn new(log: &Arc<Log>, client: Client, request: &Request<Incoming>, id: RequestId) -> Self {
        let header = |name| request.headers().get(name).map(|value| value.as_bytes().to_vec());
        let uri = request.uri();
        let target = uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string);
        let host = uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
        let version = match request.version() {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        };
        let entry = Entry {
            peer: client.peer,
            request: Some(RequestLine { method: request.method().to_string(), target, version }),
            host: host.or_else(|| header(HOST)),
            referrer: header(REFERER),
            agent: header(USER_AGENT),
            status: None,
            bytes: 0,
            took: std::time::Duration::ZERO,
            id: id.to_string(),
            is_secure: client.is_secure,
        };
        Self { log: Arc::clone(log), entry, began: Instant::now() }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.entry.took = self.began.elapsed();
        self.log.write(&self.entry);
    }
}

/// An answer's body on its way to the client.
pub(super) struct Admitted {
    answer: Answer,
    record: Option<Box<Record>>,
    /// Of HTTP/2, where a client can leave an answer untaken, and the connection be at work all the same.
    taking: Option<Taking>,
    /// Of HTTP/2, where hyper does not know that this answer has no body, whatever the guest writes.
    is_bodiless: bool,
}

impl Admitted {
    fn wrap(
        mut answer: Response<Answer>, is_head: bool, mut record: Option<Box<Record>>, taking: Option<Taking>,
    ) -> Response<Self> {
        if let Some(record) = &mut record {
            record.entry.status = Some(answer.status().as_u16());
        }
        let is_empty = matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_bodiless = (is_head || is_empty) && taking.is_some();
        // As hyper does for HTTP/1.1: what has no body says nothing of the length that another answer would have.
        let length = answer.body().size_hint().exact().filter(|length| *length > 0 && !is_empty);
        if let (true, Some(length)) = (is_bodiless, length) {
            answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        if answer.status() == StatusCode::NO_CONTENT {
            // Whatever the guest says (RFC 9110, 8.6).
            answer.headers_mut().remove(CONTENT_LENGTH);
        }
        answer.map(|answer| Self { answer, record, taking, is_bodiless })
    }
}

impl Body for Admitted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.answer).poll_frame(context);
        if let Some(taking) = &self.taking {
            // Asked for more: what there was is taken.
            taking.is_owed(polled.is_ready());
        }
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &mut self.record) {
            record.entry.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_bodiless || self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
