//! What a guest may reach. Denies by default; asked before the first syscall.
//!
//! Owns every yes and no about the network, for every dialect, and the words of each refusal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Mutex;

use ipnet::IpNet;

use crate::error::printable;
use crate::spelling::{option, publish};

pub use crate::address::{HostAddress, Publish, Transport, parse_listen_address};

/// What a guest may do on the network. [`Policy::default`] denies everything.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Ports of the guest that are reachable, and where.
    pub publish: Vec<Publish>,
    /// What the guest may connect or send to.
    pub outbound: Vec<Outbound>,
    /// Which ports the guest may listen on.
    pub listen: Listen,
    /// Whether the guest may look up any name, and not only those that a rule could be about. What it may
    /// connect to is another matter.
    pub name_lookup: bool,
}

/// Which ports a guest may listen on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// Those that are published, and no others.
    #[default]
    Published,
    /// Those, and any other address and port of this network namespace: a port that the guest binds is bound
    /// there at that moment, and served as a published one is. It is the network namespace that says who reaches it,
    /// so this is for guests that have one of their own, such as containers.
    ///
    /// A UDP socket that is bound to port 0 is a client's: it hears only from whom the guest may send to.
    Anywhere,
}

/// What a guest gets that binds a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A socket of its own: a client's, or for itself.
    Private,
    /// What is published at this place of the policy.
    Published(usize),
    /// The same, where it is for whichever port the guest binds.
    Whichever(usize),
    /// That address itself.
    Open,
}

/// One rule for outbound traffic; what no rule allows is refused.
///
/// Parses `any`, `public`, `private`, `HOST[:PORT]`, `ADDRESS[:PORT]`, `CIDR[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outbound {
    /// Every address, cloud metadata services excepted.
    Any,
    /// Addresses of the public internet.
    Public,
    /// Loopback, link-local (metadata services excepted) and the private ranges.
    Private,
    /// A network or a single address, on one port or all.
    Network {
        /// The addresses.
        network: IpNet,
        /// The port; all ports if `None`.
        port: Option<u16>,
    },
    /// A host name, checked on the addresses that its lookup gave.
    Host {
        /// The name, lower case, without a trailing dot.
        name: String,
        /// The port; all ports if `None`.
        port: Option<u16>,
    },
}

impl Outbound {
    /// Whether it allows a cloud metadata service: those that name its address alone.
    pub fn allows_metadata(&self) -> bool {
        match self {
            Self::Network { network, .. } => is_metadata(network.addr()) && names(network, network.addr()),
            _ => false,
        }
    }
}

impl FromStr for Outbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => return Ok(Self::Any),
            "public" => return Ok(Self::Public),
            "private" => return Ok(Self::Private),
            "" => return Err("an empty rule allows nothing".to_owned()),
            _ => {}
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network { network: address.into(), port: None });
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network { network, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((host, port)) => {
                let port = port.parse().map_err(|_| format!("`{port}` is not a port number (0 to 65535)"))?;
                (host, Some(port))
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self::Network { network: address.into(), port });
        }
        if let Ok(network) = host.parse::<IpNet>() {
            return Ok(Self::Network { network, port });
        }
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(format!("`{text}` is not HOST[:PORT], a CIDR, `private`, `public` or `any`"));
        }
        Ok(Self::Host { name: host.trim_end_matches('.').to_ascii_lowercase(), port })
    }
}

/// A policy at work for one guest: the rules, the addresses that allowed names had, and what has
/// been refused so far.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    looked_up: Mutex<HashSet<(String, IpAddr)>>,
    /// Each refusal with how often it was made.
    denials: Mutex<HashMap<String, u64>>,
}

/// A refusal: what was refused, and the flag that would allow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    what: String,
    flag: String,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the guest may not {}; to allow it, add `{}`", self.what, self.flag)
    }
}

impl Denial {
    /// Of a name that no rule allows; the name is the guest's to choose, so it is cleaned.
    fn lookup(name: &str) -> Self {
        let name = printable(name);
        let flag = match name.parse() {
            // It can be connected to, then. What looks names up for another reason needs no more than the other.
            Ok(Outbound::Host { .. }) => format!("{}` or `{}", option("allow-net", &name), option("allow-dns", "")),
            _ => option("allow-dns", ""),
        };
        Self { what: format!("look up `{name}`"), flag }
    }

    /// Of an HTTP request to a host, by name or number, with what is to say of it.
    fn request(host: &str, port: u16, more: &str) -> Self {
        let to = match host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, port).to_string(),
            Err(_) => format!("{}:{port}", printable(host)),
        };
        Self { what: format!("send requests to {to}{more}"), flag: option("allow-net", to) }
    }
}

impl Gate {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, looked_up: Mutex::default(), denials: Mutex::default() }
    }

    /// Whether the guest may bind this address, and as what. Port 0 is private where it is not published: it
    /// is what clients bind.
    pub(crate) fn bind(&self, address: SocketAddr, transport: Transport) -> Result<Admission, Denial> {
        let position = |guest_port| {
            let is_it = |publish: &Publish| publish.transport == transport && publish.guest_port == guest_port;
            self.policy.publish.iter().position(is_it)
        };
        if let Some(index) = position(Some(address.port())) {
            return Ok(Admission::Published(index));
        }
        // Port 0 is no server's first choice.
        if address.port() == 0 {
            return Ok(Admission::Private);
        }
        if let Some(index) = position(None) {
            return Ok(Admission::Whichever(index));
        }
        if self.listens_anywhere() {
            return Ok(Admission::Open);
        }
        Err(self.deny(Denial {
            what: format!("bind port {}/{transport}, which is not published", address.port()),
            flag: match transport {
                Transport::Tcp => publish(format!("{0}:{0}", address.port())),
                Transport::Udp => publish(format!("{0}:{0}/udp", address.port())),
            },
        }))
    }

    /// Whether ports need not be published.
    pub(crate) fn listens_anywhere(&self) -> bool {
        self.policy.listen == Listen::Anywhere
    }

    /// Whether the guest may listen on a port that is not published, and as what: for itself on loopback, if it
    /// may connect there. Programs talk to themselves that way; a rule for loopback says that they may.
    pub(crate) fn listen_unpublished(&self, address: SocketAddr) -> Result<Admission, Denial> {
        if address.ip().is_loopback() && self.reaches(address) {
            return Ok(Admission::Private);
        }
        if self.listens_anywhere() {
            return Ok(Admission::Open);
        }
        Err(self.deny(Denial { what: format!("listen on {address}, which is not published"), flag: publish("0:0") }))
    }

    /// The machine does not let this process bind a port: told as a refusal, since the guest sees one.
    pub(crate) fn is_privileged(&self, address: SocketAddr, transport: Transport) {
        let what = format!("bind {address}/{transport}, which takes a privilege that this process does not have");
        self.deny(Denial { what, flag: "--cap-add NET_BIND_SERVICE".to_owned() });
    }

    /// Whether a rule allows to send to this address.
    pub(crate) fn reaches(&self, address: SocketAddr) -> bool {
        self.policy.outbound.iter().any(|rule| self.allows(rule, address))
    }

    /// Whether the guest may connect or send to this address.
    pub(crate) fn connect(&self, address: SocketAddr) -> Result<(), Denial> {
        if self.reaches(address) {
            return Ok(());
        }
        Err(self.deny(Denial { what: format!("connect to {address}"), flag: option("allow-net", address) }))
    }

    /// Whether the guest may look this name up: when some rule could use the answer.
    pub(crate) fn lookup(&self, name: &str) -> Result<(), Denial> {
        let allowed = self.policy.name_lookup
            || self.policy.outbound.iter().any(|rule| match rule {
                Outbound::Host { name: allowed, .. } => *allowed == normalised(name),
                Outbound::Any | Outbound::Public | Outbound::Private => true,
                Outbound::Network { .. } => false,
            });
        if allowed {
            return Ok(());
        }
        Err(self.deny(Denial::lookup(name)))
    }

    /// Whether the guest may send HTTP requests to this host and port: for a name, whether some rule could allow it
    /// once its addresses are known.
    pub(crate) fn request(&self, host: &str, port: u16) -> Result<(), Denial> {
        let is_its = |only: &Option<u16>| only.is_none_or(|only| only == port);
        let could = match host.parse() {
            Ok(address) => self.reaches(SocketAddr::new(address, port)),
            Err(_) => self.policy.outbound.iter().any(|rule| match rule {
                Outbound::Host { name, port } => *name == normalised(host) && is_its(port),
                Outbound::Any | Outbound::Public | Outbound::Private => true,
                Outbound::Network { port, .. } => self.policy.name_lookup && is_its(port),
            }),
        };
        if could { Ok(()) } else { Err(self.deny(Denial::request(host, port, ""))) }
    }

    /// Where HTTP requests to a name may be sent, of the addresses that its lookup gave; nowhere is a refusal.
    pub(crate) fn destinations(&self, name: &str, port: u16, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, Denial> {
        self.filter(&normalised(name), addresses);
        let all = addresses.iter().map(|address| SocketAddr::new(*address, port));
        let reached: Vec<SocketAddr> = all.filter(|to| self.reaches(*to)).collect();
        let refused = match addresses.first().filter(|_| reached.is_empty()) {
            None => return Ok(reached),
            // No rule for its name could be about it.
            Some(address) if is_metadata(*address) => {
                Denial::request(&address.to_string(), port, &format!(", which is `{}`", printable(name)))
            }
            Some(address) => Denial::request(name, port, &format!(", which is {address}")),
        };
        Err(self.deny(refused))
    }

    /// Keeps of a lookup's answer what the guest may connect to on some port, and remembers it for
    /// the rules that name this host: the check is on addresses, so a name that later answers
    /// otherwise gains nothing. An answer of which nothing may be kept is a refusal.
    pub(crate) fn admit(&self, name: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Denial> {
        let admitted = self.filter(&normalised(name), &addresses);
        if self.policy.name_lookup {
            return Ok(addresses);
        }
        if admitted.is_empty() && !addresses.is_empty() {
            return Err(self.deny(Denial::lookup(name)));
        }
        Ok(admitted)
    }

    fn filter(&self, name: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let named = self
            .policy
            .outbound
            .iter()
            .any(|rule| matches!(rule, Outbound::Host { name: allowed, .. } if allowed == name));
        let mut looked_up = self.looked_up.lock().expect("no panic while held");
        addresses
            .iter()
            .copied()
            .filter(|address| {
                if named && !is_metadata(*address) {
                    looked_up.insert((name.to_owned(), unwrapped(*address)));
                    return true;
                }
                self.policy.outbound.iter().any(|rule| match rule {
                    Outbound::Network { network, .. } => names(network, unwrapped(*address)),
                    Outbound::Host { .. } => false,
                    wide => allows_wide(wide, *address),
                })
            })
            .collect()
    }

    fn allows(&self, rule: &Outbound, address: SocketAddr) -> bool {
        let ip = unwrapped(address.ip());
        match rule {
            Outbound::Network { network, port } => names(network, ip) && port.is_none_or(|port| port == address.port()),
            Outbound::Host { name, port } => {
                port.is_none_or(|port| port == address.port())
                    && self.looked_up.lock().expect("no panic while held").contains(&(name.clone(), ip))
            }
            wide => allows_wide(wide, ip),
        }
    }

    /// What was refused, and how often.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let denials = self.denials.lock().expect("no panic while held");
        denials.iter().map(|(denial, count)| (denial.clone(), *count)).collect()
    }

    /// Tells the person once per refusal, not per call, and not for ever: a guest may scan.
    fn deny(&self, denial: Denial) -> Denial {
        let mut denials = self.denials.lock().expect("no panic while held");
        let text = denial.to_string();
        if let Some(count) = denials.get_mut(&text) {
            *count += 1;
        } else if denials.len() < DENIALS_TOLD {
            tracing::warn!("{denial}");
            denials.insert(text, 1);
            if denials.len() == DENIALS_TOLD {
                tracing::warn!("further refusals are not told");
            }
        }
        denial
    }
}

impl Drop for Gate {
    /// How often each refusal was made, for who asks.
    fn drop(&mut self) {
        let denials = std::mem::take(self.denials.get_mut().expect("no panic while held"));
        for (denial, count) in denials.iter().filter(|(_, count)| **count > 1) {
            tracing::info!("refused {count} times: {denial}");
        }
    }
}

/// Refusals after which no other is told: enough to write every rule that a guest needs.
const DENIALS_TOLD: usize = 100;

fn normalised(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a rule for a network means this address: a metadata service only if it is all it means.
fn names(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address) && (!is_metadata(address) || network.prefix_len() == network.max_prefix_len())
}

/// The rules that name no address. A metadata service hands out the machine's credentials, so it
/// is reached only where its address is named.
fn allows_wide(rule: &Outbound, address: IpAddr) -> bool {
    let allowed = match rule {
        Outbound::Any => true,
        Outbound::Private => is_private(address),
        Outbound::Public => !is_private(address),
        Outbound::Network { .. } | Outbound::Host { .. } => false,
    };
    allowed && !is_metadata(address)
}

fn is_private(address: IpAddr) -> bool {
    match unwrapped(address) {
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()
                || v4.is_broadcast() || v4.is_multicast() || v4.is_documentation()
                // 100.64.0.0/10, carrier-grade NAT (RFC 6598): inside of somebody's network.
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}

/// The well-known addresses of cloud metadata services: AWS, GCP, Azure and others share the first;
/// then those of AWS containers and pods, Azure's wire server, Alibaba's; in IPv6 AWS's and GCP's;
/// Oracle's, Scaleway's and Tencent's own.
fn is_metadata(address: IpAddr) -> bool {
    match unwrapped(address) {
        IpAddr::V4(v4) => matches!(
            v4.octets(),
            [169, 254, 169, 254]
                | [169, 254, 170, 2 | 23]
                | [169, 254, 42, 42]
                | [169, 254, 0, 23]
                | [168, 63, 129, 16]
                | [100, 100, 100, 200]
        ),
        IpAddr::V6(v6) => matches!(
            v6.segments(),
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23]
                | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
                | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]
                | [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]
        ),
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, or behind the well-known NAT64 prefix
/// `64:ff9b::/96` (RFC 6052).
fn unwrapped(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests;
