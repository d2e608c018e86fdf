//! Where a guest is polled: on its worker's thread, and while it computes for long beside others, on one that gives
//! way to theirs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker, ready};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::busy::{Pace, Pending};
use crate::instance::{Outcome, panic_message};
use crate::stage::Stage;

/// What the thread of a guest that computes for long is niced by. With 5 the kernel still lets it finish its slice
/// now and then when a neighbour wakes up; with 19, neighbours that are busy would leave it a hundredth of a core.
const NICE: i32 = 10;

/// A guest's life, up to its end.
pub(crate) type Life = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How a guest's life goes on after a while on one thread.
pub(crate) enum Next {
    /// It has ended.
    Ended(Outcome),
    /// On another thread.
    Moves(Life),
}

/// Who polls a guest, and with what.
pub(crate) struct Lanes<'a> {
    /// What the threads are called.
    pub(crate) name: &'a str,
    pub(crate) pace: Arc<Pace>,
    pub(crate) stage: watch::Receiver<Stage>,
}

impl Lanes<'_> {
    /// Polls a guest to its end, or until its server is stopped; fails with the message of a hostcall that panicked.
    /// Within the worker's runtime, whose thread drives its timers and sockets wherever the guest is.
    pub(crate) async fn live(&self, mut life: Life) -> Result<Outcome, String> {
        loop {
            life = match self.at_home(life).await? {
                Next::Ended(outcome) => return Ok(outcome),
                Next::Moves(life) => life,
            };
            life = match self.aside(life).await? {
                Next::Ended(outcome) => return Ok(outcome),
                Next::Moves(life) => life,
            };
        }
    }

    /// On the worker's thread, for as long as the guest does not compute for long.
    async fn at_home(&self, mut life: Life) -> Result<Next, String> {
        let pace = Arc::clone(&self.pace);
        // A task of its own: waking the outermost future of a tokio runtime costs two syscalls.
        let mut task = tokio::spawn(async move {
            let ended = std::future::poll_fn(|context| match life.as_mut().poll(context) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if pace.pending() == Pending::ComputesLong => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match ended.await {
                Some(outcome) => Next::Ended(outcome),
                None => Next::Moves(life),
            }
        });
        let mut stage = self.stage.clone();
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = Stage::Stopped.reached(&mut stage) => {
                task.abort();
                task.await
            }
        };
        match ended {
            Ok(next) => Ok(next),
            Err(error) if error.is_cancelled() => Ok(Next::Ended(Outcome::Stopped)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// On a thread that gives way, until the guest waits for something.
    async fn aside(&self, life: Life) -> Result<Next, String> {
        match self.start_aside(life) {
            Ok(aside) => aside.await,
            Err(life) => Ok(Next::Moves(life)),
        }
    }

    /// Moves a guest to a thread that gives way, which ends when the guest waits for something: without a
    /// privilege, none gets back the priority that it gave up. Gives it back where there is no thread for it.
    pub(crate) fn start_aside(&self, life: Life) -> Result<Aside, Life> {
        let (give, given) = mpsc::channel::<Life>();
        let (done, next) = oneshot::channel();
        let (runtime, pace, stage) = (Handle::current(), Arc::clone(&self.pace), self.stage.clone());
        let thread = thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            // Where it is not allowed, neighbours wait for their turn, as beside any other program.
            let _ = rustix::process::nice(NICE);
            let Ok(life) = given.recv() else { return };
            pace.arrive();
            let next = catch_unwind(AssertUnwindSafe(|| {
                let _runtime = runtime.enter();
                compute(life, &pace, || *stage.borrow() == Stage::Stopped || done.is_closed())
            }));
            pace.leave();
            let _ = done.send(next);
        });
        if let Err(error) = thread {
            tracing::debug!("a guest that computes for long has no thread of its own: {error}");
            return Err(life);
        }
        self.pace.leave();
        match give.send(life) {
            Ok(()) => Ok(Aside { next, pace: Arc::clone(&self.pace) }),
            Err(mpsc::SendError(life)) => {
                self.pace.arrive();
                Err(life)
            }
        }
    }
}

/// A guest on a thread that gives way, up to when it comes back. It is stopped if nobody waits for that.
pub(crate) struct Aside {
    next: oneshot::Receiver<thread::Result<Next>>,
    pace: Arc<Pace>,
}

impl Future for Aside {
    type Output = Result<Next, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let next = ready!(Pin::new(&mut self.next).poll(context));
        self.pace.arrive();
        Poll::Ready(next.unwrap_or_else(|lost| Err(Box::new(lost))).map_err(|panic| panic_message(&*panic)))
    }
}

/// Polls a guest while it computes for long. It is woken by nobody: whatever it waits for is asked again at home.
fn compute(mut life: Life, pace: &Pace, is_over: impl Fn() -> bool) -> Next {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if is_over() {
            return Next::Ended(Outcome::Stopped);
        }
        match life.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => return Next::Ended(outcome),
            Poll::Pending if pace.pending() == Pending::ComputesLong => {}
            Poll::Pending => return Next::Moves(life),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::busy::Busy;
    use crate::worker::event_loop;

    /// A guest that does this at each poll.
    struct Script<F> {
        busy: Busy,
        step: F,
        dropped: Arc<AtomicBool>,
    }

    impl<F: FnMut(&mut Busy) -> Poll<Outcome> + Unpin> Future for Script<F> {
        type Output = Outcome;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
            // As what a guest waits for may do.
            assert!(Handle::try_current().is_ok(), "it is polled within its runtime");
            context.waker().wake_by_ref();
            let Self { busy, step, .. } = &mut *self;
            step(busy)
        }
    }

    impl<F> Drop for Script<F> {
        fn drop(&mut self) {
            assert!(Handle::try_current().is_ok(), "it is dropped within its runtime");
            self.dropped.store(true, Ordering::Relaxed);
        }
    }

    const MOST: Duration = Duration::from_secs(1);

    /// How a guest ends that does this at each poll, which is called with a way to stop the server.
    fn live(
        mut step: impl FnMut(&mut Busy, &watch::Sender<Stage>) -> Poll<Outcome> + Send + Unpin + 'static,
    ) -> Result<Outcome, String> {
        let dropped = Arc::default();
        let busy = Busy::new(Some(MOST));
        let (stop, stage) = watch::channel(Stage::Serving);
        let lanes = Lanes { name: "script", pace: busy.pace(), stage };
        let life =
            Box::pin(Script { busy, step: move |busy: &mut Busy| step(busy, &stop), dropped: Arc::clone(&dropped) });
        let ended = event_loop().expect("a test may have one").block_on(lanes.live(life));
        assert!(dropped.load(Ordering::Relaxed), "nothing of a guest is left when its end is told");
        ended
    }

    /// Computes until a tick finds that it takes long, which the first never does.
    fn compute_long(busy: &mut Busy) {
        let tick = |busy: &mut Busy| busy.tick(false).expect("less than the most");
        tick(busy);
        busy.pace().pending();
        let until = busy.pace().cpu_time() + Duration::from_millis(60);
        while busy.pace().cpu_time() < until {}
        tick(busy);
    }

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).expect("Linux tells it")
    }

    #[test]
    fn a_guest_that_computes_for_long_moves_until_it_waits() {
        let home = thread::current().id();
        let at_home = niceness();
        let mut step = 0;
        let ended = live(move |busy, _| {
            step += 1;
            let is_home = thread::current().id() == home;
            assert_eq!(is_home, matches!(step, 1 | 4 | 5), "in step {step}");
            if !is_home {
                let name = fs::read_to_string("/proc/thread-self/comm").expect("Linux has it");
                assert_eq!(name.trim_end(), "script");
                assert_eq!(niceness(), (at_home + NICE).min(19));
            }
            match step {
                1 => compute_long(busy),
                // It goes on.
                2 => busy.tick(false).expect("less than the most"),
                // It waits.
                3 | 4 => {}
                5 => compute_long(busy),
                _ => return Poll::Ready(Outcome::Exited(7)),
            }
            Poll::Pending
        });
        assert_eq!(ended, Ok(Outcome::Exited(7)));
    }

    #[test]
    fn its_cpu_time_is_counted_wherever_it_is() {
        let mut used = Duration::ZERO;
        let mut polls = 0;
        let ended = live(move |busy, _| {
            let now = busy.pace().cpu_time();
            assert!(now >= used, "{now:?} after {used:?}");
            polls += 1;
            if polls == 1 {
                compute_long(busy);
            } else if busy.tick(false).is_err() {
                assert!(now >= MOST, "{now:?}");
                assert!(now < 2 * MOST, "{now:?}");
                return Poll::Ready(Outcome::Exited(0));
            }
            // Once in a while it waits, which ends no stretch of the limit.
            if polls % 1000 == 0 {
                busy.pace().pending();
            }
            used = busy.pace().cpu_time();
            Poll::Pending
        });
        assert_eq!(ended, Ok(Outcome::Exited(0)));
    }

    #[test]
    fn it_is_stopped_wherever_it_is() {
        let mut polls = 0;
        let ended = live(move |busy, stop| {
            polls += 1;
            match polls {
                1 => compute_long(busy),
                2 => {
                    busy.tick(false).expect("less than the most");
                    stop.send_replace(Stage::Stopped);
                }
                _ => panic!("it was stopped"),
            }
            Poll::Pending
        });
        assert_eq!(ended, Ok(Outcome::Stopped));
    }

    #[test]
    fn a_panic_is_told_wherever_it_is() {
        for moves in [false, true] {
            let mut polls = 0;
            let ended = live(move |busy, _| {
                polls += 1;
                assert!(moves && polls == 1, "a hostcall fails");
                compute_long(busy);
                Poll::Pending
            });
            let told = ended.expect_err("it has panicked");
            assert!(told.contains("a hostcall fails"), "{told}");
        }
    }
}
