//! How long a guest has computed without a look at its sockets: the limit that ends an endless loop.

use std::fmt;
use std::time::Duration;

use rustix::time::ClockId;

/// What a guest that serves may compute in one stretch, unless it is said: as gunicorn ends a worker
/// that was silent for as long. A guest that serves nothing may compute for as long as it likes.
const SERVING_CPU_TIME: Duration = Duration::from_secs(30);

/// A guest's stretch of computing.
#[derive(Debug)]
pub(crate) struct Busy {
    most: Option<Duration>,
    serving: bool,
    /// Counts the calls by which the guest waits for its sockets or moves their bytes.
    turns: u64,
    /// The turn in which the stretch began, and the thread's CPU time then.
    stretch: Option<(u64, Duration)>,
}

/// The guest has computed for too long.
#[derive(Debug)]
pub(crate) struct Overrun(Duration);

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = (self.0 * 2).as_secs().max(1);
        write!(f, "it computed for {:?} without a look at its sockets; if it may, add `--cpu-time {more}s`", self.0)
    }
}

impl std::error::Error for Overrun {}

impl Busy {
    /// At most this long; by default as long as fits a guest that serves.
    pub(crate) fn new(most: Option<Duration>) -> Self {
        Self { most, serving: false, turns: 0, stretch: None }
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
        self.turns = self.turns.wrapping_add(1);
    }

    /// Called at ticks, while the guest computes.
    pub(crate) fn tick(&mut self) -> Result<(), Overrun> {
        self.limit().map_or(Ok(()), |most| self.tick_at(thread_cpu_time(), most))
    }

    fn limit(&self) -> Option<Duration> {
        self.most.or_else(|| self.serving.then_some(SERVING_CPU_TIME))
    }

    fn tick_at(&mut self, now: Duration, most: Duration) -> Result<(), Overrun> {
        match self.stretch {
            Some((turns, since)) if turns == self.turns => {
                if now.saturating_sub(since) < most {
                    Ok(())
                } else {
                    Err(Overrun(most))
                }
            }
            _ => {
                self.stretch = Some((self.turns, now));
                Ok(())
            }
        }
    }
}

/// What this thread has used: what others use meanwhile does not count.
fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_ends_with_a_look_at_the_sockets() {
        let most = Duration::from_secs(2);
        let mut busy = Busy::new(Some(most));
        let tick = |busy: &mut Busy, millis| busy.tick_at(Duration::from_millis(millis), most).is_ok();
        assert!(tick(&mut busy, 1000));
        assert!(tick(&mut busy, 2999));
        busy.turn();
        assert!(tick(&mut busy, 3001));
        assert!(tick(&mut busy, 5000));
        assert!(!tick(&mut busy, 5001));
    }

    #[test]
    fn only_a_guest_that_serves_has_a_limit_by_default() {
        let mut busy = Busy::new(None);
        assert_eq!(busy.limit(), None);
        busy.serves();
        assert_eq!(busy.limit(), Some(SERVING_CPU_TIME));
    }
}
