//! Options by their names and as text: `--workers 2` on a command line, `io.anyport.workers=2` of a container.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::limits::Limits;
use crate::policy::Outbound;
use crate::worker::Restart;

/// More than the largest machine has cores: a slip of the finger.
const WORKERS_MOST: usize = 1024;

/// How long guests may take to finish what they owe their clients: below the 10 s after which Docker
/// kills a container.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// What can be set by name; [`Settings::default`] has the defaults of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// `timeout`, `idle-timeout`, `header-timeout`, `body-timeout`, `cpu-time`, `max-body`, `max-connections`,
    /// `max-instances`, `max-instance-reuse`, `max-instance-concurrency`, `max-queue`, `memory`, `limit`, `prewarm`.
    pub limits: Limits,
    /// `allow-net`: what the guest may connect or send to.
    pub outbound: Vec<Outbound>,
    /// `allow-dns`: whether the guest may look up any name.
    pub name_lookup: bool,
    /// `config`: what the guest is given by name, by `wasi:config`.
    pub config: BTreeMap<String, String>,
    /// `workers`: how many guests serve; by default as [`crate::Server::workers`] has it.
    pub workers: Option<usize>,
    /// `restart`: when a guest is started again.
    pub restart: Restart,
    /// `drain-timeout`: how long guests may take to finish, once they are told to.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            outbound: Vec::new(),
            name_lookup: false,
            config: BTreeMap::new(),
            workers: None,
            restart: Restart::default(),
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}

/// Why a value was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such option.
    Unknown,
    /// The value is not one of it: what it should be.
    Wrong(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("there is no such option"),
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

impl Settings {
    /// The names that [`Settings::set`] takes.
    pub const NAMES: &'static [&'static str] = &[
        "allow-dns",
        "allow-net",
        "body-timeout",
        "config",
        "cpu-time",
        "drain-timeout",
        "header-timeout",
        "idle-timeout",
        "limit",
        "max-body",
        "max-connections",
        "max-instance-concurrency",
        "max-instance-reuse",
        "max-instances",
        "max-queue",
        "memory",
        "prewarm",
        "restart",
        "timeout",
        "workers",
    ];

    /// Sets an option. Those that may be given several times add up: `allow-net`, `config`, `limit`.
    ///
    /// # Errors
    /// There is none of this name, or it does not take this value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "allow-dns" => self.name_lookup = flag(value)?,
            "allow-net" => {
                for rule in value.split(',') {
                    self.outbound.push(rule.parse().map_err(Refusal::Wrong)?);
                }
            }
            "body-timeout" => self.limits.body_timeout = time(value)?,
            "config" => match value.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    self.config.insert(name.to_owned(), value.to_owned());
                }
                _ => return Err(wrong("it is NAME=VALUE")),
            },
            "header-timeout" => self.limits.header_timeout = time(value)?,
            "cpu-time" => self.limits.cpu_time = Some(time(value)?),
            "drain-timeout" => {
                self.drain_timeout = match time(value)? {
                    // Not at all, where the others never end.
                    Duration::MAX => Duration::ZERO,
                    given => given,
                }
            }
            "idle-timeout" => self.limits.idle_timeout = time(value)?,
            "limit" => self.set_limit(value)?,
            "max-body" => self.limits.body_bytes = size(value)?,
            "max-connections" => self.limits.connections = count(value)?,
            "max-instance-concurrency" => self.limits.instance_concurrency = count(value)?,
            "max-instance-reuse" => self.limits.instance_reuse = Some(count(value)?),
            "max-instances" => self.limits.instances = count(value)?,
            "max-queue" => match value.parse() {
                Ok(most) => self.limits.queue = most,
                Err(_) => return Err(wrong("it is a number")),
            },
            "memory" => self.limits.memory_bytes = size(value)?,
            "prewarm" => self.limits.instances_ready = count(value)?,
            "restart" => {
                self.restart = match value {
                    "no" => Restart::No,
                    "on-failure" => Restart::OnFailure,
                    "always" => Restart::Always,
                    _ => return Err(wrong("it is `no`, `on-failure` or `always`")),
                }
            }
            "timeout" => self.limits.timeout = time(value)?,
            "workers" => self.workers = Some(workers(value)?),
            _ => return Err(Refusal::Unknown),
        }
        Ok(())
    }

    fn set_limit(&mut self, text: &str) -> Result<(), Refusal> {
        let set = text.split_once('=').and_then(|(name, value)| {
            let value = bytes(value)? as u64;
            self.limits.set(name, value).then_some(())
        });
        set.ok_or_else(|| wrong(format!("it is NAME=N, where NAME is one of {}", Limits::NAMES.join(", "))))
    }
}

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::Wrong(why.into())
}

/// An option that is there or not: nothing, `1`, `true` or `yes`, and `0`, `false` or `no`.
///
/// # Errors
/// It is something else.
pub fn flag(value: &str) -> Result<bool, Refusal> {
    match value {
        "" | "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(wrong("it is `true` or `false`")),
    }
}

/// A number from 1 up.
fn count<N: TryFrom<u64>>(value: &str) -> Result<N, Refusal> {
    let given = value.parse().ok().filter(|count| *count > 0).and_then(|count: u64| N::try_from(count).ok());
    given.ok_or_else(|| wrong("it is a number from 1 up"))
}

fn workers(value: &str) -> Result<usize, Refusal> {
    match (value, value.parse()) {
        ("cores", _) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        (_, Ok(count @ 1..=WORKERS_MOST)) => Ok(count),
        _ => Err(wrong(format!("it is 1 to {WORKERS_MOST}, or `cores`"))),
    }
}

/// What [`duration`] takes; 0 is for ever.
fn time(text: &str) -> Result<Duration, Refusal> {
    match duration(text) {
        Some(Duration::ZERO) => Ok(Duration::MAX),
        given => given.ok_or_else(|| wrong("it is a number with ms, s, m or h")),
    }
}

/// Numbers with `ms`, `s`, `m` or `h` behind each, such as `1.5s` and `1h30m`; or one of seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, behind) = behind.split_at(behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len()));
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = behind;
    }
    // What is too short to count is not for ever.
    let is_zero = !text.is_empty() && !text.contains(|c: char| ('1'..='9').contains(&c));
    (sum > Duration::ZERO || is_zero).then_some(sum)
}

fn size(text: &str) -> Result<usize, Refusal> {
    bytes(text).ok_or_else(|| wrong("it is a number with k, m or g behind it"))
}

/// A number with an optional `k`, `m`, `g` (powers of 1024), and `b` or `ib` behind that.
pub fn bytes(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("1", Some(Duration::from_secs(1))),
            ("250ms", Some(Duration::from_millis(250))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1m0.5s", Some(Duration::from_millis(60_500))),
            ("0", Some(Duration::MAX)),
            ("0ms", Some(Duration::MAX)),
            ("0.0000000001s", None),
            ("1h30", None),
            (".s", None),
            ("1..5s", None),
            ("", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(time(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("1", Some(1)),
            ("64m", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2kb", Some(2048)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("99999999999999g", None),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }

    #[test]
    fn every_name_is_taken() {
        let values = ["true", "any", "1s", "0", "iovecs=3", "3", "64m", "no", "cores"];
        for name in Settings::NAMES {
            let taken = values.iter().any(|value| Settings::default().set(name, value).is_ok());
            assert!(taken, "{name}");
            assert!(matches!(Settings::default().set(name, "?"), Err(Refusal::Wrong(_))), "{name}");
        }
        assert_eq!(Settings::default().set("trace", "1"), Err(Refusal::Unknown));
    }

    #[test]
    fn rules_add_up() {
        let mut settings = Settings::default();
        settings.set("allow-net", "private,example.com:443").expect("rules");
        settings.set("allow-net", "10.0.0.0/8").expect("a rule");
        assert_eq!(settings.outbound.len(), 3);
    }
}
