//! How long a guest has computed: the limit that ends an endless loop, and what is told to who polls it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::ClockId;

use crate::spelling::option;

/// What a guest that serves may compute in one stretch, unless it is said: as gunicorn ends a worker
/// that was silent for as long. A guest that serves nothing may compute for as long as it likes.
const SERVING_CPU_TIME: Duration = Duration::from_secs(30);

/// What a guest computes at once before its neighbours come first. Most answers take less, and a thread
/// for the rest of it costs a thousandth of that.
const LONG: Duration = Duration::from_millis(50);

/// A guest's stretch of computing.
#[derive(Debug)]
pub(crate) struct Busy {
    most: Option<Duration>,
    serving: bool,
    /// The turn in which the stretch began, and the guest's CPU time then.
    stretch: Option<(u64, Duration)>,
    /// The same, but it ends too where the guest waits for anything else.
    unbroken: Option<Duration>,
    pace: Arc<Pace>,
}

/// The guest has computed for too long.
#[derive(Debug)]
pub(crate) struct Overrun(Duration);

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = (self.0 * 2).as_secs().max(1);
        let longer = option("cpu-time", format!("{more}s"));
        write!(f, "it computed for {:?} without a look at its sockets; if it may, add `{longer}`", self.0)
    }
}

impl std::error::Error for Overrun {}

impl Busy {
    /// At most this long; by default as long as fits a guest that serves.
    pub(crate) fn new(most: Option<Duration>) -> Self {
        Self { most, serving: false, stretch: None, unbroken: None, pace: Arc::default() }
    }

    /// The same for another thread of the guest: whichever of them looks at its sockets, the guest does.
    pub(crate) fn sibling(&self) -> Self {
        let pace = Pace { looks: Arc::clone(&self.pace.looks), ..Pace::default() };
        Self { pace: Arc::new(pace), ..self.fork() }
    }

    /// The same for another process of the guest, which looks for itself.
    pub(crate) fn fork(&self) -> Self {
        Self { most: self.most, serving: self.serving, stretch: None, unbroken: None, pace: Arc::default() }
    }

    /// What is told to who polls the guest.
    pub(crate) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// The guest has begun to serve: it listens, or looks for connections where it was handed a listener.
    pub(crate) fn serves(&mut self) {
        self.serving = true;
    }

    /// Whether it has begun to.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving
    }

    /// The guest looks at its sockets.
    pub(crate) fn turn(&mut self) {
        self.pace.turn();
    }

    /// The guest begins a hostcall of any kind.
    pub(crate) fn calls(&self) {
        self.pace.is_looking.store(false, Ordering::Relaxed);
    }

    /// How often it has looked at its sockets.
    pub(crate) fn turns(&self) -> u64 {
        self.pace.looks.turns.load(Ordering::Relaxed)
    }

    /// Called at ticks, while the guest computes; alone or beside other guests.
    pub(crate) fn tick(&mut self, alone: bool) -> Result<(), Overrun> {
        self.tick_at(self.pace.cpu_time(), alone)
    }

    fn limit(&self) -> Option<Duration> {
        self.most.or_else(|| self.serving.then_some(SERVING_CPU_TIME))
    }

    fn tick_at(&mut self, now: Duration, alone: bool) -> Result<(), Overrun> {
        let now_turns = self.turns();
        let same = |(turns, since)| (turns == now_turns).then_some(since);
        let unbroken = self.unbroken.filter(|_| !self.pace.has_waited());
        // A guest of which another thread waits for sockets would see a client: no need to look at them for this one.
        let alone_at_work = self.pace.looks.under_way.load(Ordering::Relaxed) == 0;
        let (since, unbroken) = match self.stretch.and_then(same).filter(|_| alone_at_work) {
            Some(since) => (since, unbroken.unwrap_or(now)),
            None => (now, now),
        };
        self.stretch = Some((now_turns, since));
        self.unbroken = Some(unbroken);
        let long = !alone && now.saturating_sub(unbroken) >= LONG;
        self.pace.set(if long { LONG_TICK } else { TICK });
        match self.limit() {
            Some(most) if now.saturating_sub(since) >= most => Err(Overrun(most)),
            _ => Ok(()),
        }
    }
}

/// What a guest's ticks and whoever polls it tell each other: each is on whichever thread polls.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// What the guest did last: one of the four below.
    last: AtomicU8,
    /// What the polling thread's CPU time lacks to be the guest's, in nanoseconds. Between two threads,
    /// all of it.
    lacking: AtomicI64,
    /// Of all threads.
    looks: Arc<Looks>,
    /// The hostcall that the guest is in, or was in last, is one of those.
    is_looking: AtomicBool,
    /// The thread that polls has [arrived](Pace::arrive): of guests whose threads move.
    is_here: AtomicBool,
}

/// How a guest's threads look at its sockets.
#[derive(Debug, Default)]
struct Looks {
    /// Counts the calls by which they wait for sockets or move their bytes.
    turns: AtomicU64,
    /// Threads that wait so at this moment.
    under_way: AtomicUsize,
}

/// A thread waits for its sockets for as long as this is held.
pub(crate) struct Looking(Arc<Looks>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// It waited for something.
const WAIT: u8 = 0;
/// It was interrupted by a tick.
const TICK: u8 = 1;
/// It was, and has computed for long, beside other guests.
const LONG_TICK: u8 = 2;
/// It goes on after a tick.
const GOES_ON: u8 = 3;

/// Why a guest is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// It waits for something.
    Waits,
    /// It would compute on.
    Computes,
    /// It would too, and has done so for long, beside other guests.
    ComputesLong,
}

impl Pace {
    /// The guest looks at its sockets.
    pub(crate) fn turn(&self) {
        self.looks.turns.fetch_add(1, Ordering::Relaxed);
        self.is_looking.store(true, Ordering::Relaxed);
    }

    /// Called where a thread waits: whether it is for its sockets.
    pub(crate) fn look(&self) -> Option<Looking> {
        self.is_looking.load(Ordering::Relaxed).then(|| {
            self.looks.under_way.fetch_add(1, Ordering::Relaxed);
            Looking(Arc::clone(&self.looks))
        })
    }

    /// Called after each poll that found the guest not ready.
    pub(crate) fn pending(&self) -> Pending {
        let last = self.last.load(Ordering::Relaxed);
        let (pending, next) = match last {
            TICK => (Pending::Computes, GOES_ON),
            LONG_TICK => (Pending::ComputesLong, GOES_ON),
            _ => (Pending::Waits, WAIT),
        };
        if next != last {
            self.set(next);
        }
        pending
    }

    /// The guest leaves this thread: called before [`Pace::arrive`] on another.
    pub(crate) fn leave(&self) {
        self.lacking.fetch_add(nanoseconds(thread_cpu_time()), Ordering::Relaxed);
    }

    /// The guest is polled by this thread from now on.
    pub(crate) fn arrive(&self) {
        self.lacking.fetch_sub(nanoseconds(thread_cpu_time()), Ordering::Relaxed);
    }

    /// Called where a thread of a guest computes that may be polled by another one each time.
    pub(crate) fn come(&self) {
        if !self.is_here.swap(true, Ordering::Relaxed) {
            self.arrive();
        }
    }

    /// Called after each of its polls.
    pub(crate) fn go(&self) {
        if self.is_here.swap(false, Ordering::Relaxed) {
            self.leave();
        }
    }

    /// What the guest has used: what others use meanwhile does not count.
    pub(crate) fn cpu_time(&self) -> Duration {
        let time = nanoseconds(thread_cpu_time()).saturating_add(self.lacking.load(Ordering::Relaxed));
        Duration::from_nanos(time.try_into().unwrap_or_default())
    }

    fn has_waited(&self) -> bool {
        self.last.load(Ordering::Relaxed) == WAIT
    }

    fn set(&self, last: u8) {
        self.last.store(last, Ordering::Relaxed);
    }
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// No thread lives for the 292 years that are too many.
fn nanoseconds(time: Duration) -> i64 {
    time.as_nanos().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const ALONE: bool = true;

    fn at(busy: &mut Busy, millis: u64, alone: bool) -> bool {
        busy.tick_at(Duration::from_millis(millis), alone).is_ok()
    }

    #[test]
    fn a_stretch_ends_with_a_look_at_the_sockets() {
        let mut busy = Busy::new(Some(Duration::from_secs(2)));
        assert!(at(&mut busy, 1000, ALONE));
        assert!(at(&mut busy, 2999, ALONE));
        busy.turn();
        assert!(at(&mut busy, 3001, ALONE));
        // To wait for something else does not end it.
        assert_eq!([busy.pace.pending(), busy.pace.pending()], [Pending::Computes, Pending::Waits]);
        assert!(at(&mut busy, 5000, ALONE));
        assert!(!at(&mut busy, 5001, ALONE));
    }

    #[test]
    fn a_thread_may_compute_while_another_waits_for_sockets() {
        let mut busy = Busy::new(Some(Duration::from_secs(2)));
        let other = busy.sibling();
        assert!(other.pace.look().is_none(), "it waits for nothing yet");
        other.pace.turn();
        let looking = other.pace.look();
        assert!(looking.is_some());
        assert!(at(&mut busy, 1000, ALONE) && at(&mut busy, 9000, ALONE));
        drop(looking);
        assert!(at(&mut busy, 10_999, ALONE));
        assert!(!at(&mut busy, 11_000, ALONE));
        // It waits for something else.
        other.calls();
        assert!(other.pace.look().is_none());
    }

    #[test]
    fn only_a_guest_that_serves_has_a_limit_by_default() {
        let mut busy = Busy::new(None);
        assert_eq!(busy.limit(), None);
        busy.serves();
        assert_eq!(busy.limit(), Some(SERVING_CPU_TIME));
    }

    #[test]
    fn long_is_what_has_neither_waited_nor_looked_at_its_sockets() {
        let mut busy = Busy::new(None);
        let mut pending = |millis, turns: u64, alone| {
            busy.pace.looks.turns.fetch_add(turns, Ordering::Relaxed);
            assert!(at(&mut busy, millis, alone));
            let pending = busy.pace.pending();
            (pending, busy.pace())
        };
        assert_eq!(pending(1000, 0, !ALONE).0, Pending::Computes);
        assert_eq!(pending(1049, 0, !ALONE).0, Pending::Computes);
        assert_eq!(pending(1050, 0, ALONE).0, Pending::Computes);
        assert_eq!(pending(1060, 0, !ALONE).0, Pending::ComputesLong);
        // Still.
        assert_eq!(pending(1070, 0, !ALONE).0, Pending::ComputesLong);
        assert_eq!(pending(1080, 1, !ALONE).0, Pending::Computes);
        let (long, pace) = pending(1130, 0, !ALONE);
        assert_eq!(long, Pending::ComputesLong);
        assert_eq!([pace.pending(), pace.pending()], [Pending::Waits; 2]);
        assert_eq!(pending(1140, 0, !ALONE).0, Pending::Computes);
        assert_eq!(pending(1189, 0, !ALONE).0, Pending::Computes);
        assert_eq!(pending(1190, 0, !ALONE).0, Pending::ComputesLong);
    }

    /// Computes on this thread for as long, whatever else the machine does.
    fn compute(time: Duration) {
        let until = thread_cpu_time() + time;
        while thread_cpu_time() < until {}
    }

    #[test]
    fn cpu_time_goes_with_the_guest_from_thread_to_thread() {
        const STEP: Duration = Duration::from_millis(20);
        let pace = Pace::default();
        let own = thread_cpu_time();
        let begin = pace.cpu_time();
        compute(STEP);
        pace.leave();
        thread::scope(|threads| {
            let other = threads.spawn(|| {
                // Not the guest's.
                compute(10 * STEP);
                pace.arrive();
                compute(STEP);
                pace.leave();
            });
            other.join().expect("it does not panic");
        });
        compute(10 * STEP);
        pace.arrive();
        let used = pace.cpu_time() - begin;
        assert!(used >= 2 * STEP, "{used:?}");
        assert!(used < 10 * STEP, "{used:?}");
        assert!(own <= begin);
    }
}
