//! The trace: one line for each hostcall that somebody asked to see, in the manner of strace.
//!
//! Owns what a person reads of a hostcall. A row says nothing about that: what a parameter means is told
//! by its name, the same in all tables. Whatever comes out of the guest's memory is a number, or escaped.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::hostcall::{Fault, Hostcall, Param, Row};
use super::preview1::poll;
use super::wasmedge::address::Slot;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::memory::{Buffers, Memory};

/// Whether anybody wants to see this hostcall: a target of its own for each, so that a filter may name
/// one, or by their first words a group. A comparison where nobody traces at all.
macro_rules! is_traced {
    ($name:literal) => {
        tracing::enabled!(target: concat!("anyport::hostcall::", $name), tracing::Level::TRACE)
    };
}
pub(crate) use is_traced;

/// A function that tells a line about this hostcall: [`Row::tell`].
macro_rules! tell {
    ($name:literal) => {
        |line| tracing::trace!(target: concat!("anyport::hostcall::", $name), "{line}")
    };
}
pub(crate) use tell;

/// A hostcall that waits this long is told of before it ends: it may be where a server hangs.
const WAITS_AFTER: Duration = Duration::from_secs(1);

/// The bytes that are shown of what is sent or received, as many as strace shows; and of a path.
const SHOWN_BYTES: usize = 32;
const SHOWN_PATH_BYTES: u32 = 256;

/// The subscriptions and events that are shown of a poll.
const SHOWN_ELEMENTS: u32 = 16;

/// A hostcall that is traced, until it ends.
pub(crate) struct Traced {
    row: &'static Row,
    params: Vec<u64>,
    /// Its name, and what it was given.
    call: String,
    started: Instant,
}

impl Traced {
    pub(crate) fn begin(row: &'static Row, params: &[u64], guest: &Guest, memory: &Memory<'_>) -> Box<Self> {
        let given = View { row, params, guest, memory }.each(View::given);
        let call = format!("{}{}({})", guest.label(), row.name, given.join(", "));
        Box::new(Self { row, params: params.to_vec(), call, started: Instant::now() })
    }

    /// Tells how it ended. What its pointers are is told where one of them was bad.
    pub(crate) fn end(&self, guest: &Guest, memory: &Memory<'_>, outcome: &Hostcall, bad_pointer: bool) {
        let took = self.started.elapsed().as_secs_f64();
        let view = View { row: self.row, params: &self.params, guest, memory };
        let mut words = vec![match outcome {
            Ok(()) => "success".to_owned(),
            Err(Fault::Errno(errno)) => describe(*errno),
            // Why is told with the guest's end.
            Err(Fault::Memory(_) | Fault::Trap(_)) => "trap".to_owned(),
        }];
        if outcome.is_ok() {
            words.extend(view.each(View::gave));
        } else if bad_pointer {
            words.extend(view.each(View::pointed));
        }
        (self.row.tell)(format_args!("{} = {} <{took:.6}>", self.call, words.join(" ")));
    }
}

/// Waits for a shim, and tells when that takes long.
pub(crate) async fn watch<F: Future>(call: Option<&Traced>, mut shim: Pin<&mut F>) -> F::Output {
    if let Some(call) = call {
        // Boxed, or each hostcall had room for a timer.
        match Box::pin(tokio::time::timeout(WAITS_AFTER, shim.as_mut())).await {
            Ok(outcome) => return outcome,
            Err(_) => (call.row.tell)(format_args!("{} waits", call.call)),
        }
    }
    shim.await
}

/// What a parameter means to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Meaning {
    /// Signed, so that a descriptor that is none reads -1.
    Number,
    /// Points to what is too much to show.
    Pointer,
    /// Points to as many bytes as `NAME_len` says.
    Text,
    /// Points to as many buffers as `NAME_len` says: bytes to send, or room for bytes.
    Buffers,
    /// Points to an address of `WasmEdge`'s, whose port is `port`.
    Address,
    /// Points to `nsubscriptions` of them.
    Subscriptions,
    /// Shown with another parameter.
    Elsewhere,
    /// Points to where a result is written: a number of so many bits,
    Result16,
    Result32,
    Result64,
    /// as many bytes as `NAME_len` says, an address whose port is at `ro_port`, `ro_nevents` events,
    ResultText,
    ResultAddress,
    ResultEvents,
    /// or what is too much to show.
    Result,
}

/// What a parameter of this name means.
fn meaning(name: &str) -> Meaning {
    match name {
        "path" | "old_path" | "new_path" | "node" | "service" | "value" => Meaning::Text,
        "iovs" | "ri_data" | "si_data" => Meaning::Buffers,
        "address" => Meaning::Address,
        "subscriptions" => Meaning::Subscriptions,
        "events" => Meaning::ResultEvents,
        "argv" | "argv_buf" | "environ" | "environ_buf" | "buf" | "hints" => Meaning::Pointer,
        "port" | "nsubscriptions" | "ro_port" => Meaning::Elsewhere,
        "ro_flags" => Meaning::Result16,
        "ro_newoffset" | "ro_offset" | "ro_resolution" | "ro_timestamp" => Meaning::Result64,
        "ro_path" => Meaning::ResultText,
        "ro_address" => Meaning::ResultAddress,
        // `ro_len` is no pointer where a guest passes the length itself.
        "ro_stat" | "ro_prestat" | "ro_res" | "ro_len" => Meaning::Result,
        "so_datalen" => Meaning::Result32,
        _ if name.starts_with("ro_") => Meaning::Result32,
        _ => match name.strip_suffix("_len").map(meaning) {
            Some(Meaning::Text | Meaning::Buffers) => Meaning::Elsewhere,
            _ => Meaning::Number,
        },
    }
}

/// The parameters of a hostcall, and the guest that they come from.
struct View<'a, 'm> {
    row: &'static Row,
    params: &'a [u64],
    guest: &'a Guest,
    memory: &'a Memory<'m>,
}

impl View<'_, '_> {
    /// `NAME=…` for each parameter of which there is something to tell.
    fn each(&self, tell: fn(&Self, &Param, u64) -> Option<String>) -> Vec<String> {
        let told = self.row.params.iter().zip(self.params).filter_map(|(param, value)| {
            let name = param.name.strip_prefix("ro_").or_else(|| param.name.strip_prefix("so_"));
            Some(format!("{}={}", name.unwrap_or(param.name), tell(self, param, *value)?))
        });
        told.collect()
    }

    /// What the call is given.
    fn given(&self, param: &Param, value: u64) -> Option<String> {
        let shown = match meaning(param.name) {
            Meaning::Number if param.wide => value.cast_signed().to_string(),
            Meaning::Number => low(value).cast_signed().to_string(),
            Meaning::Pointer => format!("{value:#x}"),
            Meaning::Text => self.text(param, value).unwrap_or_else(|| self.unread(param, value)),
            Meaning::Buffers => self.sent_or_room(param, value).unwrap_or_else(|| self.unread(param, value)),
            Meaning::Address => {
                let port = self.param("port")?;
                self.address(value, port).unwrap_or_else(|| format!("{value:#x}, port={port}"))
            }
            Meaning::Subscriptions => self.subscriptions(value),
            _ => return None,
        };
        Some(shown)
    }

    /// What a call that succeeded has given back.
    fn gave(&self, param: &Param, value: u64) -> Option<String> {
        let pointer = low(value);
        match meaning(param.name) {
            Meaning::Result16 => self.memory.read::<u16>(pointer).ok().map(|number| number.to_string()),
            Meaning::Result32 => self.memory.read::<u32>(pointer).ok().map(|number| number.to_string()),
            Meaning::Result64 => self.memory.read::<u64>(pointer).ok().map(|number| number.to_string()),
            Meaning::ResultText => self.text(param, value),
            Meaning::ResultAddress => self.address(value, self.result("ro_port")?),
            Meaning::ResultEvents => self.events(value),
            Meaning::Buffers if self.receives() => self.received(param, value),
            _ => None,
        }
    }

    /// Where results would have been written.
    fn pointed(&self, param: &Param, value: u64) -> Option<String> {
        let is_result = meaning(param.name) >= Meaning::Result16 || param.name == "ro_port";
        is_result.then(|| format!("{value:#x}"))
    }

    fn param(&self, name: &str) -> Option<u32> {
        let index = self.row.params.iter().position(|param| param.name == name)?;
        self.params.get(index).map(|value| low(*value))
    }

    /// The number that a parameter points to.
    fn result(&self, name: &str) -> Option<u32> {
        self.memory.read(self.param(name)?).ok()
    }

    /// The length that goes with a pointer; of `ro_path` it is `path_len`.
    fn length(&self, param: &Param) -> Option<u32> {
        self.param(&format!("{}_len", param.name.trim_start_matches("ro_")))
    }

    /// A pointer that leads nowhere, with its length; without one, it may lead somewhere.
    fn unread(&self, param: &Param, value: u64) -> String {
        self.length(param).map_or_else(|| format!("{value:#x}"), |length| format!("{value:#x}+{length}"))
    }

    fn text(&self, param: &Param, value: u64) -> Option<String> {
        let length = self.length(param)?;
        Some(quoted(&self.memory.bytes(low(value), length.min(SHOWN_PATH_BYTES)).ok()?, length as usize))
    }

    /// Whether the buffers are room for bytes, and not bytes.
    fn receives(&self) -> bool {
        self.row.params.iter().any(|param| matches!(param.name, "ri_data" | "ro_nread"))
    }

    fn sent_or_room(&self, param: &Param, value: u64) -> Option<String> {
        let buffers = self.buffers(param, value)?;
        if self.receives() {
            return Some(format!("{} bytes", buffers.total()));
        }
        let (front, total) = (self.front(&buffers, SHOWN_BYTES)?, buffers.total());
        let length = if front.len() < total { format!(" ({total} bytes)") } else { String::new() };
        Some(quoted(&front, total) + &length)
    }

    fn received(&self, param: &Param, value: u64) -> Option<String> {
        let length = self.result("ro_datalen").or_else(|| self.result("ro_nread"))? as usize;
        let front = self.front(&self.buffers(param, value)?, length.min(SHOWN_BYTES))?;
        Some(quoted(&front, length))
    }

    fn buffers(&self, param: &Param, value: u64) -> Option<Buffers> {
        self.guest.buffers(self.memory, low(value), self.length(param)?).ok()
    }

    /// The first bytes of these buffers.
    fn front(&self, buffers: &Buffers, most: usize) -> Option<Vec<u8>> {
        let copy = |slices: &[std::io::IoSlice<'_>]| {
            slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect::<Vec<u8>>()
        };
        self.memory.gather(buffers, copy).ok()
    }

    fn address(&self, value: u64, port: u32) -> Option<String> {
        let mut slot = Slot::read(self.memory, low(value)).ok()?;
        // The first shapes write 4 bytes into a buffer of 16, and say so here.
        if self.result("ro_type") == Some(4) {
            slot.length = 4;
        }
        slot.decode(self.memory, port).ok().map(|address| address.to_string())
    }

    fn subscriptions(&self, value: u64) -> String {
        let count = self.param("nsubscriptions").unwrap_or(0);
        listed(count, |index| poll::describe_subscription(self.memory, low(value), index).ok())
            .unwrap_or_else(|| format!("{value:#x}+{count}"))
    }

    fn events(&self, value: u64) -> Option<String> {
        let subscriptions = (self.param("subscriptions")?, self.param("nsubscriptions")?);
        listed(self.result("ro_nevents")?, |index| {
            let (subscription, outcome) = poll::describe_event(self.memory, subscriptions, low(value), index).ok()?;
            Some(match outcome {
                Ok(words) => format!("{subscription}{words}"),
                Err(errno) => format!("{subscription} {}", describe(errno)),
            })
        })
    }
}

/// A parameter that is no i64.
fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// An errno by name, and by the number that its guest got.
fn describe(errno: Errno) -> String {
    format!("{} ({})", errno.name(), errno.number())
}

/// The front of `total` bytes, with nothing in it that a terminal obeys.
fn quoted(front: &[u8], total: usize) -> String {
    let whole = format!("\"{}\"", front.escape_ascii());
    if front.len() < total { whole + "..." } else { whole }
}

/// `[first, second]` of so many elements; `None` if one of them cannot be read.
fn listed(count: u32, element: impl FnMut(u32) -> Option<String>) -> Option<String> {
    let mut shown = (0..count.min(SHOWN_ELEMENTS)).map(element).collect::<Option<Vec<String>>>()?;
    if count > SHOWN_ELEMENTS {
        shown.push("...".to_owned());
    }
    Some(format!("[{}]", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::TABLES;
    use crate::dialect::hostcall::Table;

    #[test]
    fn a_row_has_what_its_parameters_are_told_with() {
        for row in TABLES.iter().flat_map(Table::rows) {
            let has = |name: &str| row.params.iter().any(|param| param.name == name);
            for Param { name, wide } in row.params {
                let told = meaning(name);
                let complete = match told {
                    Meaning::Text | Meaning::Buffers => has(&format!("{name}_len")),
                    Meaning::ResultText => has(&format!("{}_len", name.trim_start_matches("ro_"))),
                    Meaning::Address => has("port"),
                    Meaning::Subscriptions => has("nsubscriptions"),
                    Meaning::ResultEvents => has("subscriptions") && has("ro_nevents"),
                    _ => true,
                };
                assert!(complete, "{}: {name}", row.name);
                assert!(told == Meaning::Number || !wide, "{}: {name} is no pointer", row.name);
                let is_result = told >= Meaning::Result16 || *name == "ro_port";
                assert_eq!(is_result, name.starts_with("ro_") || *name == "events" || *name == "so_datalen", "{name}");
            }
        }
    }

    #[test]
    fn nothing_of_a_guest_reaches_the_terminal_as_it_is() {
        let all: Vec<u8> = (0..=255).collect();
        let shown = quoted(&all, 300);
        assert!(shown.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{shown}");
        assert!(shown.ends_with(r#"\xff"..."#), "{shown}");
        assert_eq!(quoted(b"a\"\x1b[2J\r\n\\", 9), r#""a\"\x1b[2J\r\n\\""#);
    }
}
