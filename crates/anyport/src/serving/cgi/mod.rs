//! A request of a CGI program: an instance of its own, from its environment to the end of its stdout.

mod environment;
mod head;
mod streams;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;
use wasmtime::Store;
use wasmtime_wasi_http::Error;

use self::environment::Path;
use self::streams::{Closing, End, Lines, Pipe, Question, Writer};
use super::answer::Answer;
use super::call::Call;
use super::connection::Asked;
use super::request::{Pauses, Refused, placed, streamed};
use super::upload::{Upload, poll_late};
use super::{RequestId, Site, Start};
use crate::guest::Guest;
use crate::instance::{self, Neighbours, Outcome, threads};
use crate::program::{Command, Commands, Parts};
use crate::spelling::option;
use crate::stage::Stage;
use crate::stdio::Stdio;

/// Runs the program of a request until it has written the head of its answer.
pub(super) async fn answer(
    site: &Arc<Site>, commands: &Arc<Commands>, id: RequestId, asked: Asked, request: Request<Upload>,
) -> Result<Response<Answer>, Refused> {
    let (parts, body) = request.into_parts();
    let path = Path::of(parts.uri.path()).ok_or(Refused::Path)?;
    let place = commands.find(&path.decoded).ok_or(Refused::Unrouted)?;
    let alarm = site.patience();
    let permit = placed(&alarm, site.requests.permit()).await?;
    let (bodiless, fate) = (parts.method == Method::HEAD, body.fate());
    let command = &commands.list[place];
    let args = environment::arguments(&command.script, &command.name, &commands.args, &parts);
    let env = environment::variables(&command.script, &command.env, &parts, fate.is_some(), &path, asked.client());
    let pipe = Arc::new(Pipe::default());
    let stdio = [
        Stdio::within(Question::new(body)),
        Stdio::within(Writer(Arc::clone(&pipe))),
        Stdio::within(Lines::new(&site.inbound.journal, id)),
    ]
    .map(Arc::new);
    let (directories, abi) = (&command.directories[..], command.parts.abi);
    let guest = guest(site, place, Start { args: &args, env: &env, directories, stdio: &stdio, abi })?;
    drop(stdio);
    let mut call = begin(site, commands, command, guest, permit, Closing(Arc::clone(&pipe)))?;
    let mut taken = Taken { bytes: Vec::new(), most: site.limits.header_bytes };
    let mut has_ended = false;
    let head = poll_fn(|context| {
        let ended = call.poll(context);
        has_ended = ended.is_ready();
        match (ended, taken.poll_head(&pipe, context)) {
            // What it has written before is not sent yet.
            (Poll::Ready(outcome), _) if outcome != Outcome::Exited(0) => Poll::Ready(Err(Refused::Ended(outcome))),
            (_, Poll::Ready(head)) => Poll::Ready(head.map_err(Refused::Head)),
            (_, Poll::Pending) => {
                poll_late(&alarm, fate.as_deref(), site.limits.timeout, context).map(|()| Err(Refused::Late))
            }
        }
    });
    let head = head.await?;
    let left = head.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let bodiless = bodiless || head.status() == StatusCode::NOT_MODIFIED;
    if let (Some(left), Some(rest), false) = (left, pipe.rest(), bodiless) {
        let there = (taken.bytes.len() + rest) as u64;
        if there < left {
            return Err(Refused::Head(format!("it promises {left} bytes, and {there} follow")));
        }
    }
    let body = Output { first: taken.bytes.into(), pipe, left, id };
    let call = (!has_ended).then_some(call);
    Ok(streamed(head.map(|()| body.boxed_unsync()), call, Pauses::new(alarm, fate, None), id, bodiless, asked, site))
}

/// The guest of a request, unless it would be told too much.
fn guest(site: &Site, program: usize, start: Start<'_>) -> Result<Guest, Refused> {
    let args: usize = start.args.iter().map(|arg| arg.len() + 1).sum();
    let env: usize = start.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if args + env > site.limits.environment_bytes {
        return Err(Refused::Fields);
    }
    site.guest(Some((program, start))).map_err(|error| Refused::Instance(error.to_string()))
}

/// Begins a program's work on a request: where the connection is, or with the threads of all that have some.
fn begin(
    site: &Arc<Site>, commands: &Commands, command: &Command, guest: Guest, permit: OwnedSemaphorePermit,
    closing: Closing,
) -> Result<Call, Refused> {
    let parts = Arc::clone(&command.parts);
    let Some(crews) = commands.crews.as_ref().filter(|_| command.shares_memory) else {
        let pace = guest.busy.pace();
        let store = instance::store(&site.engine, guest, Neighbours::Always);
        return Ok(Call::new(Box::pin(work(parts, store, permit, closing)), pace, site));
    };
    let memory = parts.memory(&crews.engine, site.limits.memory_bytes);
    let guest = guest.with_memory(memory.map_err(|error| Refused::Instance(error.to_string()))?);
    let (engine, (stop, stage)) = (Arc::clone(&crews.engine), watch::channel(Stage::Serving));
    let running = crews.spawn(async move {
        let (outcome, left) = threads::run(&engine, &parts, guest, stage, || {}).await;
        if left > 0 {
            // They keep their place, so that there are never more of them than instances.
            tracing::warn!("{left} threads of a CGI program do not end");
            permit.forget();
        }
        outcome
    });
    // It is polled elsewhere: here it only waits.
    Ok(Call::new(Box::pin(watched(running, stop, closing)), Arc::default(), site))
}

/// Waits for a program with threads, which ends with this.
async fn watched(running: Option<JoinHandle<Outcome>>, stop: watch::Sender<Stage>, closing: Closing) -> Outcome {
    let outcome = match running {
        Some(running) => running.await.unwrap_or_else(|error| Outcome::failed(error.to_string())),
        None => Outcome::Stopped,
    };
    drop(stop);
    if outcome == Outcome::Exited(0) {
        closing.whole();
    }
    outcome
}

/// A program's work on a request.
async fn work(parts: Arc<Parts>, mut store: Store<Guest>, permit: OwnedSemaphorePermit, closing: Closing) -> Outcome {
    let ended = parts.run(&mut store).await;
    let outcome = instance::outcome(&store, ended);
    // Its last line is told first, and its place is free for who comes when the answer is there.
    drop(store);
    drop(permit);
    if outcome == Outcome::Exited(0) {
        closing.whole();
    }
    outcome
}

/// What was taken of an answer, up to its head; then what is behind that.
struct Taken {
    bytes: Vec<u8>,
    /// Bytes that a head may have.
    most: usize,
}

impl Taken {
    /// Ready with the head, or with why there is none.
    fn poll_head(&mut self, pipe: &Pipe, context: &mut Context<'_>) -> Poll<Result<Response<()>, String>> {
        loop {
            match ready!(pipe.poll_take(context)) {
                Ok(bytes) => {
                    let before = self.bytes.len();
                    self.bytes.extend_from_slice(&bytes);
                    if let Some(end) = head::end(&self.bytes, before).filter(|end| *end <= self.most) {
                        let rest = self.bytes.split_off(end);
                        return Poll::Ready(head::parse(&std::mem::replace(&mut self.bytes, rest)));
                    }
                    if self.bytes.len() > self.most {
                        let more = option("limit", format!("header-bytes={}", self.most * 2));
                        return Poll::Ready(Err(format!("it is longer than {} bytes; add `{more}`", self.most)));
                    }
                }
                // How the program failed, who polls it is told in a moment.
                Err(End::Broken) => return Poll::Pending,
                Err(End::Whole) if self.bytes.is_empty() => return Poll::Ready(Err("there is none".to_owned())),
                Err(End::Whole) => return Poll::Ready(Err("no empty line ends it".to_owned())),
            }
        }
    }
}

/// The body of an answer.
struct Output {
    /// What came with the head.
    first: Bytes,
    pipe: Arc<Pipe>,
    /// Bytes that are still to come, where the head says so.
    left: Option<u64>,
    id: RequestId,
}

impl Output {
    /// The next bytes of the program.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        match self.pipe.poll_take(context) {
            Poll::Ready(Ok(bytes)) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Err(End::Whole)) => match self.left {
                None | Some(0) => Poll::Ready(None),
                Some(left) => {
                    tracing::warn!("request {}: the guest left out the last {left} bytes of its answer", self.id);
                    Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))
                }
            },
            // How it ended is told already.
            Poll::Ready(Err(End::Broken)) => Poll::Ready(Some(Err(Error::HttpResponseIncomplete))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Body for Output {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == Some(0) {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll_bytes(context));
        Poll::Ready(polled.map(|bytes| {
            let mut bytes = bytes?;
            if let Some(left) = &mut self.left {
                // What is longer than it says of itself would be another answer.
                bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= bytes.len() as u64;
            }
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) || (self.left.is_none() && self.first.is_empty() && self.pipe.rest() == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left.or_else(|| Some((self.first.len() + self.pipe.rest()?) as u64));
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.pipe.leave();
    }
}
