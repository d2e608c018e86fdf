//! Name lookup: by the host's own resolver, or by the files of a container.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::Semaphore;

use super::Network;
use crate::limits::LOOKUPS;

/// Who looks names up for a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolver {
    /// The host's own resolver: `getaddrinfo` with all that the system has plugged into it.
    #[default]
    Host,
    /// `hosts(5)` first, then the servers of `resolv.conf(5)`. Nothing is loaded that these files or others
    /// name: what is in a container is the image's to choose. They are read again when they change.
    Files {
        /// Usually `/etc/resolv.conf`.
        resolv_conf: PathBuf,
        /// Usually `/etc/hosts`.
        hosts: PathBuf,
    },
}

/// The resolver of one guest, on whose event loop it lives.
#[derive(Debug)]
pub(crate) struct Names {
    resolver: Arc<Resolver>,
    /// Made at the first lookup.
    made: Option<Made>,
    /// One for each lookup that may be under way.
    turns: Arc<Semaphore>,
}

struct Made {
    /// What the files that it is made of were.
    stamps: [Option<Stamp>; 2],
    resolver: TokioResolver,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stamps.fmt(f)
    }
}

impl Names {
    pub(crate) fn new(resolver: Arc<Resolver>) -> Self {
        Self { resolver, made: None, turns: Arc::new(Semaphore::new(LOOKUPS)) }
    }

    /// The same for another thread of the guest, whose lookups are counted with these.
    pub(crate) fn sibling(&self) -> Self {
        Self { resolver: Arc::clone(&self.resolver), made: None, turns: Arc::clone(&self.turns) }
    }

    /// The addresses of a name, as the resolver orders them. An unknown name is an error too.
    pub(crate) fn lookup(
        &mut self, network: &Network, name: &str,
    ) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send + use<> {
        let way = self.way(network);
        let (name, turns) = (name.to_owned(), Arc::clone(&self.turns));
        async move {
            let _turn = turns.acquire().await.map_err(io::Error::other)?;
            match way? {
                // The simulated network is one host with one name.
                Way::Simulated if name == "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
                Way::Simulated => Err(io::ErrorKind::NotFound.into()),
                Way::Host => by_host(&name).await,
                Way::Files(resolver) => by_files(&resolver, &name).await,
            }
        }
    }

    fn way(&mut self, network: &Network) -> io::Result<Way> {
        match (network, &*self.resolver) {
            (Network::Simulated(_), _) => Ok(Way::Simulated),
            (Network::Os, Resolver::Host) => Ok(Way::Host),
            (Network::Os, Resolver::Files { resolv_conf, hosts }) => {
                let stamps = [changed(resolv_conf), changed(hosts)];
                if self.made.as_ref().is_none_or(|made| made.stamps != stamps) {
                    let (config, options) = servers(resolv_conf);
                    self.made = Some(Made { stamps, resolver: resolver(config, options, hosts)? });
                }
                let made = self.made.as_ref().expect("made just now");
                Ok(Way::Files(Box::new(made.resolver.clone())))
            }
        }
    }
}

/// How a name is looked up.
enum Way {
    Simulated,
    Host,
    Files(Box<TokioResolver>),
}

async fn by_host(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((name, 0)).await? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

async fn by_files(resolver: &TokioResolver, name: &str) -> io::Result<Vec<IpAddr>> {
    match resolver.lookup_ip(name).await {
        Ok(found) => Ok(found.iter().collect()),
        // As every system has it, whatever its files say.
        Err(_) if name == "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        Err(error) => {
            tracing::debug!("`{name}` is not found: {error}");
            Err(io::Error::other(error))
        }
    }
}

/// A file as it was: which, when it was changed, and how long it is. Docker writes it anew in place, editors put
/// another in its place.
type Stamp = (u64, SystemTime, u64);

fn changed(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?, metadata.len()))
}

/// Of a file of names, so much is read: it is the image's, or the guest's own.
const FILE_BYTES: u64 = 1 << 20;

/// The front of a file; of what is no file, nothing, since a pipe would be waited for.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::File::options().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The servers of `resolv.conf`. Without it there is none: glibc's own, on this machine, would be another
/// container's.
fn servers(resolv_conf: &Path) -> (ResolverConfig, ResolverOpts) {
    let parsed = read(resolv_conf).map_err(|error| error.to_string()).and_then(|text| {
        // A domain that cannot be one takes nothing of the rest away.
        let parsed = parse_resolv_conf(&text).or_else(|_| parse_resolv_conf(without_domains(&text)));
        parsed.map_err(|error| error.to_string())
    });
    parsed.unwrap_or_else(|error| {
        tracing::debug!("no name servers are known: {error}");
        Default::default()
    })
}

fn without_domains(text: &[u8]) -> Vec<u8> {
    let is_domain = |line: &&[u8]| line.starts_with(b"search") || line.starts_with(b"domain");
    text.split(|byte| *byte == b'\n').filter(|line| !is_domain(line)).collect::<Vec<_>>().join(&b'\n')
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts, hosts: &Path) -> io::Result<TokioResolver> {
    // As glibc: each lookup asks, since the answers for a service change when it is started anew.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    let mut known = Hosts::default();
    if let Ok(text) = read(hosts)
        && let Err(error) = known.read_hosts_conf(&text[..])
    {
        tracing::debug!("`{}` is not read: {error}", hosts.display());
    }
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let mut resolver = builder.with_options(options).build().map_err(io::Error::other)?;
    resolver.set_hosts(Arc::new(known));
    Ok(resolver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use tokio::net::UdpSocket;

    /// A name server that knows `db.test` alone, and how often it was asked.
    async fn name_server() -> std::net::SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut packet = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let answer = answer(&packet[..length]);
                let _ = socket.send_to(&answer, client).await;
            }
        });
        address
    }

    /// RFC 1035, section 4: the question back, and an address if it is asked for one of `db.test`.
    fn answer(question: &[u8]) -> Vec<u8> {
        let end = question.iter().skip(12).position(|byte| *byte == 0).expect("a name") + 12 + 5;
        let (name, kind) = (&question[12..end - 4], question[end - 3]);
        let is_known = name.eq_ignore_ascii_case(b"\x02db\x04test\0");
        let has_answer = is_known && kind == 1;
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
        answer.extend(&question[12..end]);
        if has_answer {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3]);
        }
        answer
    }

    #[tokio::test]
    async fn files_come_first_then_servers() {
        let server = name_server().await;
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, "10.9.8.7 web web.test # a comment\n::1 web\n").expect("room");
        let mut udp = ConnectionConfig::udp();
        udp.port = server.port();
        let config = ResolverConfig::from_name_servers(vec![NameServerConfig::new(server.ip(), true, vec![udp])]);
        let resolver = resolver(config, ResolverOpts::default(), &hosts).expect("made");
        let find = async |name: &str| by_files(&resolver, name).await.ok();
        assert_eq!(find("web.test").await, Some(vec!["10.9.8.7".parse().expect("an address")]));
        assert_eq!(find("db.test").await, Some(vec!["10.1.2.3".parse().expect("an address")]));
        assert_eq!(find("nobody.test").await, None);
        let localhost = find("localhost").await.expect("always known");
        assert!(localhost.iter().all(IpAddr::is_loopback) && !localhost.is_empty());
    }

    /// As Docker, Kubernetes and systemd write them; what is not known in one takes nothing of the rest away.
    #[test]
    fn files_of_containers_are_understood() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("resolv.conf");
        for (text, server, ndots, search) in [
            ("# Generated by Docker\nnameserver 127.0.0.11\noptions edns0 trust-ad ndots:0\n", "127.0.0.11", 0, 0),
            (
                "search a.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5 no-such-one\n",
                "10.96.0.10",
                5,
                2,
            ),
            ("nameserver fd00::53\n; a comment\n\nsearch .\n", "fd00::53", 1, 1),
        ] {
            std::fs::write(&file, text).expect("room");
            let (config, options) = servers(&file);
            let found: Vec<IpAddr> = config.name_servers.iter().map(|server| server.ip).collect();
            assert_eq!(found, [server.parse::<IpAddr>().expect("an address")], "{text}");
            assert_eq!((options.ndots, config.search.len()), (ndots, search), "{text}");
        }
        // Nobody is asked who is not named, whatever the crate knows.
        std::fs::write(&file, "nonsense\n").expect("room");
        assert!(servers(&file).0.name_servers.is_empty());
        assert!(servers(&folder.path().join("none")).0.name_servers.is_empty());
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_given_up() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let mut udp = ConnectionConfig::udp();
        udp.port = silent.local_addr().expect("bound").port();
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
        let mut options = ResolverOpts::default();
        (options.timeout, options.attempts) = (std::time::Duration::from_millis(50), 1);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let resolver = resolver(config, options, Path::new("/nonexistent")).expect("made");
        by_files(&resolver, "db.test").await.expect_err("nobody answers");
        assert!(!by_files(&resolver, "localhost").await.expect("always known").is_empty());
    }

    #[tokio::test]
    async fn changed_files_are_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
        let resolver = Resolver::Files { resolv_conf: resolv_conf.clone(), hosts: hosts.clone() };
        let mut names = Names::new(Arc::new(resolver));
        for (second, address) in ["10.0.0.1", "10.0.0.2"].into_iter().enumerate() {
            std::fs::write(&hosts, format!("{address} web\n")).expect("room");
            let file = std::fs::File::options().write(true).open(&hosts).expect("there");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second as u64);
            file.set_modified(time).expect("ours");
            let found = names.lookup(&Network::Os, "web").await.expect("known");
            assert_eq!(found, [address.parse::<IpAddr>().expect("an address")]);
        }
    }
}
