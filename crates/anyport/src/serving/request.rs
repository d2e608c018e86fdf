//! One request: to an instance, and its answer back, in the task of its connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, WasiHttpView};

use super::alarm::Alarm;
use super::answer::{Answer, answer as say};
use super::call::Call;
use super::connection::Asked;
use super::upload::Upload;
use super::{RequestId, Site};
use crate::guest::Guest;
use crate::instance::{self, Outcome};
use crate::program::Handler;

/// A guest's answer, up to its body, or why there is none.
type Head = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// Answers a request; whatever happens, there is an answer.
pub(super) async fn answer(
    site: Arc<Site>, id: RequestId, asked: Asked, request: Request<Upload>,
) -> Result<Response<Answer>, std::convert::Infallible> {
    let Some(permit) = site.requests.permit().await else {
        tracing::debug!("request {id}: too many wait already");
        return Ok(say(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait\n", id));
    };
    let outcome = match &site.requests.handler {
        Handler::Of02(handler) => begin(&site, handler, id, permit, asked, request).await,
        Handler::Of03(_) => Err(Refused::Instance("not yet".to_owned())),
    };
    Ok(outcome.unwrap_or_else(|refused| refused.tell(id)))
}

/// Why a request has no answer of a guest.
enum Refused {
    /// There is no instance for it.
    Instance(String),
    /// The guest has ended without one.
    Ended(Outcome),
    /// The guest says so.
    Error(ErrorCode),
    /// It took too long.
    Late,
}

impl Refused {
    fn tell(self, id: RequestId) -> Response<Answer> {
        match self {
            Self::Instance(why) => {
                tracing::warn!("request {id}: no instance could be made: {why}");
                say(StatusCode::SERVICE_UNAVAILABLE, "the server has no room for the request\n", id)
            }
            Self::Ended(outcome) => {
                tell_end(&outcome, id, "before it answered");
                say(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n", id)
            }
            Self::Error(code) => {
                tracing::warn!("request {id}: the guest answered with an error: {code}");
                let (status, text) = match code {
                    ErrorCode::DnsTimeout
                    | ErrorCode::ConnectionTimeout
                    | ErrorCode::ConnectionReadTimeout
                    | ErrorCode::ConnectionWriteTimeout
                    | ErrorCode::HttpResponseTimeout => {
                        (StatusCode::GATEWAY_TIMEOUT, "a server behind it took too long\n")
                    }
                    ErrorCode::DnsError(_)
                    | ErrorCode::DestinationNotFound
                    | ErrorCode::DestinationUnavailable
                    | ErrorCode::ConnectionRefused
                    | ErrorCode::ConnectionTerminated
                    | ErrorCode::TlsProtocolError
                    | ErrorCode::TlsCertificateError
                    | ErrorCode::HttpResponseIncomplete => (StatusCode::BAD_GATEWAY, "a server behind it failed\n"),
                    _ => (StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n"),
                };
                say(status, text, id)
            }
            Self::Late => say(StatusCode::GATEWAY_TIMEOUT, "the server took too long\n", id),
        }
    }
}

/// Tells the person how a guest ended that should not have.
fn tell_end(outcome: &Outcome, id: RequestId, when: &str) {
    match outcome {
        Outcome::Trapped { reason, backtrace } | Outcome::OutOfMemory { reason, backtrace } => {
            match backtrace.as_str() {
                "" => tracing::warn!("request {id}: the guest failed {when}: {reason}"),
                calls => tracing::warn!(
                    "request {id}: the guest failed {when}: {reason}\nthe guest's functions, innermost first:\n{calls}"
                ),
            }
        }
        Outcome::Exited(0) => tracing::warn!("request {id}: the guest returned {when}"),
        Outcome::Exited(code) => tracing::warn!("request {id}: the guest exited with code {code} {when}"),
        Outcome::Stopped => {}
    }
}

/// Lets an instance work on a request until it answers.
async fn begin(
    site: &Arc<Site>, handler: &ProxyPre<Guest>, id: RequestId, permit: OwnedSemaphorePermit, asked: Asked,
    request: Request<Upload>,
) -> Result<Response<Answer>, Refused> {
    let guest = site.guest().map_err(|error| Refused::Instance(error.to_string()))?;
    let pace = guest.busy.pace();
    let (tell, head) = oneshot::channel();
    let mut head = Some(head);
    let mut store = instance::store(&site.engine, guest);
    let scheme = asked.scheme();
    let life = Box::pin({
        let handler = handler.clone();
        async move {
            let ended = handle(&handler, &mut store, scheme, request, tell).await;
            instance::outcome(&store, ended)
        }
    });
    let mut call = Call::new(life, pace, site);
    let alarm = site.alarms.alarm();
    alarm.set(site.limits.timeout);
    let head = poll_fn(|context| {
        let ended = call.poll(context);
        let told = head.as_mut().map_or(Poll::Pending, |head| Pin::new(head).poll(context));
        match told {
            Poll::Ready(Ok(Ok(head))) => return Poll::Ready(Ok(head)),
            Poll::Ready(Ok(Err(code))) => return Poll::Ready(Err(Refused::Error(code))),
            // Dropped: none will come, and it must not be asked again.
            Poll::Ready(Err(_)) => head = None,
            Poll::Pending => {}
        }
        match ended {
            Poll::Ready(outcome) => Poll::Ready(Err(Refused::Ended(outcome))),
            Poll::Pending => alarm.poll_rung(context).map(|()| Err(Refused::Late)),
        }
    });
    let head = head.await.inspect_err(|refused| {
        if matches!(refused, Refused::Late) {
            tracing::warn!("request {id}: the guest did not answer within {:?}", site.limits.timeout);
        }
    })?;
    alarm.unset();
    Ok(head.map(|body| {
        Answer::Streamed(Box::new(Streamed {
            body,
            call,
            id,
            ended: false,
            _permit: permit,
            _asked: asked,
            _alarm: alarm,
        }))
    }))
}

/// Calls an instance's handler.
async fn handle(
    handler: &ProxyPre<Guest>, store: &mut Store<Guest>, scheme: Scheme, request: Request<Upload>,
    tell: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    let proxy: Proxy = handler.instantiate_async(&mut *store).await?;
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let answer = store.data_mut().http().new_response_outparam(tell)?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, answer).await
}

/// The body of a guest's answer, and the rest of the guest's work, which goes on as the body is taken.
pub(super) struct Streamed {
    body: HyperOutgoingBody,
    call: Call,
    id: RequestId,
    /// The body has.
    ended: bool,
    _alarm: Alarm,
    _permit: OwnedSemaphorePermit,
    _asked: Asked,
}

impl Streamed {
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.call.has_ended()
            && let Poll::Ready(outcome) = self.call.poll(context)
            && outcome != Outcome::Exited(0)
        {
            tell_end(&outcome, self.id, "while it answered");
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
