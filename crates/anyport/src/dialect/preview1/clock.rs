//! Clocks. Ours, since `poll_oneoff` must wait by the same ones.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::dialect::hostcall::Hostcall;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::Memory;

/// `clockid`: wall time since 1970.
const REALTIME: u32 = 0;
/// `clockid`: time since the guest started.
const MONOTONIC: u32 = 1;

/// Where a guest's monotonic clock starts, so that it can compute times before its start:
/// Rust's `Instant::now() - timeout` panics below zero.
const MONOTONIC_START: Duration = Duration::from_secs(3600);

/// `clock_res_get(id) -> timestamp`
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#clock_res_get>
pub(crate) fn res_get(_: &mut Guest, memory: &mut Memory<'_>, id: u32, ro_resolution: u32) -> Hostcall {
    match id {
        // Linux's clocks count nanoseconds.
        REALTIME | MONOTONIC => Ok(memory.write(ro_resolution, 1_u64)?),
        _ => Err(Errno::Invalid.into()),
    }
}

/// `clock_time_get(id, precision) -> timestamp`, in nanoseconds.
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md#clock_time_get>
pub(crate) fn time_get(
    guest: &mut Guest, memory: &mut Memory<'_>, id: u32, _precision: u64, ro_timestamp: u32,
) -> Hostcall {
    let now = match id {
        REALTIME => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        MONOTONIC => guest.started.elapsed() + MONOTONIC_START,
        _ => return Err(Errno::Invalid.into()),
    };
    Ok(memory.write(ro_timestamp, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?)
}

/// When a clock subscription is due. `None` is further away than the host can count.
pub(crate) fn deadline(guest: &Guest, id: u32, timeout: Duration, absolute: bool) -> Result<Option<Instant>, Errno> {
    let now = Instant::now();
    match (id, absolute) {
        (REALTIME | MONOTONIC, false) => Ok(now.checked_add(timeout)),
        (REALTIME, true) => {
            let due = UNIX_EPOCH.checked_add(timeout);
            let left = due.map(|due| due.duration_since(SystemTime::now()).unwrap_or_default());
            Ok(left.and_then(|left| now.checked_add(left)))
        }
        (MONOTONIC, true) => Ok(guest.started.checked_add(timeout.saturating_sub(MONOTONIC_START))),
        _ => Err(Errno::Invalid),
    }
}
