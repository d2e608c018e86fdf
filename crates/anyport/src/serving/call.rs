//! A guest at work on one request: polled where its connection is, and on a thread that gives way while it
//! computes for long.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::Site;
use crate::busy::{Pace, Pending};
use crate::instance::Outcome;
use crate::instance::panic_message;
use crate::lane::{Aside, Lanes, Life, Next};

/// The rest of a guest's work on a request.
pub(super) struct Call {
    place: Place,
    pace: Arc<Pace>,
    computes: bool,
    /// It was on a thread that gives way, and may go there as it is.
    travels: bool,
    site: Arc<Site>,
}

/// Where it is polled.
enum Place {
    Here(Life),
    Aside(Aside),
    /// It has ended.
    Nowhere,
}

impl Call {
    pub(super) fn new(life: Life, pace: Arc<Pace>, site: &Arc<Site>) -> Self {
        Self { place: Place::Here(life), pace, computes: false, travels: false, site: Arc::clone(site) }
    }

    /// Whether it was interrupted while it computed, and would go on.
    pub(super) fn computes(&self) -> bool {
        self.computes
    }

    /// Lets the guest work; ready once, when it has ended, with how.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            let next = match &mut self.place {
                Place::Here(life) => match poll_life(&self.site, life, context) {
                    Poll::Ready(next) => next,
                    Poll::Pending => {
                        let pending = self.pace.pending();
                        self.computes = pending != Pending::Waits;
                        if pending != Pending::ComputesLong || !self.leave() {
                            return Poll::Pending;
                        }
                        // So that its end is heard of.
                        continue;
                    }
                },
                Place::Aside(aside) => ready!(Pin::new(aside).poll(context)),
                Place::Nowhere => {
                    debug_assert!(false, "a guest's work on a request is polled after its end");
                    return Poll::Pending;
                }
            };
            self.place = Place::Nowhere;
            self.computes = false;
            match next {
                Ok(Next::Moves(life)) => self.place = Place::Here(life),
                Ok(Next::Ended(outcome)) => return Poll::Ready(outcome),
                Err(panic) => return Poll::Ready(panicked(&panic)),
            }
        }
    }

    /// To a thread that gives way; false if there is none.
    fn leave(&mut self) -> bool {
        let Place::Here(life) = std::mem::replace(&mut self.place, Place::Nowhere) else { return false };
        let life = if std::mem::replace(&mut self.travels, true) { life } else { ticking(life, &self.site) };
        let lanes = Lanes { name: &self.site.name, pace: Arc::clone(&self.pace), stage: self.site.stage.clone() };
        self.place = match lanes.start_aside(life) {
            Ok(aside) => Place::Aside(aside),
            Err(life) => Place::Here(life),
        };
        matches!(self.place, Place::Aside(_))
    }
}

/// The same life, which is interrupted wherever it computes: the ticker rests while it knows of nobody who does.
fn ticking(mut life: Life, site: &Arc<Site>) -> Life {
    let engine = Arc::clone(&site.engine);
    Box::pin(poll_fn(move |context| {
        let _running = engine.ticker.run();
        life.as_mut().poll(context)
    }))
}

/// Polls once; a hostcall that panics ends this guest alone.
fn poll_life(site: &Site, life: &mut Life, context: &mut Context<'_>) -> Poll<Result<Next, String>> {
    let _running = site.engine.ticker.run();
    match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(context))) {
        Ok(polled) => polled.map(|outcome| Ok(Next::Ended(outcome))),
        Err(panic) => Poll::Ready(Err(panic_message(&*panic))),
    }
}

fn panicked(panic: &str) -> Outcome {
    Outcome::Trapped { reason: format!("anyport failed in a hostcall: {panic}"), backtrace: String::new() }
}
