//! One request: to an instance, and its answer back.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{self, Authority};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode as ErrorCode03;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::alarm::Alarm;
use super::answer::{Answer, answer as say};
use super::call::Call;
use super::cgi;
use super::connection::Asked;
use super::kept::Instance;
use super::reuse::{self, Streaming};
use super::upload::{Fate, Upload, poll_late};
use super::{RequestId, Site, prewarm, tell_end};
use crate::guest::Guest;
use crate::instance::{self, Neighbours, Outcome};
use crate::program::Handler;
use crate::spelling::option;

/// A guest's answer, up to its body, or why there is none.
type Head = Result<Response<WasiBody>, ErrorCode>;

/// A guest's answer to a request, or why there is none.
pub(super) async fn answer(
    site: &Arc<Site>, id: RequestId, asked: Asked, request: Request<Upload>,
) -> Result<Response<Answer>, Refused> {
    match &site.requests.handler {
        Handler::Of02(handler) => answer_02(site, handler, id, asked, request).await,
        Handler::Of03(handler) => answer_03(site, handler, id, asked, request).await,
        Handler::Cgi(commands) => cgi::answer(site, commands, id, asked, request).await,
    }
}

/// Why a request has no answer of a guest.
pub(super) enum Refused {
    /// Too many wait.
    Crowded,
    /// It has waited for an instance for too long.
    Waited,
    /// There is no instance for it.
    Instance(String),
    /// The guest has ended without one.
    Ended(Outcome),
    /// The same, which was told already.
    Told,
    /// The guest says so.
    Error(Blame, String),
    /// It took too long.
    Late,
    /// What it wrote is no head of an answer.
    Head(String),
    /// No program is for the path.
    Unrouted,
    /// The path is nothing that a program can be told.
    Path,
    /// The head is more than a program may be told.
    Fields,
}

impl Refused {
    /// Whether a body that failed is reason enough. A guest that traps because of one has a fault of its own.
    pub(super) fn is_clients(&self) -> bool {
        matches!(self, Self::Ended(Outcome::Exited(_)) | Self::Error(Blame::Guest, _))
    }

    /// What the client is told, and the person.
    pub(super) fn tell(self, site: &Site, id: RequestId) -> Response<Answer> {
        match self {
            Self::Crowded | Self::Waited | Self::Instance(_) => site.told().refused.fetch_add(1, Ordering::Relaxed),
            Self::Unrouted | Self::Path | Self::Fields => 0,
            _ => site.told().failed.fetch_add(1, Ordering::Relaxed),
        };
        match self {
            Self::Crowded => {
                tracing::debug!("request {id}: too many wait already");
                say(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait\n", id)
            }
            Self::Waited => {
                let (timeout, most) = (site.limits.timeout, option("max-instances", site.limits.instances * 2));
                tracing::warn!("request {id}: no instance was free for {timeout:?}; for more of them, add `{most}`");
                say(StatusCode::SERVICE_UNAVAILABLE, "no instance was free in time\n", id)
            }
            Self::Instance(why) => {
                tracing::warn!("request {id}: no instance could be made: {why}");
                say(StatusCode::SERVICE_UNAVAILABLE, "the server has no room for the request\n", id)
            }
            Self::Ended(outcome) => {
                tell_end(&outcome, &format!("request {id}"), "before it answered");
                say(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n", id)
            }
            Self::Told => say(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n", id),
            Self::Error(blame, code) => {
                tracing::warn!("request {id}: the guest answered with an error: {code}");
                let (status, text) = match blame {
                    Blame::Slow => (StatusCode::GATEWAY_TIMEOUT, "a server behind it took too long\n"),
                    Blame::Upstream => (StatusCode::BAD_GATEWAY, "a server behind it failed\n"),
                    Blame::Guest => (StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n"),
                };
                say(status, text, id)
            }
            Self::Late => {
                let longer = option("timeout", format!("{}s", (site.limits.timeout * 2).as_secs().max(1)));
                tracing::warn!(
                    "request {id}: the guest did not answer within {:?}; if that may take longer, add `{longer}`",
                    site.limits.timeout
                );
                say(StatusCode::GATEWAY_TIMEOUT, "the server took too long\n", id)
            }
            Self::Head(why) => {
                tracing::warn!("request {id}: the head of the guest's answer is not right: {why}");
                say(StatusCode::BAD_GATEWAY, "the server's answer is not right\n", id)
            }
            Self::Unrouted => say(StatusCode::NOT_FOUND, "there is nothing at this path\n", id),
            Self::Path => say(StatusCode::BAD_REQUEST, "the target's path is no text\n", id),
            Self::Fields => {
                let text = "the request's head is too large\n";
                say(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text, id)
            }
        }
    }
}

/// Whose fault an error is that a guest answers with.
#[derive(Clone, Copy)]
pub(super) enum Blame {
    /// A server that it asked.
    Upstream,
    /// The same, which took too long.
    Slow,
    Guest,
}

/// Whose fault an error code of either version is.
macro_rules! blame {
    ($code:expr, $codes:ident) => {
        match $code {
            $codes::DnsTimeout
            | $codes::ConnectionTimeout
            | $codes::ConnectionReadTimeout
            | $codes::ConnectionWriteTimeout
            | $codes::HttpResponseTimeout => Blame::Slow,
            $codes::DnsError(_)
            | $codes::DestinationNotFound
            | $codes::DestinationUnavailable
            | $codes::ConnectionRefused
            | $codes::ConnectionTerminated
            | $codes::TlsProtocolError
            | $codes::TlsCertificateError
            | $codes::HttpResponseIncomplete => Blame::Upstream,
            _ => Blame::Guest,
        }
    };
}

/// Lets an instance of its own work on a request until it answers.
async fn answer_02(
    site: &Arc<Site>, handler: &ProxyPre<Guest>, id: RequestId, asked: Asked, request: Request<Upload>,
) -> Result<Response<Answer>, Refused> {
    let alarm = site.patience();
    let source = match site.kept.take() {
        Some(instance) => Source::Kept(Box::new(instance)),
        None => {
            let permit = placed(&alarm, site.requests.permit()).await?;
            let guest = site.guest(None).map_err(|error| Refused::Instance(error.to_string()))?;
            Source::New(instance::store(&site.engine, guest, Neighbours::Always), permit)
        }
    };
    prewarm::refill(site, handler);
    let (bodiless, fate) = (request.method() == Method::HEAD, request.body().fate());
    let pace = source.guest().busy.pace();
    let (tell, mut head) = oneshot::channel();
    let life = Box::pin(work(Arc::clone(site), handler.clone(), source, asked.scheme(), request, tell));
    let mut call = Call::new(life, pace, site);
    let mut ended = None;
    let answered = poll_fn(|context| {
        if let Poll::Ready(outcome) = call.poll(context) {
            ended = Some(outcome);
        }
        // A guest may drop it, and go on.
        if !head.is_terminated()
            && let Poll::Ready(Ok(head)) = Pin::new(&mut head).poll(context)
        {
            return Poll::Ready(head.map_err(|code| Refused::Error(blame!(code, ErrorCode), code.to_string())));
        }
        match ended.take() {
            Some(outcome) => Poll::Ready(Err(Refused::Ended(outcome))),
            None => poll_late(&alarm, fate.as_deref(), site.limits.timeout, context).map(|()| Err(Refused::Late)),
        }
    });
    let answered = answered.await.and_then(checked)?;
    let rest = ended.is_none().then_some(call);
    let mut answer = streamed(answered, rest, Pauses::new(alarm, fate, None), id, bodiless, asked, site);
    let Some(outcome) = ended else { return Ok(answer) };
    match answer.body_mut().lost().await {
        Some(why) if outcome == Outcome::Exited(0) => return Err(Refused::Error(Blame::Guest, why)),
        Some(_) => return Err(Refused::Ended(outcome)),
        None => tell_failed(&outcome, id),
    }
    Ok(answer)
}

/// Hands a request to an instance that answers others too.
async fn answer_03(
    site: &Arc<Site>, handler: &ServicePre<Guest>, id: RequestId, asked: Asked, request: Request<Upload>,
) -> Result<Response<Answer>, Refused> {
    let (bodiless, fate) = (request.method() == Method::HEAD, request.body().fate());
    let alarm = site.patience();
    let request = located(request, &asked).map(BodyExt::boxed_unsync);
    let mut reply = placed(&alarm, reuse::hand(site, handler, id, request)).await?;
    let answered = poll_fn(|context| match Pin::new(&mut reply.answer).poll(context) {
        Poll::Ready(Ok(answered)) => Poll::Ready(answered.map_err(|error| match error.downcast_ref() {
            Some(code) => Refused::Error(blame!(code, ErrorCode03), ErrorCode03::to_string(code)),
            None => Refused::Instance(format!("{error:#}")),
        })),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Refused::Told)),
        Poll::Pending => poll_late(&alarm, fate.as_deref(), site.limits.timeout, context).map(|()| Err(Refused::Late)),
    });
    let answered = answered.await.and_then(checked);
    let streaming = reply.streaming();
    drop(reply);
    let has_ended = streaming.as_ref().is_some_and(Streaming::was_cut_off);
    let mut answer = streamed(answered?, None, Pauses::new(alarm, fate, streaming), id, bodiless, asked, site);
    match answer.body_mut().lost().await {
        Some(_) if has_ended => Err(Refused::Told),
        Some(why) => Err(Refused::Error(Blame::Guest, why)),
        None => Ok(answer),
    }
}

/// Waits for a place with an instance, for as long as the client waits at all.
pub(super) async fn placed<T>(alarm: &Alarm, place: impl Future<Output = Option<T>>) -> Result<T, Refused> {
    let mut place = pin!(place);
    poll_fn(|context| match place.as_mut().poll(context) {
        Poll::Ready(placed) => Poll::Ready(placed.ok_or(Refused::Crowded)),
        Poll::Pending => alarm.poll_rung(context).map(|()| Err(Refused::Waited)),
    })
    .await
}

/// The head of a guest's answer. An interim one has no answer behind it, and clients wait for that.
fn checked(head: Response<WasiBody>) -> Result<Response<WasiBody>, Refused> {
    if head.status().is_informational() {
        return Err(Refused::Head(format!("`{}` is no status of an answer", head.status().as_str())));
    }
    Ok(head)
}

/// The request with all that its guest asks of it in its target: a client leaves scheme and host to the connection
/// and the Host line.
fn located(mut request: Request<Upload>, asked: &Asked) -> Request<Upload> {
    let mut parts = request.uri().clone().into_parts();
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.authority = parts.authority.or(host);
    parts.scheme = Some(if asked.client().is_secure { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
    // It fails where there is no host at all: then it is as it came.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// Where an instance comes from.
enum Source {
    New(Store<Guest>, OwnedSemaphorePermit),
    Kept(Box<Instance>),
}

impl Source {
    fn guest(&self) -> &Guest {
        match self {
            Self::New(store, _) => store.data(),
            Self::Kept(instance) => instance.store.data(),
        }
    }
}

/// An instance's work on a request, after which it may be kept for the next.
async fn work(
    site: Arc<Site>, handler: ProxyPre<Guest>, source: Source, scheme: Scheme, request: Request<Upload>,
    tell: oneshot::Sender<Head>,
) -> Outcome {
    let mut instance = match source {
        Source::Kept(mut instance) => {
            // The ticks while it waited are not its own: it would give way before it has begun.
            instance.store.set_epoch_deadline(instance::FIRST_TICKS);
            *instance
        }
        Source::New(mut store, permit) => match handler.instantiate_async(&mut store).await {
            Ok(proxy) => Instance { store, proxy, used: 0, _permit: permit },
            Err(error) => return instance::outcome(&store, Err(error)),
        },
    };
    let ended = handle(&mut instance, scheme, request, tell).await;
    let outcome = instance::outcome(&instance.store, ended);
    if outcome != Outcome::Exited(0) {
        abort_bodies(instance.store.data_mut().resources());
    }
    instance.used += 1;
    let most = site.limits.instance_reuse.unwrap_or(1);
    if outcome == Outcome::Exited(0) && instance.used < most && !site.drains() {
        site.kept.put(instance);
    }
    outcome
}

/// Has bodies break off that a guest has not ended, which it cannot do any more: else their end would be that of the
/// instance, and look like theirs.
fn abort_bodies(resources: &mut ResourceTable) {
    for body in resources.iter_mut().filter_map(|resource| resource.downcast_mut::<HostOutgoingBody>()) {
        let (none, _) = HostOutgoingBody::new(StreamContext::Response, None, 1, 1);
        std::mem::replace(body, none).abort();
    }
}

/// Calls an instance's handler.
async fn handle(
    instance: &mut Instance, scheme: Scheme, request: Request<Upload>, tell: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    let Instance { store, proxy, .. } = instance;
    let request = store.data_mut().http().new_incoming_request(scheme, request)?;
    let answer = store.data_mut().http().new_response_outparam(tell)?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, answer).await
}

/// A guest's answer as the connection takes it.
pub(super) fn streamed(
    head: Response<WasiBody>, call: Option<Call>, pauses: Pauses, id: RequestId, bodiless: bool, asked: Asked,
    site: &Arc<Site>,
) -> Response<Answer> {
    let bodiless = bodiless || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    // hyper takes no more than these, and does not wait for the end behind them.
    let length = head.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    head.map(|body| {
        let left = if bodiless { Some(0) } else { length };
        let rest = call.map(|call| Rest { call, id, site: Arc::clone(site) });
        let timeout = site.limits.timeout;
        let streamed = Streamed { body, begun: None, left, rest, pauses, timeout, id, _asked: asked };
        Answer::Streamed(Box::new(streamed))
    })
}

/// The body of a guest's answer, and the rest of the guest's work, which goes on as the body is taken.
pub(super) struct Streamed {
    body: WasiBody,
    /// What was asked for before the head could go.
    begun: Option<Begun>,
    /// Bytes that are still to come, where that is known.
    left: Option<u64>,
    /// Of an instance that works for this request alone.
    rest: Option<Rest>,
    pauses: Pauses,
    timeout: Duration,
    id: RequestId,
    _asked: Asked,
}

/// The begin of an answer's body.
struct Begun {
    frame: Option<Result<Frame<Bytes>, Error>>,
    /// Of all.
    size: SizeHint,
}

/// What is known of an answer that may not go on.
pub(super) struct Pauses {
    alarm: Alarm,
    /// Something has come since the alarm was set.
    has_moved: bool,
    /// Of the request's body, which the guest may wait for.
    fate: Option<Arc<Fate>>,
    /// Of an instance that answers others too.
    streaming: Option<Streaming>,
}

impl Pauses {
    pub(super) fn new(alarm: Alarm, fate: Option<Arc<Fate>>, streaming: Option<Streaming>) -> Self {
        Self { alarm, has_moved: true, fate, streaming }
    }

    /// Ready when nothing has come for so long, nor of what its client sends.
    fn poll_late(&mut self, timeout: Duration, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.has_moved) {
            self.alarm.set(timeout);
        }
        poll_late(&self.alarm, self.fate.as_deref(), timeout, context)
    }
}

/// Tells the person of a guest that has not gone on with its answer.
fn tell_pause(id: RequestId, timeout: Duration) {
    let longer = option("timeout", format!("{}s", (timeout * 2).as_secs().max(1)));
    tracing::warn!(
        "request {id}: the guest wrote nothing more of its answer for {timeout:?}; if it may pause for longer, add \
         `{longer}`"
    );
}

/// Tells the person of a guest that failed after it had answered.
fn tell_failed(outcome: &Outcome, id: RequestId) {
    if *outcome != Outcome::Exited(0) {
        tell_end(outcome, &format!("request {id}"), "after its answer had begun");
    }
}

/// What a guest does after it has answered.
struct Rest {
    call: Call,
    id: RequestId,
    site: Arc<Site>,
}

impl Rest {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.call.poll(context).map(|outcome| tell_failed(&outcome, self.id))
    }

    /// The guest may go on when its answer has been sent, within a time.
    async fn finish(mut self) {
        let alarm = self.site.patience();
        poll_fn(|context| match self.poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => alarm.poll_rung(context),
        })
        .await;
    }
}

impl Streamed {
    /// Why none of it can be sent, if it has broken off before it has begun.
    pub(super) async fn lost(&mut self) -> Option<String> {
        if !self.has_no_body() {
            // What has come, without waiting for more.
            poll_fn(|context| Poll::Ready(self.poll_begun(context).is_ready())).await;
        }
        self.failure()
    }

    /// Why it has failed, if that is all that was asked for so far.
    pub(super) fn failure(&self) -> Option<String> {
        let frame = self.begun.as_ref()?.frame.as_ref()?;
        frame.as_ref().err().map(ToString::to_string)
    }

    /// Ready when the guest has written some of it, which stays there, or has ended it.
    pub(super) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.begun.is_none() {
            let size = self.body.size_hint();
            let frame = ready!(self.poll_frame(context));
            self.begun = Some(Begun { frame, size });
        }
        Poll::Ready(())
    }

    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(begun) = self.begun.take() {
            return Poll::Ready(begun.frame);
        }
        self.go_on(context);
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => return self.poll_late(context),
            Poll::Ready(None) if self.was_cut_off() => {
                tracing::warn!("request {}: its answer was cut off, since its instance has ended", self.id);
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
            }
            Poll::Ready(None) => self.left = Some(0),
            Poll::Ready(Some(Ok(frame))) => {
                self.pauses.has_moved = true;
                let sent = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(sent));
                // A guest whose last bytes are taken mostly ends with that: then it needs no task for its rest.
                if self.left == Some(0) {
                    self.go_on(context);
                }
            }
            _ => {}
        }
        polled
    }

    /// Ready with an error when the guest has written nothing for too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        ready!(self.pauses.poll_late(self.timeout, context));
        self.pauses.streaming.as_ref().inspect(|streaming| streaming.give_up());
        tell_pause(self.id, self.timeout);
        Poll::Ready(Some(Err(Error::HttpResponseTimeout)))
    }

    /// Whether what looks like its end is that of its instance.
    fn was_cut_off(&self) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.pauses.streaming.as_ref().is_some_and(Streaming::was_cut_off)
    }

    /// Lets the guest do more of the rest.
    fn go_on(&mut self, context: &mut Context<'_>) {
        if self.rest.as_mut().is_some_and(|rest| rest.poll(context).is_ready()) {
            self.rest = None;
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let is_end = match &self.begun {
            None => self.body.is_end_stream(),
            // That nothing is there is yet to be taken, unless it was known: it is less than the head says, perhaps.
            Some(Begun { frame, size }) => frame.is_none() && size.exact() == Some(0),
        };
        is_end && !self.was_cut_off()
    }

    /// Whether hyper asks for nothing of it.
    pub(super) fn has_no_body(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.begun.as_ref().map_or_else(|| self.body.size_hint(), |begun| begun.size)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // Unless the client went before: then nobody waits for what the guest does.
        if let (Some(rest), Some(0)) = (self.rest.take(), self.left) {
            tokio::spawn(rest.finish());
        }
    }
}
