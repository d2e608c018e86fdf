//! Timers of a guest's own, each of which raises a signal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{AbortHandle, abortable};

use super::process::{MAIN, Process};

/// One for each signal.
#[derive(Default)]
pub(crate) struct Timers(Mutex<HashMap<u32, Timer>>);

/// It runs for as long as this is held.
struct Timer(AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Process {
    /// Raises a signal for the first thread when this time has passed, once or each time, instead of what was said of
    /// it before; never without a time.
    pub(crate) fn raise_after(self: &Arc<Self>, signal: u32, time: Option<Duration>, repeats: bool) {
        let timer = time.map(|time| {
            let (life, abort) = abortable(raise_each(Arc::downgrade(self), signal, time, repeats));
            tokio::spawn(life);
            Timer(abort)
        });
        let mut timers = self.timers.0.lock().unwrap_or_else(PoisonError::into_inner);
        match timer {
            Some(timer) => timers.insert(signal, timer),
            None => timers.remove(&signal),
        };
    }
}

async fn raise_each(process: Weak<Process>, signal: u32, time: Duration, repeats: bool) {
    loop {
        tokio::time::sleep(time).await;
        let Some(process) = process.upgrade() else { return };
        process.raise(MAIN, signal);
        if !repeats {
            return;
        }
    }
}
