//! Instances of `wasi:http` 0.3: each answers several requests, some at the same time.
//!
//! An instance is a task with a queue of its own, beside the connections of its worker. A request goes to one that
//! waits for something and has room; there is another only when there is none.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::FusedFuture as _;
use futures_util::stream::{FuturesUnordered, Stream as _};
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Store};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy, Request, Response};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::alarm::Alarm;
use super::call::Call;
use super::{RequestId, Site, tell_end};
use crate::guest::Guest;
use crate::instance::{self, Neighbours, Outcome};

/// The instances of one worker.
#[derive(Default)]
pub(super) struct Instances {
    open: Mutex<Vec<Arc<Inbox>>>,
    /// Told when one has room again.
    room: Notify,
}

/// The instance that has taken a request.
type Taken = Arc<OnceLock<Arc<Inbox>>>;

/// A request for an instance.
struct Job {
    id: RequestId,
    taken: Taken,
    request: Request,
    answer: oneshot::Sender<wasmtime::Result<Response>>,
    /// Ends when nobody waits for the answer any more.
    gone: oneshot::Receiver<()>,
}

/// The requests of one instance.
struct Inbox {
    state: Mutex<State>,
    /// The instance, when it waits for a request.
    waker: AtomicWaker,
    /// Whoever polls it, for when nobody waits for its answers any more.
    watcher: AtomicWaker,
    /// It was interrupted while it computed: others would wait for that.
    computes: AtomicBool,
    /// A request waits for its place in the pool.
    unwanted: AtomicBool,
    /// All that it has begun waits for something, so that it may begin another request.
    waits: AtomicBool,
    /// Answers of it that are being sent.
    streams: AtomicUsize,
    /// It has ended, and may not have written all of its answers.
    has_failed: AtomicBool,
}

/// Notes that an instance has failed, when this is dropped.
struct Failing<'i>(Option<&'i Inbox>);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if let Some(inbox) = self.0 {
            inbox.has_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// An answer of an instance is being sent for as long as this is held.
pub(super) struct Streaming(Arc<Inbox>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Box<Job>>,
    /// Requests that it has not answered yet.
    working: Vec<Work>,
    /// All that it was given.
    given: u32,
    /// It takes no more.
    closed: bool,
    /// It works on a request whose client is gone.
    abandoned: bool,
    /// It was made before there was a request, and waits for the first however long that takes.
    is_ready: bool,
}

/// A request that an instance has begun.
struct Work {
    id: RequestId,
    /// Nobody waits for its answer any more.
    gone: bool,
}

/// A request's way back from an instance.
pub(super) struct Reply {
    id: RequestId,
    pub(super) answer: oneshot::Receiver<wasmtime::Result<Response>>,
    /// Dropped when nobody waits any more.
    _waits: oneshot::Sender<()>,
    taken: Taken,
}

/// Hands a request to an instance, made now if need be. None if too many wait already.
pub(super) async fn hand(
    site: &Arc<Site>, handler: &ServicePre<Guest>, id: RequestId, request: Request,
) -> Option<Reply> {
    let (tell, answer) = oneshot::channel();
    let (waits, gone) = oneshot::channel();
    let taken = Taken::default();
    let job = Job { id, taken: Arc::clone(&taken), request, answer: tell, gone };
    place(site, handler, Box::new(job)).await.then_some(Reply { id, answer, _waits: waits, taken })
}

/// Finds a place for a request; false if too many wait for one already.
async fn place(site: &Arc<Site>, handler: &ServicePre<Guest>, mut job: Box<Job>) -> bool {
    loop {
        let mut room = pin!(site.instances.room.notified());
        room.as_mut().enable();
        job = match site.instances.give(site, job) {
            Ok(()) => return true,
            Err(job) => job,
        };
        tokio::select! {
            biased;
            permit = site.requests.permit() => match permit {
                Some(permit) => start(site, handler, permit, None),
                None => return false,
            },
            () = room => {}
        }
    }
}

/// Makes an instance that waits for its first request; or says that none can be made.
pub(super) async fn make(
    site: &Arc<Site>, handler: &ServicePre<Guest>, permit: OwnedSemaphorePermit,
) -> Result<(), Outcome> {
    let (tell, made) = oneshot::channel();
    start(site, handler, permit, Some(tell));
    // Why, its task has told.
    made.await.map_err(|_| Outcome::failed("no instance of it can be made".to_owned()))
}

/// Starts an instance, which is open for requests from now on; `made` is told when it has been instantiated before
/// there is a request.
fn start(
    site: &Arc<Site>, handler: &ServicePre<Guest>, permit: OwnedSemaphorePermit, made: Option<oneshot::Sender<()>>,
) {
    let inbox = Arc::new(Inbox {
        state: Mutex::new(State { is_ready: made.is_some(), ..State::default() }),
        waker: AtomicWaker::new(),
        watcher: AtomicWaker::new(),
        computes: AtomicBool::new(false),
        unwanted: AtomicBool::new(false),
        waits: AtomicBool::new(true),
        streams: AtomicUsize::new(0),
        has_failed: AtomicBool::new(false),
    });
    site.instances.lock().push(Arc::clone(&inbox));
    let (site, handler) = (Arc::clone(site), handler.clone());
    tokio::spawn(async move {
        let outcome = live(&site, handler.clone(), &inbox, permit, made).await;
        for job in site.instances.end(&inbox, &outcome) {
            // Should too many wait, it is dropped, and its client told.
            place(&site, &handler, job).await;
        }
    });
}

/// An instance's life.
async fn live(
    site: &Arc<Site>, handler: ServicePre<Guest>, inbox: &Arc<Inbox>, permit: OwnedSemaphorePermit,
    made: Option<oneshot::Sender<()>>,
) -> Outcome {
    let guest = match site.guest(None) {
        Ok(guest) => guest,
        Err(error) => return Outcome::failed(error.to_string()),
    };
    let pace = guest.busy.pace();
    let store = instance::store(&site.engine, guest, Neighbours::Always);
    let life = Box::pin({
        let (site, inbox) = (Arc::clone(site), Arc::clone(inbox));
        let handler = handler.clone();
        async move {
            // Its place in the pool is free when it is gone, wherever that is.
            let _permit = permit;
            let mut store = store;
            // Dropped before the store is, which looks like the end of each of its answers.
            let mut unless_it_returns = Failing(Some(&inbox));
            let ended = work(&site, &handler, &inbox, &mut store, made).await;
            if ended.is_ok() {
                unless_it_returns.0 = None;
            }
            instance::outcome(&store, ended)
        }
    });
    let mut call = Call::new(life, pace, site);
    poll_fn(|context| {
        inbox.watcher.register(context.waker());
        loop {
            let polled = call.poll(context);
            let computes = polled.is_pending() && call.computes();
            if computes && inbox.works_for_nobody() {
                // Where it waits instead, it hears of that itself.
                return Poll::Ready(Outcome::Stopped);
            }
            if inbox.computes.swap(computes, Ordering::Relaxed) && !computes {
                // A request that came meanwhile passed it over, and waits.
                site.instances.room.notify_waiters();
            }
            if computes {
                for job in std::mem::take(&mut inbox.lock().waiting) {
                    let (site, handler) = (Arc::clone(site), handler.clone());
                    tokio::spawn(async move { place(&site, &handler, job).await });
                }
            }
            // One request after the other: a new one may compute for long, or fail, and take others with it.
            if polled.is_ready() || computes || inbox.waits.swap(true, Ordering::Relaxed) {
                return polled;
            }
        }
    })
    .await
}

/// Answers requests until the instance is used up, or idle for long.
async fn work(
    site: &Site, handler: &ServicePre<Guest>, inbox: &Arc<Inbox>, store: &mut Store<Guest>,
    made: Option<oneshot::Sender<()>>,
) -> wasmtime::Result<()> {
    let service = handler.instantiate_async(&mut *store).await?;
    if let Some(made) = made {
        let _ = made.send(());
    }
    let function = *service.wasi_http_handler().func_handle().func();
    let proxy = Proxy::P3(service);
    let alarm = site.alarms.alarm();
    let work = async |accessor: &Accessor<Guest>| {
        let mut requests = pin!(FuturesUnordered::new());
        let turn = |context: &mut Context<'_>| loop {
            match requests.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(()))) => {
                    site.instances.room.notify_waiters();
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let is_ready = inbox.waits.load(Ordering::Relaxed)
                && accessor.poll_ready_for_concurrent_call(function, context).is_ready();
            if let Some(job) = inbox.next(is_ready, context) {
                alarm.unset();
                inbox.waits.store(false, Ordering::Relaxed);
                requests.push(answer(accessor, &proxy, inbox, job));
                continue;
            }
            if requests.is_empty() {
                return rest(site, inbox, &alarm, accessor, context).map(Ok);
            }
            return Poll::Pending;
        };
        poll_fn(turn).await
    };
    store.run_concurrent(work).await?
}

/// An instance without requests: ready when it is to end.
fn rest(site: &Site, inbox: &Inbox, alarm: &Alarm, accessor: &Accessor<Guest>, context: &mut Context<'_>) -> Poll<()> {
    if inbox.is_closed() {
        if accessor.poll_no_interesting_tasks(context).is_ready() {
            return Poll::Ready(());
        }
        // Answers that are being sent have time limits of their own.
        if inbox.streams.load(Ordering::Relaxed) > 0 {
            alarm.unset();
            return Poll::Pending;
        }
        // What it does after its answers it may finish, within a time: a short one if some of it is for nobody.
        if !alarm.is_set() {
            alarm.set(if inbox.lock().abandoned { IDLE } else { site.limits.timeout });
        }
        ready!(alarm.poll_rung(context));
        inbox.has_failed.store(true, Ordering::Relaxed);
        return Poll::Ready(());
    }
    if !inbox.unwanted.swap(false, Ordering::Relaxed) {
        if inbox.is_ready() {
            return Poll::Pending;
        }
        if !alarm.is_set() {
            alarm.set(IDLE);
        }
        ready!(alarm.poll_rung(context));
    }
    if accessor.poll_no_interesting_tasks(context).is_pending() || !inbox.close_if_unused() {
        alarm.set(IDLE);
        // So that it is heard.
        return alarm.poll_rung(context);
    }
    Poll::Ready(())
}

/// Work on one request.
async fn answer(accessor: &Accessor<Guest>, proxy: &Proxy, inbox: &Inbox, job: Box<Job>) -> wasmtime::Result<()> {
    let Job { id, request, answer, gone, .. } = *job;
    let prepared = accessor.with(|mut store| {
        // The ticks while it waited are not this request's.
        store.as_context_mut().set_epoch_deadline(instance::FIRST_TICKS);
        Prepared::new(store.as_context_mut(), proxy, request, Guest::http, answer)
    })?;
    let gone = async { gone.await.unwrap_or_default() };
    let in_time = prepared.run(accessor, gone).await?;
    inbox.answered(id);
    if !in_time {
        // It goes on with what nobody waits for, and nothing can stop it but the instance's end.
        inbox.abandon();
    }
    Ok(())
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(inbox) = self.taken.get().filter(|_| !self.answer.is_terminated()) {
            inbox.left(self.id);
        }
    }
}

impl Reply {
    /// Notes that the answer, which has begun, is being sent.
    pub(super) fn streaming(&self) -> Option<Streaming> {
        let inbox = self.taken.get()?;
        inbox.streams.fetch_add(1, Ordering::Relaxed);
        Some(Streaming(Arc::clone(inbox)))
    }
}

impl Streaming {
    /// The guest does not go on with the answer. Nothing can stop it but the instance's end.
    pub(super) fn give_up(&self) {
        self.0.abandon();
        self.0.waker.wake();
    }

    /// Whether the end of the answer may be that of its instance.
    pub(super) fn was_cut_off(&self) -> bool {
        self.0.has_failed.load(Ordering::Relaxed)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            // It may have waited for that alone.
            self.0.waker.wake();
        }
    }
}

impl Instances {
    /// Gives a request to the first instance that has room; back if there is none.
    fn give(&self, site: &Site, job: Box<Job>) -> Result<(), Box<Job>> {
        let open = self.lock();
        let (most, together) = (site.limits.instance_reuse.unwrap_or(REUSE), site.limits.instance_concurrency);
        let mut job = job;
        for inbox in open.iter().filter(|inbox| !inbox.computes.load(Ordering::Relaxed)) {
            match inbox.push(job, most, together) {
                Ok(()) => return Ok(()),
                Err(back) => job = back,
            }
        }
        Err(job)
    }

    /// An instance has ended; gives back the requests that it had not begun.
    fn end(&self, inbox: &Arc<Inbox>, outcome: &Outcome) -> VecDeque<Box<Job>> {
        self.lock().retain(|other| !Arc::ptr_eq(other, inbox));
        let mut state = inbox.lock();
        state.closed = true;
        // It may have exited with 0, and owe answers.
        if *outcome != Outcome::Exited(0) || !state.working.is_empty() {
            match state.working.as_slice() {
                [] if state.given == 0 => tell_end(outcome, "an instance", "before its first request"),
                [] => tell_end(outcome, "an instance", "between two requests"),
                [work] => tell_end(outcome, &format!("request {}", work.id), "before it answered"),
                several => {
                    let ids: Vec<String> = several.iter().map(|work| work.id.to_string()).collect();
                    tell_end(outcome, &format!("requests {}", ids.join(", ")), "at one of them");
                }
            }
        }
        self.room.notify_waiters();
        std::mem::take(&mut state.waiting)
    }

    /// Those without a request end, unless they are given one first.
    pub(super) fn give_up_unused(&self) {
        for inbox in self.lock().iter() {
            inbox.unwanted.store(true, Ordering::Relaxed);
            inbox.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Inbox>>> {
        self.open.lock().expect("no panic while held")
    }
}

impl State {
    /// The next request that somebody waits for.
    fn next_wanted(&mut self) -> Option<Box<Job>> {
        loop {
            let mut job = self.waiting.pop_front()?;
            if matches!(job.gone.try_recv(), Ok(None)) {
                return Some(job);
            }
        }
    }
}

impl Inbox {
    /// Takes a request if there is room for it.
    fn push(&self, job: Box<Job>, most: u32, together: u32) -> Result<(), Box<Job>> {
        let mut state = self.lock();
        let now = state.working.len() + state.waiting.len();
        if state.closed || now >= together as usize {
            return Err(job);
        }
        self.unwanted.store(false, Ordering::Relaxed);
        state.given += 1;
        state.is_ready = false;
        state.closed = state.given >= most;
        state.waiting.push_back(job);
        drop(state);
        self.waker.wake();
        Ok(())
    }

    /// The next request, if the instance is ready for it; else it is told when there is one.
    fn next(self: &Arc<Self>, is_ready: bool, context: &mut Context<'_>) -> Option<Box<Job>> {
        self.waker.register(context.waker());
        let mut state = self.lock();
        let job = if is_ready { state.next_wanted()? } else { return None };
        state.working.push(Work { id: job.id, gone: false });
        // It was given back by none that had begun it.
        let _ = job.taken.set(Arc::clone(self));
        Some(job)
    }

    fn answered(&self, id: RequestId) {
        self.lock().working.retain(|work| work.id != id);
    }

    /// Nobody waits for this answer any more.
    fn left(&self, id: RequestId) {
        self.lock().working.iter_mut().filter(|work| work.id == id).for_each(|work| work.gone = true);
        self.watcher.wake();
    }

    /// Whether nobody waits for anything that it has begun, answers under way among it.
    fn works_for_nobody(&self) -> bool {
        let state = self.lock();
        let is_given_up = state.abandoned || !state.working.is_empty();
        is_given_up && state.working.iter().all(|work| work.gone) && self.streams.load(Ordering::Relaxed) == 0
    }

    /// Takes no more: it works on what nobody waits for.
    fn abandon(&self) {
        let mut state = self.lock();
        (state.closed, state.abandoned) = (true, true);
    }

    /// Takes no more, if there is nothing to do.
    fn close_if_unused(&self) -> bool {
        let mut state = self.lock();
        state.closed |= state.waiting.is_empty() && state.working.is_empty();
        state.closed
    }

    /// Whether it waits for its first request.
    fn is_ready(&self) -> bool {
        self.lock().is_ready
    }

    fn is_closed(&self) -> bool {
        let state = self.lock();
        state.closed && state.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Requests that an instance answers at most, as `wasmtime serve` has it.
const REUSE: u32 = 128;

/// How long an instance is kept that has no request, as `wasmtime serve` has it.
const IDLE: Duration = Duration::from_secs(1);
