//! What the words mean: from arguments to a plan, before any port is bound or file compiled.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyport::cache::Cache;
use anyport::error::ErrorKind;
use anyport::policy::{HostAddress, Outbound, Transport, parse_listen_address};
use anyport::server::{Directory, Restart};
use anyport::{Error, Limits, Policy, Publish};

use etcetera::BaseStrategy;

use crate::args::{Global, Run, When};

/// More than the largest machine has cores: a slip of the finger.
const WORKERS_MOST: usize = 1024;

/// All that `anyport run` will do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) file: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) listeners: Vec<std::net::SocketAddr>,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    pub(crate) workers: usize,
    pub(crate) restart: Restart,
    pub(crate) drain_timeout: Duration,
}

impl Plan {
    pub(crate) fn resolve(run: &Run) -> Result<Self, Error> {
        let mut plan = Self::default();
        plan.split(&run.file_and_args)?;
        plan.add_env(run)?;
        for text in &run.publish {
            plan.policy.publish.push(text.parse().map_err(|why| wrong("--publish", text, why))?);
        }
        for text in &run.listen {
            plan.publish_address(text)?;
        }
        for text in &run.tcplisten {
            plan.listeners.push(parse_listen_address(text).map_err(|why| wrong("--tcplisten", text, why))?);
        }
        for text in &run.allow_net {
            plan.allow_net(text)?;
        }
        for text in &run.dir {
            plan.directories.push(directory(text)?);
        }
        for text in &run.mapdir {
            let (guest, host) = text.split_once(':').ok_or_else(|| wrong("--mapdir", text, "it is GUEST:HOST"))?;
            plan.directories.push(Directory { host: host.into(), guest: guest.to_owned(), read_only: false });
        }
        for text in &run.wasi {
            plan.take_wasi_option(text)?;
        }
        for text in &run.wasm {
            plan.take_wasm_option(text)?;
        }
        plan.policy.name_lookup |= run.allow_dns;
        plan.add_workers(run)?;
        plan.set_times(run)?;
        if let Some(most) = &run.max_connections {
            plan.limits.connections = match most.parse() {
                Ok(most @ 1..) => most,
                _ => return Err(wrong("--max-connections", most, "it is a number from 1 up")),
            };
        }
        if let Some(size) = &run.memory {
            plan.limits.memory_bytes =
                bytes(size).ok_or_else(|| wrong("--memory", size, "it is a number with k, m or g behind it"))?;
        }
        for text in &run.limit {
            plan.set_limit(text)?;
        }
        plan.refuse_twins()?;
        Ok(plan)
    }

    /// Whether a guest that waits for listeners gets some, from us or from a service manager.
    pub(crate) fn hands_over_listeners(&self) -> bool {
        let inherits = std::env::var_os("LISTEN_FDS").is_some();
        inherits || !self.listeners.is_empty() || !self.policy.publish.is_empty()
    }

    /// The file, and the guest's arguments behind it, with or without `--` in between.
    fn split(&mut self, words: &[OsString]) -> Result<(), Error> {
        let (file, args) = words.split_first().expect("the file is required");
        let args = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
        let text = |arg: &OsString| {
            arg.to_str().map(str::to_owned).ok_or_else(|| {
                Error::new(ErrorKind::Host, format!("the guest's argument `{}` is not valid UTF-8", arg.display()))
            })
        };
        self.file = file.into();
        self.args = args.iter().map(text).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// A port that is published twice would be found in use, by anyport itself.
    fn refuse_twins(&self) -> Result<(), Error> {
        let handed = self.listeners.iter().map(|address| (HostAddress::Ip(*address), Transport::Tcp));
        let published = self.policy.publish.iter().map(|publish| (publish.host.clone(), publish.transport));
        let mut seen = Vec::new();
        for port in published.chain(handed) {
            let is_free = matches!(port.0, HostAddress::Ip(address) if address.port() == 0);
            if !is_free && seen.contains(&port) {
                let (address, transport) = port;
                return Err(Error::new(ErrorKind::Host, format!("{address}/{transport} is asked for twice"))
                    .with_hint(
                        "`-p`, `--listen` and `--tcplisten` each bind a port: leave one out, or change its port",
                    ));
            }
            seen.push(port);
        }
        Ok(())
    }

    fn add_workers(&mut self, run: &Run) -> Result<(), Error> {
        self.workers = match run.workers.as_str() {
            "cores" => std::thread::available_parallelism().map_or(1, usize::from),
            text => match text.parse() {
                Ok(count @ 1..=WORKERS_MOST) => count,
                _ => return Err(wrong("--workers", text, format!("it is 1 to {WORKERS_MOST}, or `cores`"))),
            },
        };
        self.restart = match run.restart {
            When::No => Restart::No,
            When::OnFailure => Restart::OnFailure,
            When::Always => Restart::Always,
        };
        Ok(())
    }

    fn set_times(&mut self, run: &Run) -> Result<(), Error> {
        let time = |flag, text: &str| time(text).ok_or_else(|| wrong(flag, text, "it is a number with ms, s, m or h"));
        self.drain_timeout = match time("--drain-timeout", &run.drain_timeout)? {
            // Not at all, where the others never end.
            Duration::MAX => Duration::ZERO,
            given => given,
        };
        if let Some(text) = &run.timeout {
            self.limits.timeout = time("--timeout", text)?;
        }
        if let Some(text) = &run.idle_timeout {
            self.limits.idle_timeout = time("--idle-timeout", text)?;
        }
        if let Some(text) = &run.cpu_time {
            self.limits.cpu_time = Some(time("--cpu-time", text)?);
        }
        Ok(())
    }

    fn add_env(&mut self, run: &Run) -> Result<(), Error> {
        if run.inherit_env {
            self.inherit_env();
        }
        for file in &run.env_file {
            let name = file.display().to_string();
            let text = fs::read_to_string(file)
                .map_err(|error| Error::new(ErrorKind::Host, format!("`--env-file {name}` cannot be read: {error}")))?;
            for (number, line) in text.lines().map(str::trim).enumerate() {
                if !line.is_empty() && !line.starts_with('#') {
                    self.set_env(line)
                        .map_err(|why| wrong("--env-file", &name, format!("line {}: {why}", number + 1)))?;
                }
            }
        }
        for text in &run.env {
            self.set_env(text).map_err(|why| wrong("--env", text, why))?;
        }
        Ok(())
    }

    /// Our whole environment, but what a service manager tells us of our own descriptors. A variable
    /// that is no text cannot be passed on.
    fn inherit_env(&mut self) {
        let ours =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        self.env.extend(ours.filter(|(name, _)| !name.starts_with("LISTEN_")));
    }

    /// `NAME=VALUE`, or `NAME` to pass ours on if it is set, as Docker has it.
    fn set_env(&mut self, text: &str) -> Result<(), &'static str> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, std::env::var(text).ok()),
        };
        if name.is_empty() || text.contains('\0') {
            return Err("it is not NAME=VALUE, nor a NAME to pass ours on");
        }
        if let Some(value) = value {
            self.env.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn publish_address(&mut self, text: &str) -> Result<(), Error> {
        let publish = if text.starts_with("unix:") {
            text.parse()
        } else {
            parse_listen_address(text).map(|address| Publish::same_port(HostAddress::Ip(address)))
        };
        self.policy.publish.push(publish.map_err(|why| wrong("--listen", text, why))?);
        Ok(())
    }

    fn allow_net(&mut self, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Host, "`--allow-net` does not say what to allow")
                .with_hint("`--allow-net example.com:443` allows one host, `--allow-net any` all"));
        }
        if text.contains("allow=") {
            return Err(Error::new(ErrorKind::Host, format!("`{text}` is a rule of Wasmer's"))
                .with_hint("write `--allow-net HOST:PORT` for outbound, `-p PORT` for inbound traffic"));
        }
        for rule in text.split(',') {
            self.policy.outbound.push(rule.parse::<Outbound>().map_err(|why| wrong("--allow-net", text, why))?);
        }
        Ok(())
    }

    /// wasmtime's `-S`: what has a meaning here is taken.
    fn take_wasi_option(&mut self, text: &str) -> Result<(), Error> {
        for option in text.split(',') {
            match option.split_once('=').unwrap_or((option, "y")) {
                ("tcplisten", address) => {
                    self.listeners
                        .push(parse_listen_address(address).map_err(|why| wrong("-S tcplisten", address, why))?);
                }
                ("allow-ip-name-lookup", "y") => self.policy.name_lookup = true,
                ("inherit-network" | "tcp" | "udp", "y") => {
                    return Err(Error::new(ErrorKind::Host, format!("`-S {option}` would allow the whole network"))
                        .with_hint(
                            "`-p PORT` publishes a port, `--allow-net RULE` allows outbound traffic (`any` for all)",
                        ));
                }
                ("inherit-env", "y") => self.inherit_env(),
                // What is so here anyway.
                ("cli" | "common" | "preview2" | "listenfd" | "preview0", _) => {}
                ("inherit-network" | "tcp" | "udp" | "allow-ip-name-lookup" | "inherit-env", "n") => {}
                _ => return Err(unknown_option("-S", option)),
            }
        }
        Ok(())
    }

    /// wasmtime's `-W`.
    fn take_wasm_option(&mut self, text: &str) -> Result<(), Error> {
        for option in text.split(',') {
            match option.split_once('=') {
                Some(("max-memory-size", size)) => {
                    self.limits.memory_bytes =
                        bytes(size).ok_or_else(|| wrong("-W max-memory-size", size, "it is a number of bytes"))?;
                }
                Some(("max-table-elements", count)) => {
                    self.limits.table_elements =
                        count.parse().map_err(|_| wrong("-W max-table-elements", count, "it is a number"))?;
                }
                Some(("timeout" | "fuel", _)) => {
                    return Err(wasmtime_option("-W", option).with_hint(
                        "`--cpu-time TIME` ends a guest that computes without end, `timeout SECONDS anyport run FILE` \
                         ends it in any case",
                    ));
                }
                _ => return Err(unknown_option("-W", option)),
            }
        }
        Ok(())
    }

    fn set_limit(&mut self, text: &str) -> Result<(), Error> {
        let set = text.split_once('=').and_then(|(name, value)| {
            let value = bytes(value)? as u64;
            self.limits.set(name, value).then_some(())
        });
        set.ok_or_else(|| {
            wrong("--limit", text, format!("it is NAME=N, where NAME is one of {}", Limits::NAMES.join(", ")))
        })
    }
}

/// The cache that the options name, or the one in the XDG cache folder.
pub(crate) fn open_cache(global: &Global) -> Result<Cache, Error> {
    Cache::open(cache_folder(global)?)
}

/// Where that is.
pub(crate) fn cache_folder(global: &Global) -> Result<PathBuf, Error> {
    match global.named_cache() {
        Some(folder) => Ok(folder.to_owned()),
        None => match etcetera::choose_base_strategy() {
            Ok(strategy) => Ok(strategy.cache_dir().join("anyport")),
            Err(_) => Err(Error::new(ErrorKind::Host, "there is no home directory to keep compiled modules in")
                .with_hint("name a folder with `--cache-dir`, or run with `--no-cache`")),
        },
    }
}

fn wrong(flag: &str, value: &str, why: impl std::fmt::Display) -> Error {
    let form = match flag {
        "--publish" | "--listen" if value.starts_with("unix:") => {
            "`unix:/run/server.sock` is right, and `unix:/run/server.sock:8080` for one port of several"
        }
        "--tcplisten" if value.starts_with("unix:") => {
            "`--listen unix:PATH` publishes a Unix socket, and hands it over where a guest waits for one"
        }
        "--publish" => "`-p 8080`, `-p 8080:80` and `-p 0.0.0.0:8080:80` are right; the first port is this machine's",
        "--listen" | "--tcplisten" | "-S tcplisten" => "`127.0.0.1:8080`, `[::]:8080` and `:8080` are right",
        "--allow-net" => "`--allow-net example.com:443`, `--allow-net 10.0.0.0/8` and `--allow-net any` are right",
        "--env" | "--env-file" => "`-e PORT=8080` is right",
        "--timeout" | "--idle-timeout" | "--cpu-time" | "--drain-timeout" => "`30s`, `500ms`, `2m` and `1h` are right",
        "--max-connections" => "`--max-connections 1000` is right",
        "--workers" => "`--workers 2` and `--workers cores` are right",
        "--memory" | "-W max-memory-size" => "`--memory 64m` is right",
        _ => "`anyport run --help` shows each option",
    };
    Error::new(ErrorKind::Host, format!("`{flag} {value}` is not right: {why}")).with_hint(form)
}

fn unknown_option(flag: &str, option: &str) -> Error {
    wasmtime_option(flag, option).with_hint("leave it out; `anyport run --help` shows what there is")
}

fn wasmtime_option(flag: &str, option: &str) -> Error {
    Error::new(ErrorKind::Host, format!("`{flag} {option}` is an option of wasmtime's that anyport does not have"))
}

/// `HOST[:GUEST][:ro]` and `HOST::GUEST`. Without a guest path it is the host's, as wasmtime has it.
fn directory(text: &str) -> Result<Directory, Error> {
    let (paths, read_only) = match text.rsplit_once(':') {
        Some((paths, "ro")) => (paths, true),
        Some((paths, "rw")) => (paths, false),
        _ => (text, false),
    };
    let split = paths.split_once("::").or_else(|| paths.split_once(':'));
    let (host, guest) = split.unwrap_or((paths, paths));
    if host.is_empty() || guest.is_empty() {
        return Err(wrong("--dir", text, "it is HOST or HOST:GUEST, with `:ro` behind it for reading only"));
    }
    let host = PathBuf::from(host);
    if !host.is_dir() {
        return Err(no_directory(&host, guest));
    }
    Ok(Directory { host, guest: guest.to_owned(), read_only })
}

fn no_directory(host: &Path, guest: &str) -> Error {
    let error = Error::new(ErrorKind::Host, format!("there is no directory `{}`", host.display()));
    if Path::new(guest).is_dir() && Path::new(guest) != host {
        // WasmEdge's `--dir` is GUEST:HOST.
        return error.with_hint(format!("the host's path comes first here: `--dir {guest}:{}`", host.display()));
    }
    error.with_hint("make it, or name another: `--dir HOST:GUEST`")
}

/// A number with `ms`, `s`, `m` or `h` behind it, of seconds without; 0 is for ever.
fn time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    match digits.parse::<u64>().ok()?.checked_mul(unit)? {
        0 => Some(Duration::MAX),
        millis => Some(Duration::from_millis(millis)),
    }
}

/// A number with an optional `k`, `m`, `g` (powers of 1024), and `b` or `ib` behind that.
fn bytes(text: &str) -> Option<usize> {
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
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn plan(words: &[&str]) -> Result<Plan, Error> {
        let words = ["anyport", "run"].iter().chain(words).chain(&["x.wasm"]);
        match Cli::try_parse_from(words).expect("flags that there are").command {
            Command::Run(run) => Plan::resolve(&run),
            other => panic!("not run: {other:?}"),
        }
    }

    #[test]
    fn times() {
        for (text, want) in [
            ("1", Some(Duration::from_secs(1))),
            ("250ms", Some(Duration::from_millis(250))),
            ("2m", Some(Duration::from_secs(120))),
            ("1h", Some(Duration::from_secs(3600))),
            ("0", Some(Duration::MAX)),
            ("", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(time(text), want, "{text}");
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
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn what_newcomers_type_means_what_they_mean() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = folder.path().to_str().expect("a plain path");
        for (words, want) in [
            (vec!["--dir".to_owned(), format!("{host}::/data")], ("/data", false)),
            (vec!["-v".to_owned(), format!("{host}:/data:ro")], ("/data", true)),
            (vec!["--volume".to_owned(), format!("{host}:/data")], ("/data", false)),
            (vec!["--mapdir".to_owned(), format!("/data:{host}")], ("/data", false)),
            (vec!["--dir".to_owned(), host.to_owned()], (host, false)),
        ] {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let plan = plan(&words).expect("right");
            assert_eq!((plan.directories[0].guest.as_str(), plan.directories[0].read_only), want);
            assert_eq!(plan.directories[0].host, folder.path());
        }
        let plan = plan(&[
            "--addr",
            "0.0.0.0:80",
            "-S",
            "tcplisten=127.0.0.1:81",
            "-W",
            "max-memory-size=1048576,max-table-elements=5",
            "-S",
            "allow-ip-name-lookup,inherit-network=n",
            "-e",
            "A=b=c",
        ])
        .expect("right");
        assert_eq!(plan.policy.publish[0].to_string(), "0.0.0.0:80:80/tcp");
        assert_eq!(plan.listeners[0].to_string(), "127.0.0.1:81");
        assert_eq!((plan.limits.memory_bytes, plan.limits.table_elements), (1 << 20, 5));
        assert!(plan.policy.name_lookup);
        assert_eq!(plan.env["A"], "b=c");
    }

    #[test]
    fn the_wrong_order_of_a_directory_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = folder.path().to_str().expect("a plain path");
        let error = plan(&["--dir", &format!("/no/such:{host}")]).expect_err("no such folder");
        assert_eq!(error.hint(), Some(format!("the host's path comes first here: `--dir {host}:/no/such`").as_str()));
    }

    #[test]
    fn wide_permissions_must_be_named() {
        for words in [&["--net", "-q"][..], &["-S", "inherit-network"], &["--net=dns:allow=example.com"]] {
            assert!(plan(words).expect_err("explained").hint().is_some(), "{words:?}");
        }
        assert_eq!(plan(&["--net=any"]).expect("named").policy.outbound, [Outbound::Any]);
    }
}
