//! `poll_oneoff`, and `WasmEdge`'s edge-triggered twin of it.
//!
//! Follows what guests rely on (`dialects` in ARCHITECTURE.md): no transient error in an event, a
//! listener polled for writing neither fires nor fails, hang-up only when both directions are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::descriptor::{Descriptor, Socket};
use crate::dialect::hostcall::{Fault, Hostcall};
use crate::errno::Errno;
use crate::guest::{Generation, Guest};
use crate::memory::Memory;
use crate::net::{Interest, Ready};
use crate::readiness::{Patience, Watch};

use super::clock;

/// Bytes of a `subscription` and of an `event` in guest memory.
const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;

/// `eventtype`.
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;

/// `subclockflags.subscription_clock_abstime`.
const ABSTIME: u16 = 1;
/// `eventrwflags.fd_readwrite_hangup`.
const HANGUP: u16 = 1;

/// What a subscription waits for.
enum Wanted {
    Clock(Instant),
    /// What never comes.
    Never,
    /// Its watch, and the socket that remembers what its guest was told.
    Watch {
        index: usize,
        socket: Option<Arc<Socket>>,
    },
    /// Known at once.
    Failed(Errno),
}

struct Subscription {
    userdata: u64,
    kind: u8,
    wanted: Wanted,
}

/// A wait in the making: the subscriptions of one call.
#[derive(Default)]
struct Wait {
    subscriptions: Vec<Subscription>,
    watches: Vec<Watch>,
    soonest: Option<Instant>,
    failed: bool,
}

/// `poll_oneoff(in, out, nsubscriptions) -> size`
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#poll_oneoff>
pub(crate) async fn oneoff(
    guest: &mut Guest, memory: &mut Memory<'_>, subscriptions: u32, events: u32, count: u32, ro_nevents: u32,
) -> Hostcall {
    poll(guest, memory, subscriptions, events, count, ro_nevents, false).await
}

/// `epoll_oneoff`: tells of a readiness once, until the socket was used.
/// `WasmEdge` `WasiEpollOneoff`, since 0.11.2.
pub(crate) async fn epoll_oneoff(
    guest: &mut Guest, memory: &mut Memory<'_>, subscriptions: u32, events: u32, count: u32, ro_nevents: u32,
) -> Hostcall {
    poll(guest, memory, subscriptions, events, count, ro_nevents, true).await
}

async fn poll(
    guest: &mut Guest, memory: &mut Memory<'_>, subscriptions: u32, events: u32, count: u32, ro_nevents: u32,
    edge: bool,
) -> Hostcall {
    // The specification refuses a call that waits for nothing, and tokio on preview1 expects that. WasmEdge
    // does not, and mio_wasi passes no subscription at times.
    let too_few = count == 0 && guest.generation == Generation::NotWasmEdge;
    if too_few || count > guest.limits.subscriptions {
        return Err(Errno::Invalid.into());
    }
    let (subscribed, watched) = (Vec::with_capacity(count as usize), Vec::with_capacity(count as usize));
    let mut wait = Wait { subscriptions: subscribed, watches: watched, ..Wait::default() };
    for index in 0..count {
        let at = array_element(subscriptions, index, SUBSCRIPTION_BYTES)?;
        wait.add(guest, memory, at, edge)?;
    }
    if count > 0 {
        let patience = wait.patience();
        guest.busy.turn();
        guest.pacing.any(&mut wait.watches, patience).await;
    }
    let told = wait.write_events(memory, events)?;
    Ok(memory.write(ro_nevents, told)?)
}

impl Wait {
    fn add(&mut self, guest: &mut Guest, memory: &Memory<'_>, at: u32, edge: bool) -> Hostcall {
        let userdata = memory.read(at)?;
        let kind: u8 = memory.read(at + 8)?;
        let wanted = match kind {
            CLOCK => self.add_clock(guest, memory, at)?,
            FD_READ => self.add_watch(guest, memory.read(at + 16)?, Interest::Read, edge),
            FD_WRITE => self.add_watch(guest, memory.read(at + 16)?, Interest::Write, edge),
            _ => return Err(Errno::Invalid.into()),
        };
        self.failed |= matches!(wanted, Wanted::Failed(_));
        self.subscriptions.push(Subscription { userdata, kind, wanted });
        Ok(())
    }

    fn add_clock(&mut self, guest: &Guest, memory: &Memory<'_>, at: u32) -> Result<Wanted, Fault> {
        let id = memory.read(at + 16)?;
        let timeout = Duration::from_nanos(memory.read(at + 24)?);
        let flags: u16 = memory.read(at + 40)?;
        Ok(match clock::deadline(guest, id, timeout, flags & ABSTIME != 0) {
            Err(errno) => Wanted::Failed(errno),
            Ok(deadline) => {
                self.soonest = match (self.soonest, deadline) {
                    (Some(soonest), Some(deadline)) => Some(soonest.min(deadline)),
                    (soonest, deadline) => soonest.or(deadline),
                };
                deadline.map_or(Wanted::Never, Wanted::Clock)
            }
        })
    }

    fn add_watch(&mut self, guest: &mut Guest, fd: u32, interest: Interest, edge: bool) -> Wanted {
        let descriptor = match guest.descriptors.get(fd) {
            Ok(descriptor) => descriptor,
            Err(errno) => return Wanted::Failed(errno),
        };
        guest.looks_for_connections(&descriptor);
        let socket = match &descriptor {
            Descriptor::Socket(socket) => Some(Arc::clone(socket)),
            _ => None,
        };
        let told = socket.as_ref().is_some_and(|socket| socket.was_told(interest));
        if told && edge {
            return Wanted::Never;
        }
        let stale = told && interest == Interest::Write;
        self.watches.push(Watch { stale, ..Watch::new(descriptor, interest) });
        Wanted::Watch { index: self.watches.len() - 1, socket }
    }

    fn patience(&self) -> Patience {
        match self.soonest {
            _ if self.failed => Patience::None,
            Some(deadline) => Patience::Until(deadline),
            None => Patience::Forever,
        }
    }

    /// Writes what came about, in the order of the subscriptions; how many.
    fn write_events(&self, memory: &mut Memory<'_>, events: u32) -> Result<u32, Fault> {
        let now = Instant::now();
        let mut told = 0;
        for subscription in &self.subscriptions {
            let Some(outcome) = self.outcome(&subscription.wanted, now) else { continue };
            write_event(memory, array_element(events, told, EVENT_BYTES)?, subscription, outcome)?;
            told += 1;
        }
        Ok(told)
    }

    /// What came of a subscription, with the bytes it can move; nothing if it still waits.
    fn outcome(&self, wanted: &Wanted, now: Instant) -> Option<Result<(Ready, u64), Errno>> {
        match wanted {
            Wanted::Failed(errno) => Some(Err(*errno)),
            Wanted::Clock(due) => (*due <= now).then_some(Ok((Ready::default(), 0))),
            Wanted::Never => None,
            Wanted::Watch { index, socket } => {
                let watch = &self.watches[*index];
                let outcome = watch.outcome?;
                let socket = socket.as_ref();
                socket.inspect(|socket| socket.tell(watch.interest));
                // How many bytes is not known without asking. Asked where it is looked at: wasi-libc's
                // FIONREAD polls beside a clock that is due, others only see whether there are any.
                let asked = watch.interest == Interest::Read && self.soonest.is_some_and(|due| due <= now);
                let unread = socket.filter(|_| asked).and_then(|socket| socket.endpoint().unread().ok());
                Some(outcome.map(|ready| (ready, unread.unwrap_or_default().max(1))))
            }
        }
    }
}

fn write_event(
    memory: &mut Memory<'_>, at: u32, subscription: &Subscription, outcome: Result<(Ready, u64), Errno>,
) -> Hostcall {
    memory.write_bytes(at, &[0; EVENT_BYTES as usize])?;
    memory.write(at, subscription.userdata)?;
    memory.write(at + 10, subscription.kind)?;
    match outcome {
        Err(errno) => memory.write(at + 8, errno.number())?,
        Ok((ready, bytes)) => {
            memory.write(at + 16, bytes)?;
            memory.write(at + 24, if ready.hangup { HANGUP } else { 0 })?;
        }
    }
    Ok(())
}

/// A subscription in words: `read 3`, `clock 1.500000s`.
pub(crate) fn describe_subscription(memory: &Memory<'_>, subscriptions: u32, index: u32) -> Result<String, Fault> {
    let at = array_element(subscriptions, index, SUBSCRIPTION_BYTES)?;
    let kind: u8 = memory.read(at + 8)?;
    if kind == CLOCK {
        let timeout = Duration::from_nanos(memory.read(at + 24)?);
        let absolute = memory.read::<u16>(at + 40)? & ABSTIME != 0;
        return Ok(format!("clock {}{:.6}s", if absolute { "at " } else { "" }, timeout.as_secs_f64()));
    }
    let fd = memory.read::<u32>(at + 16)?.cast_signed();
    Ok(match kind {
        FD_READ => format!("read {fd}"),
        FD_WRITE => format!("write {fd}"),
        other => format!("kind {other}"),
    })
}

/// The subscription of an event in words, and what came of it: its errno, or more words.
pub(crate) fn describe_event(
    memory: &Memory<'_>, (subscriptions, count): (u32, u32), events: u32, index: u32,
) -> Result<(String, Result<&'static str, Errno>), Fault> {
    let at = array_element(events, index, EVENT_BYTES)?;
    let (userdata, kind): (u64, u8) = (memory.read(at)?, memory.read(at + 10)?);
    let mut words = format!("kind {kind}");
    for index in 0..count {
        let at = array_element(subscriptions, index, SUBSCRIPTION_BYTES)?;
        if memory.read::<u64>(at)? == userdata && memory.read::<u8>(at + 8)? == kind {
            words = describe_subscription(memory, subscriptions, index)?;
            break;
        }
    }
    let outcome = match Errno::from_number(memory.read::<u16>(at + 8)?.into()) {
        Some(errno) => Err(errno),
        None if kind != CLOCK && memory.read::<u16>(at + 24)? & HANGUP != 0 => Ok(" hangup"),
        None => Ok(""),
    };
    Ok((words, outcome))
}

fn array_element(base: u32, index: u32, size: u32) -> Result<u32, Fault> {
    let at = index.checked_mul(size).and_then(|offset| base.checked_add(offset));
    // The last byte of the element too, so that the fields' offsets cannot overflow.
    match at {
        Some(at) if at.checked_add(size).is_some() => Ok(at),
        _ => Err(wiggle::GuestError::PtrOverflow.into()),
    }
}
