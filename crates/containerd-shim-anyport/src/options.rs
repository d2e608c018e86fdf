//! What the options of a container mean: `io.anyport.NAME` as environment, annotation or label.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyport::Error;
use anyport::limits::MEMORY_BYTES;
use anyport::policy::Outbound;
use anyport::server::{CertificateFiles, Front, Restart};
use anyport::settings::{Refusal, Settings, flag};

use crate::bundle::Bundle;
use crate::control::Prepared;

/// Where a guest listens that can not say so itself, if nothing else tells.
const PORT: u16 = 8080;

/// Of a container's memory, what the runtime itself needs: its stacks, its tables, the kernel's buffers.
const RUNTIME_BYTES: u64 = 8 << 20;

/// The names of the options that are not [`Settings`]'.
const NAMES: &[&str] =
    &["access-log", "cgi", "health", "listen", "log", "proxy-protocol", "tls-cert", "tls-key", "trace", "x-forwarded"];

/// How the guest of a container runs.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) settings: Settings,
    /// What an option says of the memory of each guest.
    memory_asked: Option<usize>,
    pub(crate) listen: Listen,
    /// What stands between the container's network and its guest; files are the container's own.
    pub(crate) front: Front,
    /// The module answers requests by CGI.
    pub(crate) cgi: bool,
    /// What is logged, as `--log` has it.
    pub(crate) log: String,
    /// Which hostcalls are printed, as `--trace` has it.
    pub(crate) trace: Option<String>,
}

/// Where a guest listens that waits for a listener.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) addresses: Vec<SocketAddr>,
    /// What told so, for people.
    pub(crate) source: String,
}

impl Options {
    /// The options of a container.
    ///
    /// # Errors
    /// There is no such option, or it does not take this value.
    pub(crate) fn of(bundle: &Bundle, prepared: &Prepared) -> Result<Self, Error> {
        let mut given = bundle.options(&prepared.labels);
        let mut settings = Settings::default();
        // What the container's network lets through is the operator's to say.
        settings.outbound = Vec::new();
        settings.name_lookup = true;
        // A container that fails ends, and its engine's own policy says what follows; of several guests
        // the others go on meanwhile.
        let is_told = given.contains_key("restart");
        let listen = given.remove("listen");
        let log = given.remove("log").filter(|filter| !filter.is_empty());
        let trace = given.remove("trace");
        let front = front(&mut given)?;
        let cgi = is_set(&mut given, "cgi")?;
        for (name, value) in &given {
            set(&mut settings, name, value, bundle)?;
        }
        if bundle.option_of_annotations("allow-net").is_none() {
            refuse_metadata(&mut settings);
        }
        if settings.outbound.is_empty() && !given.contains_key("allow-net") {
            settings.outbound.push(Outbound::Any);
        }
        if !is_told && settings.workers.is_none_or(|workers| workers == 1) {
            settings.restart = Restart::No;
        }
        let memory_asked = given.contains_key("memory").then_some(settings.limits.memory_bytes);
        let listen = Listen::of(listen.as_deref(), bundle, &prepared.exposed)?;
        let log = log.unwrap_or_else(|| "warn".to_owned());
        let mut options = Self { settings, memory_asked, listen, front, cgi, log, trace };
        options.settings.limits.memory_bytes = options.guest_memory(prepared.memory_limit);
        Ok(options)
    }
}

impl Options {
    /// What of a container's memory one of its guests may have.
    pub(crate) fn guest_memory(&self, limit: Option<u64>) -> usize {
        let each = limit.map(|limit| {
            let guests = limit.saturating_sub(RUNTIME_BYTES).max(limit / 2);
            usize::try_from(guests).unwrap_or(usize::MAX) / self.settings.workers.unwrap_or(1).max(1)
        });
        match (each, self.memory_asked) {
            (Some(each), asked) => each.min(asked.unwrap_or(usize::MAX)),
            (None, asked) => asked.unwrap_or(MEMORY_BYTES),
        }
    }
}

/// TLS, the PROXY protocol, health and the access log.
fn front(given: &mut BTreeMap<String, String>) -> Result<Front, Error> {
    let mut front = Front::default();
    let mut files = |name: &str| -> Vec<PathBuf> {
        given.remove(name).iter().flat_map(|value| value.split(',')).map(PathBuf::from).collect()
    };
    let (chains, keys) = (files("tls-cert"), files("tls-key"));
    if chains.len() != keys.len() {
        let (chains, keys) = (chains.len(), keys.len());
        let what = format!("`io.anyport.tls-cert` names {chains} files, and `io.anyport.tls-key` {keys}");
        return Err(Error::host(what).with_hint("each certificate has its key, in the same order, with commas between"));
    }
    front.certificates = chains.into_iter().zip(keys).map(|(chain, key)| CertificateFiles { chain, key }).collect();
    front.proxy_protocol = is_set(given, "proxy-protocol")?;
    front.x_forwarded = is_set(given, "x-forwarded")?;
    front.health = given.remove("health").map(|text| address("health", &text)).transpose()?;
    if let Some(text) = given.remove("access-log") {
        let log = text.parse().map_err(|why| wrong("access-log", &text, &Refusal::Wrong(why)))?;
        front.access_log = Some(log);
    }
    Ok(front)
}

/// A switch, which is off where nothing is said of it.
fn is_set(given: &mut BTreeMap<String, String>, name: &str) -> Result<bool, Error> {
    let Some(value) = given.remove(name) else { return Ok(false) };
    flag(&value).map_err(|refusal| wrong(name, &value, &refusal))
}

/// A metadata service hands out the machine's credentials. What an image says of itself, as labels and
/// environment, must not open it; its environment cannot be told from that of `docker run -e`.
fn refuse_metadata(settings: &mut Settings) {
    let before = settings.outbound.len();
    settings.outbound.retain(|rule| !rule.allows_metadata());
    if settings.outbound.len() < before {
        tracing::warn!(
            "only an annotation can allow the metadata service: `docker run --annotation io.anyport.allow-net=ADDRESS`"
        );
    }
}

fn set(settings: &mut Settings, name: &str, value: &str, bundle: &Bundle) -> Result<(), Error> {
    let cores = bundle.cores().map(|cores| cores.to_string());
    let value = match (name, value, &cores) {
        // Of the container's, not of the machine's.
        ("workers", "cores", Some(cores)) => cores,
        // No address at all.
        ("allow-net", "" | "none", _) => return Ok(()),
        _ => value,
    };
    let values = match name {
        "limit" => value.split(',').collect(),
        // An option is there once; a value may have any other character.
        "config" => value.lines().collect(),
        _ => vec![value],
    };
    for value in values {
        settings.set(name, value).map_err(|refusal| wrong(name, value, &refusal))?;
    }
    Ok(())
}

fn wrong(name: &str, value: &str, refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Unknown => {
            let mut names: Vec<&str> = Settings::NAMES.iter().chain(NAMES).copied().collect();
            names.sort_unstable();
            Error::host(format!("there is no option `io.anyport.{name}`"))
                .with_hint(format!("the options are {}", names.join(", ")))
        }
        refusal => Error::host(format!("the option `io.anyport.{name}={value}` is not right: {refusal}")),
    }
}

impl Listen {
    fn of(option: Option<&str>, bundle: &Bundle, exposed: &[u16]) -> Result<Self, Error> {
        if let Some(text) = option {
            let addresses = text.split(',').map(|text| address("listen", text)).collect::<Result<_, _>>()?;
            return Ok(Self { addresses, source: "io.anyport.listen".to_owned() });
        }
        let env: BTreeMap<&str, &str> = bundle.env().collect();
        if let Some(port) = env.get("PORT").and_then(|text| text.parse().ok()).filter(|port| *port != 0) {
            return Ok(Self { addresses: vec![everywhere(port)], source: "PORT in the environment".to_owned() });
        }
        if exposed.is_empty() {
            let source = "nothing said which port, so it is 8080".to_owned();
            return Ok(Self { addresses: vec![everywhere(PORT)], source });
        }
        Ok(Self {
            addresses: exposed.iter().copied().map(everywhere).collect(),
            source: "the ports that the image exposes".to_owned(),
        })
    }
}

fn everywhere(port: u16) -> SocketAddr {
    // Takes IPv4 too; a kernel without IPv6 is seen when it is bound.
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn address(name: &str, text: &str) -> Result<SocketAddr, Error> {
    let port = text.parse().map(everywhere);
    port.or_else(|_| anyport::policy::parse_listen_address(text)).map_err(|why| {
        Error::host(format!("the option `io.anyport.{name}={text}` is not right: {why}"))
            .with_hint(format!("`io.anyport.{name}=8080` and `io.anyport.{name}=127.0.0.1:8080` are right"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyport::server::AccessFormat;
    use serde_json::json;
    use std::time::Duration;

    fn options(env: &[&str], exposed: &[u16], resources: &serde_json::Value) -> Result<Options, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": env },
            "linux": { "resources": resources },
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("room");
        let bundle = Bundle::open(folder.path()).expect("a bundle");
        let memory_limit = resources["memory"]["limit"].as_u64();
        Options::of(&bundle, &Prepared { exposed: exposed.to_vec(), memory_limit, ..Prepared::default() })
    }

    fn ports(env: &[&str], exposed: &[u16]) -> Vec<u16> {
        let options = options(env, exposed, &json!({})).expect("right");
        options.listen.addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn the_port_is_the_options_then_the_environments_then_the_images() {
        assert_eq!(ports(&["io.anyport.listen=1,127.0.0.1:2", "PORT=3"], &[4]), [1, 2]);
        assert_eq!(ports(&["PORT=3"], &[4, 5]), [3]);
        assert_eq!(ports(&["PORT=none"], &[4, 5]), [4, 5]);
        assert_eq!(ports(&[], &[]), [8080]);
    }

    #[test]
    fn limits_of_the_container_are_the_guests() {
        let resources = json!({ "memory": { "limit": 64 << 20 }, "cpu": { "quota": 150_000, "period": 100_000 } });
        let options = options(&["io.anyport.workers=cores", "io.anyport.timeout=3s"], &[], &resources).expect("right");
        assert_eq!(options.settings.workers, Some(2));
        assert_eq!(options.settings.limits.memory_bytes, (56 << 20) / 2);
        assert_eq!(options.settings.limits.timeout, Duration::from_secs(3));
        assert_eq!(options.settings.outbound, [Outbound::Any]);
    }

    #[test]
    fn a_container_has_a_front() {
        let env = [
            "io.anyport.tls-cert=/a.pem,/b.pem",
            "io.anyport.tls-key=/a.key,/b.key",
            "io.anyport.proxy-protocol=",
            "io.anyport.x-forwarded=false",
            "io.anyport.health=8081",
            "io.anyport.access-log=common:/log/access",
        ];
        let front = options(&env, &[], &json!({})).expect("right").front;
        let files = front.certificates.iter().map(|pair| (pair.chain.to_str(), pair.key.to_str()));
        let files: Vec<_> = files.map(|(chain, key)| (chain.unwrap_or(""), key.unwrap_or(""))).collect();
        assert_eq!(files, [("/a.pem", "/a.key"), ("/b.pem", "/b.key")]);
        assert!(front.proxy_protocol && !front.x_forwarded);
        assert_eq!(front.health.map(|address| address.port()), Some(8081));
        let log = front.access_log.expect("one is asked for");
        assert_eq!((log.format, log.file), (AccessFormat::Common, Some("/log/access".into())));
        let none = options(&[], &[], &json!({})).expect("right").front;
        assert!(none.certificates.is_empty() && none.health.is_none() && none.access_log.is_none());
    }

    #[test]
    fn an_image_does_not_open_the_metadata_service() {
        let rules = "io.anyport.allow-net=169.254.169.254,10.0.0.0/8";
        let options = options(&[rules], &[], &json!({})).expect("right");
        assert_eq!(options.settings.outbound, ["10.0.0.0/8".parse().expect("a rule")]);
    }

    #[test]
    fn wrong_options_are_told() {
        for (env, want) in [
            ("io.anyport.worker=2", "there is no option `io.anyport.worker`"),
            ("io.anyport.workers=0", "the option `io.anyport.workers=0` is not right: it is 1 to 1024, or `cores`"),
            ("io.anyport.listen=x", "the option `io.anyport.listen=x` is not right"),
            ("io.anyport.health=x", "the option `io.anyport.health=x` is not right"),
            ("io.anyport.access-log=x", "the option `io.anyport.access-log=x` is not right: `x` is no format"),
            ("io.anyport.x-forwarded=x", "the option `io.anyport.x-forwarded=x` is not right: it is `true` or `false`"),
            ("io.anyport.tls-key=/key", "`io.anyport.tls-cert` names 0 files, and `io.anyport.tls-key` 1"),
        ] {
            let error = options(&[env], &[], &json!({})).expect_err(env);
            assert!(error.to_string().starts_with(want), "{error}");
        }
        let closed = options(&["io.anyport.allow-net=none"], &[], &json!({})).expect("right");
        assert_eq!(closed.settings.outbound, []);
    }
}
