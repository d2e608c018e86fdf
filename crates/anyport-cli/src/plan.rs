//! What the words mean: from arguments to a plan, before any port is bound or file compiled.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyport::cache::Cache;
use anyport::error::ErrorKind;
use anyport::policy::{HostAddress, Transport, parse_listen_address};
use anyport::server::{CertificateFiles, Directory, Front, Restart};
use anyport::settings::{Settings, bytes};
use anyport::{Error, Publish};

use etcetera::BaseStrategy;

use crate::args::{Global, Run, When};
use crate::usage;

/// All that `anyport run` will do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) file: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) listeners: Vec<std::net::SocketAddr>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) settings: Settings,
    pub(crate) ca_files: Vec<PathBuf>,
    pub(crate) front: Front,
    /// What was asked for that only a service has.
    pub(crate) for_services: Vec<&'static str>,
}

/// Options that say how requests are answered: a guest that reads its requests by itself knows nothing of them.
const FOR_SERVICES: [&str; 6] =
    ["body-timeout", "max-body", "max-instance-concurrency", "max-instance-reuse", "max-instances", "max-queue"];

impl Plan {
    pub(crate) fn resolve(run: &Run) -> Result<Self, Error> {
        let mut plan = Self::default();
        plan.split(&run.file_and_args)?;
        plan.add_env(run)?;
        plan.add_config(run)?;
        plan.ca_files.clone_from(&run.ca_file);
        for text in &run.publish {
            plan.publish.push(text.parse().map_err(|why| wrong("--publish", text, why))?);
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
            let split = text.split_once("::").or_else(|| text.split_once(':'));
            let (guest, host) = split.ok_or_else(|| wrong("--mapdir", text, "it is GUEST:HOST"))?;
            plan.directories.push(mounted(host, guest, false)?);
        }
        for text in &run.wasi {
            plan.take_wasi_option(text)?;
        }
        for text in &run.wasm {
            plan.take_wasm_option(text)?;
        }
        plan.settings.name_lookup |= run.allow_dns;
        plan.take_settings(run)?;
        plan.take_front(run)?;
        plan.refuse_twins()?;
        Ok(plan)
    }

    /// Whether a guest that waits for listeners gets some, from us or from a service manager.
    pub(crate) fn hands_over_listeners(&self) -> bool {
        let inherits = std::env::var_os("LISTEN_FDS").is_some();
        inherits || !self.listeners.is_empty() || !self.publish.is_empty()
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
        let published = self.publish.iter().map(|publish| (publish.host.clone(), publish.transport));
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

    /// The options that have the same names everywhere.
    fn take_settings(&mut self, run: &Run) -> Result<(), Error> {
        self.settings.restart = match run.restart {
            When::No => Restart::No,
            When::OnFailure => Restart::OnFailure,
            When::Always => Restart::Always,
        };
        let given = [
            ("workers", run.workers.as_ref()),
            ("max-instance-reuse", run.max_instance_reuse.as_ref()),
            ("max-instance-concurrency", run.max_instance_concurrency.as_ref()),
            ("drain-timeout", Some(&run.drain_timeout)),
            ("timeout", run.timeout.as_ref()),
            ("idle-timeout", run.idle_timeout.as_ref()),
            ("header-timeout", run.header_timeout.as_ref()),
            ("body-timeout", run.body_timeout.as_ref()),
            ("cpu-time", run.cpu_time.as_ref()),
            ("max-body", run.max_body.as_ref()),
            ("max-instances", run.max_instances.as_ref()),
            ("max-queue", run.max_queue.as_ref()),
            ("max-connections", run.max_connections.as_ref()),
            ("memory", run.memory.as_ref()),
            ("prewarm", run.prewarm.as_ref()),
        ];
        let given = given.into_iter().filter_map(|(name, text)| Some((name, text?)));
        for (name, text) in given.chain(run.limit.iter().map(|text| ("limit", text))) {
            self.settings.set(name, text).map_err(|why| wrong(&format!("--{name}"), text, why))?;
            if FOR_SERVICES.contains(&name) {
                self.for_services.push(name);
            }
        }
        Ok(())
    }

    /// What stands between the network and the guest.
    fn take_front(&mut self, run: &Run) -> Result<(), Error> {
        let (chains, keys) = (&run.tls_cert, &run.tls_key);
        if chains.len() != keys.len() {
            let what = match (chains.len(), keys.len()) {
                (0, _) => "`--tls-key` is given without `--tls-cert`".to_owned(),
                (_, 0) => "`--tls-cert` is given without `--tls-key`".to_owned(),
                (chains, keys) => format!("`--tls-cert` is given {chains} times, and `--tls-key` {keys} times"),
            };
            return Err(Error::new(ErrorKind::Host, what)
                .with_hint("each certificate has its key: `--tls-cert cert.pem --tls-key key.pem`"));
        }
        let pair = |(chain, key): (&PathBuf, &PathBuf)| CertificateFiles { chain: chain.clone(), key: key.clone() };
        self.front.certificates = chains.iter().zip(keys).map(pair).collect();
        self.front.proxy_protocol = run.proxy_protocol;
        self.front.x_forwarded = run.x_forwarded;
        if let Some(text) = &run.health {
            self.front.health = Some(parse_listen_address(text).map_err(|why| wrong("--health", text, why))?);
        }
        if let Some(text) = &run.access_log {
            self.front.access_log = Some(text.parse().map_err(|why| wrong("--access-log", text, why))?);
        }
        Ok(())
    }

    fn add_env(&mut self, run: &Run) -> Result<(), Error> {
        if run.inherit_env {
            self.inherit_env();
        }
        for file in &run.env_file {
            each_line("--env-file", file, |line| self.set_env(line).map_err(str::to_owned))?;
        }
        for text in &run.env {
            self.set_env(text).map_err(|why| wrong("--env", text, why))?;
        }
        Ok(())
    }

    fn add_config(&mut self, run: &Run) -> Result<(), Error> {
        let settings = &mut self.settings;
        for file in &run.config_file {
            each_line("--config-file", file, |line| settings.set("config", line).map_err(|why| why.to_string()))?;
        }
        for text in &run.config {
            settings.set("config", text).map_err(|why| wrong("--config", text, why))?;
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
        if name.contains(char::is_whitespace) {
            return Err("a name has no spaces: write NAME=VALUE, without `export`");
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
        self.publish.push(publish.map_err(|why| wrong("--listen", text, why))?);
        Ok(())
    }

    fn allow_net(&mut self, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Host, "`--allow-net` does not say what to allow")
                .with_hint("`--allow-net example.com:443` allows one host, `--allow-net any` all"));
        }
        if ["host", "bridge", "none"].contains(&text) {
            return Err(Error::new(ErrorKind::Host, format!("`--net {text}` is Docker's")).with_hint(usage::NETWORK));
        }
        if text.contains("allow=") {
            return Err(Error::new(ErrorKind::Host, format!("`{text}` is a rule of Wasmer's"))
                .with_hint("write `--allow-net HOST:PORT` for outbound, `-p PORT` for inbound traffic"));
        }
        self.settings.set("allow-net", text).map_err(|why| wrong("--allow-net", text, why))
    }

    /// wasmtime's `-S`: what has a meaning here is taken.
    fn take_wasi_option(&mut self, text: &str) -> Result<(), Error> {
        for option in text.split(',') {
            match option.split_once('=').unwrap_or((option, "y")) {
                ("tcplisten", address) => {
                    self.listeners
                        .push(parse_listen_address(address).map_err(|why| wrong("-S tcplisten", address, why))?);
                }
                ("allow-ip-name-lookup", "y") => self.settings.name_lookup = true,
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
                    self.settings.limits.memory_bytes =
                        bytes(size).ok_or_else(|| wrong("-W max-memory-size", size, "it is a number of bytes"))?;
                }
                Some(("max-table-elements", count)) => {
                    self.settings.limits.table_elements =
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
}

/// Takes each line of an option's file, but comments.
fn each_line(flag: &str, file: &Path, mut take: impl FnMut(&str) -> Result<(), String>) -> Result<(), Error> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file)
        .map_err(|error| Error::new(ErrorKind::Host, format!("`{flag} {name}` cannot be read: {error}")))?;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if !line.is_empty() && !line.starts_with('#') {
            take(line).map_err(|why| wrong(flag, &name, format!("line {}: {why}", number + 1)))?;
        }
    }
    Ok(())
}

/// The cache that the options name, or the one in the XDG cache folder.
pub(crate) fn open_cache(global: &Global) -> Result<Cache, Error> {
    Cache::open(cache_folder(global)?).map_err(|error| error.with_hint(OTHER_CACHE))
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

/// What to do where the cache cannot be used.
const OTHER_CACHE: &str = "name another folder with `--cache-dir`, or run with `--no-cache`";

fn wrong(flag: &str, value: &str, why: impl std::fmt::Display) -> Error {
    let of_addresses = ["--publish", "--listen", "--tcplisten", "--health", "--allow-net"].contains(&flag);
    if let (Some((scheme, behind)), true) = (value.split_once("://"), of_addresses)
        && let Some(host) = behind.split('/').next().filter(|host| !host.is_empty())
    {
        let port = match scheme {
            _ if host.contains(':') => "",
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        return Error::new(ErrorKind::Host, format!("`{flag} {value}` is a URL, and not an address"))
            .with_hint(format!("write host and port alone: `{flag} {host}{port}`"));
    }
    let form = match flag {
        "--publish" if value.contains('-') => "ports of a range are published one by one: `-p 8000 -p 8001`",
        "--publish" | "--listen" if value.starts_with("unix:") => {
            "`unix:/run/server.sock` is right, and `unix:/run/server.sock:8080` for one port of several"
        }
        "--tcplisten" if value.starts_with("unix:") => {
            "`--listen unix:PATH` publishes a Unix socket, and hands it over where a guest waits for one"
        }
        "--publish" => "`-p 8080`, `-p 8080:80` and `-p 0.0.0.0:8080:80` are right; the first port is this machine's",
        "--listen" | "--tcplisten" | "--health" | "-S tcplisten" => {
            "`127.0.0.1:8080`, `[::]:8080` and `:8080` are right"
        }
        "--allow-net" => "`--allow-net example.com:443`, `--allow-net 10.0.0.0/8` and `--allow-net any` are right",
        "--config" | "--config-file" => "`--config greeting=hello` is right",
        "--env" | "--env-file" => "`-e PORT=8080` is right",
        "--timeout" | "--idle-timeout" | "--header-timeout" | "--body-timeout" | "--cpu-time" | "--drain-timeout" => {
            "`30s`, `500ms`, `2m` and `1h30m` are right"
        }
        "--max-connections" => "`--max-connections 1000` is right",
        "--max-instances" => "`--max-instances 100` is right",
        "--max-queue" => "`--max-queue 1000` is right, and 0 where no request is to wait",
        "--max-body" => "`--max-body 10m` is right",
        "--access-log" => "`--access-log`, `--access-log=combined` and `--access-log=json:/var/log/web.json` are right",
        "--workers" => "`--workers 2` and `--workers cores` are right",
        "--dir" => "`--dir site:/www` and `--dir site:/www:ro` are right",
        "--limit" => "`--limit descriptors=4096` is right",
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

/// Directories that every machine has, and which guests are told of as theirs.
const EVERYWHERE: [&str; 12] =
    ["/", "/app", "/data", "/etc", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr", "/var"];

/// `HOST[:GUEST][:ro]` and `HOST::GUEST`. Without a guest path it is the host's, as wasmtime has it.
fn directory(text: &str) -> Result<Directory, Error> {
    let (host, behind) = match (text.split_once("::"), text.split_once(':')) {
        (Some(split), _) => split,
        (None, None) => return mounted(text, text, false),
        (None, Some((host, mode @ ("ro" | "rw")))) => return mounted(host, host, mode == "ro"),
        (None, Some(split)) => split,
    };
    match behind.rsplit_once(':') {
        Some((guest, mode @ ("ro" | "rw"))) => mounted(host, guest, mode == "ro"),
        Some((_, other)) if is_mode(other) => Err(wrong("--dir", text, format!("`{other}` is neither `ro` nor `rw`"))),
        _ => mounted(host, behind, false),
    }
}

fn mounted(host: &str, guest: &str, read_only: bool) -> Result<Directory, Error> {
    if host.is_empty() || guest.is_empty() || guest.ends_with(':') {
        let text = format!("{host}:{guest}");
        return Err(wrong("--dir", &text, "it is HOST or HOST:GUEST, with `:ro` behind it for reading only"));
    }
    let host = PathBuf::from(host);
    if !host.is_dir() {
        return Err(no_directory(&host, guest));
    }
    Ok(Directory { host, guest: guest.to_owned(), read_only })
}

/// Whether a word behind a guest's path is meant as Docker's mode of a volume, or a part of one.
fn is_mode(word: &str) -> bool {
    const MODES: [&str; 9] = ["ro", "rw", "z", "cached", "delegated", "consistent", "nocopy", "shared", "private"];
    let word = word.to_ascii_lowercase();
    word.split(',').any(|part| MODES.contains(&part))
}

fn no_directory(host: &Path, guest: &str) -> Error {
    if host.exists() {
        let error = Error::new(ErrorKind::Host, format!("`{}` is no directory", host.display()));
        return error.with_hint("name the directory that it is in: `--dir HOST:GUEST`");
    }
    let error = Error::new(ErrorKind::Host, format!("there is no directory `{}`", host.display()));
    // WasmEdge's `--dir` is GUEST:HOST. Where a guest's path is one of every machine, it was only mistyped.
    if host.is_absolute() && Path::new(guest).is_dir() && !EVERYWHERE.contains(&guest) {
        return error.with_hint(format!("the host's path comes first here: `--dir {guest}:{}`", host.display()));
    }
    error.with_hint("make it, or name another: `--dir HOST:GUEST`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use anyport::policy::Outbound;
    use clap::Parser;

    fn plan(words: &[&str]) -> Result<Plan, Error> {
        let words = ["anyport", "run"].iter().chain(words).chain(&["x.wasm"]);
        match Cli::try_parse_from(words).expect("flags that there are").command {
            Command::Run(run) => Plan::resolve(&run),
            other => panic!("not run: {other:?}"),
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
            (vec!["--mapdir".to_owned(), format!("/data::{host}")], ("/data", false)),
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
        assert_eq!(plan.publish[0].to_string(), "0.0.0.0:80:80/tcp");
        assert_eq!(plan.listeners[0].to_string(), "127.0.0.1:81");
        assert_eq!((plan.settings.limits.memory_bytes, plan.settings.limits.table_elements), (1 << 20, 5));
        assert!(plan.settings.name_lookup);
        assert_eq!(plan.env["A"], "b=c");
    }

    #[test]
    fn of_a_url_the_address_is_asked_for() {
        for (words, hint) in [
            (["--allow-net", "https://example.com/a"], "--allow-net example.com:443"),
            (["--listen", "http://127.0.0.1:80"], "--listen 127.0.0.1:80"),
            (["-p", "8000-8010"], "-p 8000 -p 8001"),
        ] {
            let error = plan(&words).expect_err("no address");
            assert!(error.hint().is_some_and(|said| said.contains(hint)), "{error:?}");
        }
    }

    #[test]
    fn the_wrong_order_of_a_directory_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = folder.path().to_str().expect("a plain path");
        let error = plan(&["--dir", &format!("/no/such:{host}")]).expect_err("no such folder");
        assert_eq!(error.hint(), Some(format!("the host's path comes first here: `--dir {host}:/no/such`").as_str()));
    }

    #[test]
    fn a_mode_that_is_none_is_no_part_of_a_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = folder.path().to_str().expect("a plain path");
        for mode in ["ro,z", "z", "Z", "RO", "cached"] {
            let error = plan(&["-v", &format!("{host}:/a:{mode}")]).expect_err("no mode");
            assert!(error.to_string().contains("neither `ro` nor `rw`"), "{error}");
        }
        for (guest, how) in [("/z", ":"), ("z", ":"), ("z", "::"), ("rw", "::"), ("shared", "::"), ("/a:b", "::")] {
            let plan = plan(&["-v", &format!("{host}{how}{guest}")]).expect("a path");
            assert_eq!((plan.directories[0].guest.as_str(), plan.directories[0].read_only), (guest, false));
        }
        let plan = plan(&["-v", &format!("{host}:ro"), "-v", &format!("{host}::z:ro")]).expect("paths");
        let seen: Vec<_> = plan.directories.iter().map(|one| (one.guest.as_str(), one.read_only)).collect();
        assert_eq!(seen, [(host, true), ("z", true)]);
    }

    #[test]
    fn nobody_is_told_to_give_away_the_machine() {
        for guest in ["/", "/tmp"] {
            let error = plan(&["--dir", &format!("/no/such:{guest}")]).expect_err("no such folder");
            assert!(!error.hint().unwrap_or_default().contains("comes first"), "{error:?}");
        }
    }

    #[test]
    fn a_line_of_a_shell_is_no_variable() {
        let error = plan(&["-e", "export A=b"]).expect_err("it has a space");
        assert!(error.to_string().contains("without `export`"), "{error}");
        assert_eq!(plan(&["-e", "A= b c"]).expect("a value may").env["A"], " b c");
    }

    #[test]
    fn wide_permissions_must_be_named() {
        let dockers = ["--net=host"];
        for words in [&["--net", "-q"][..], &["-S", "inherit-network"], &["--net=dns:allow=example.com"], &dockers] {
            assert!(plan(words).expect_err("explained").hint().is_some(), "{words:?}");
        }
        assert_eq!(plan(&["--net=any"]).expect("named").settings.outbound, [Outbound::Any]);
    }
}
