//! Time limits of connections and requests: many of them, which nearly never pass, for a few stores each.
//!
//! A timer of tokio's for each would cost more than a small request. Here one timer of a worker looks at all of
//! them, now and then, and only while there are any: a limit may pass late, by one look.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::sync::Notify;

/// The shortest and the longest time between two looks.
const LOOK_LEAST: Duration = Duration::from_millis(5);
const LOOK_MOST: Duration = Duration::from_secs(1);

/// All alarms of one worker.
#[derive(Debug)]
pub(crate) struct Alarms {
    /// Counts looks.
    now: AtomicU32,
    look: Duration,
    set: Mutex<Slab<Arc<Bell>>>,
    /// Told when there is one after there was none.
    some: Notify,
}

/// What rings.
#[derive(Debug)]
struct Bell {
    /// The look at which it does; [`NEVER`] for none.
    at: AtomicU32,
    rung: AtomicBool,
    waker: AtomicWaker,
}

/// The look that never comes.
const NEVER: u32 = u32::MAX;

/// One alarm; no more when it is dropped.
#[derive(Debug)]
pub(crate) struct Alarm {
    alarms: Arc<Alarms>,
    bell: Arc<Bell>,
    place: usize,
}

impl Alarms {
    /// None yet; `shortest` is the shortest time that any will be set to.
    pub(crate) fn new(shortest: Duration) -> Arc<Self> {
        let look = (shortest / 10).clamp(LOOK_LEAST, LOOK_MOST);
        Arc::new(Self { now: AtomicU32::new(0), look, set: Mutex::default(), some: Notify::new() })
    }

    /// A new alarm, not set.
    pub(crate) fn alarm(self: &Arc<Self>) -> Alarm {
        let bell =
            Arc::new(Bell { at: AtomicU32::new(NEVER), rung: AtomicBool::new(false), waker: AtomicWaker::new() });
        let mut set = self.lock();
        if set.is_empty() {
            self.some.notify_one();
        }
        let place = set.insert(Arc::clone(&bell));
        Alarm { alarms: Arc::clone(self), bell, place }
    }

    /// Looks again and again.
    pub(crate) async fn look(&self) {
        loop {
            while self.lock().is_empty() {
                self.some.notified().await;
            }
            tokio::time::sleep(self.look).await;
            let now = self.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let due: Vec<Arc<Bell>> =
                self.lock().iter().filter(|(_, bell)| bell.is_due(now)).map(|(_, bell)| Arc::clone(bell)).collect();
            for bell in due {
                bell.ring(now);
            }
        }
    }

    /// Wakes all who wait for one, though none has rung: there is something else to see.
    pub(crate) fn wake_all(&self) {
        let all: Vec<Arc<Bell>> = self.lock().iter().map(|(_, bell)| Arc::clone(bell)).collect();
        for bell in all {
            bell.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Bell>>> {
        self.set.lock().expect("no panic while held")
    }
}

impl Bell {
    fn is_due(&self, now: u32) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        // Looks are counted in a circle, of which a set alarm is in the half ahead.
        at != NEVER && now.wrapping_sub(at) < u32::MAX / 2
    }

    fn ring(&self, now: u32) {
        // It may have been set to another time meanwhile.
        if !self.is_due(now) {
            return;
        }
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Alarm {
    /// Rings after this time, in place of the time before. That it has rung, unheard, is forgotten.
    pub(crate) fn set(&self, after: Duration) {
        self.bell.rung.store(false, Ordering::Relaxed);
        self.bell.at.store(self.alarms.after(after), Ordering::Relaxed);
    }

    /// Does not ring.
    pub(crate) fn unset(&self) {
        self.bell.rung.store(false, Ordering::Relaxed);
        self.bell.at.store(NEVER, Ordering::Relaxed);
    }

    /// Whether it is set.
    pub(crate) fn is_set(&self) -> bool {
        self.bell.at.load(Ordering::Relaxed) != NEVER
    }

    /// Ready when it has rung, once.
    pub(crate) fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.bell.waker.register(context.waker());
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&self) -> bool {
        if !self.bell.rung.load(Ordering::Relaxed) {
            return false;
        }
        self.bell.at.store(NEVER, Ordering::Relaxed);
        self.bell.rung.swap(false, Ordering::Acquire)
    }
}

impl Alarms {
    /// The look that comes after this time at the earliest.
    fn after(&self, time: Duration) -> u32 {
        let looks = time.as_nanos().div_ceil(self.look.as_nanos()) + 1;
        match u32::try_from(looks) {
            Ok(looks) if looks < u32::MAX / 2 => match self.now.load(Ordering::Relaxed).wrapping_add(looks) {
                NEVER => 0,
                at => at,
            },
            _ => NEVER,
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.alarms.lock().remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_once_and_not_early() {
        let alarms = Alarms::new(Duration::from_millis(50));
        tokio::spawn({
            let alarms = Arc::clone(&alarms);
            async move { alarms.look().await }
        });
        let (first, never) = (alarms.alarm(), alarms.alarm());
        let started = Instant::now();
        first.set(Duration::from_millis(50));
        never.set(Duration::MAX);
        assert!(!never.is_set());
        poll_fn(|context| first.poll_rung(context)).await;
        assert!(started.elapsed() >= Duration::from_millis(50));
        let again = tokio::time::timeout(Duration::from_millis(30), poll_fn(|context| first.poll_rung(context)));
        assert!(again.await.is_err(), "it was heard");
        first.set(Duration::from_millis(5));
        while !first.bell.rung.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        first.unset();
        let late = poll_fn(|context| Poll::Ready(first.poll_rung(context)));
        assert!(late.await.is_pending(), "it came too late");
    }

    #[test]
    fn looks_are_counted_in_a_circle() {
        let alarms = Alarms::new(Duration::from_secs(10));
        alarms.now.store(u32::MAX - 1, Ordering::Relaxed);
        let alarm = alarms.alarm();
        alarm.set(Duration::from_secs(2));
        assert!(!alarm.bell.is_due(u32::MAX - 1));
        assert!(!alarm.bell.is_due(0));
        assert!(alarm.bell.is_due(2));
    }
}
