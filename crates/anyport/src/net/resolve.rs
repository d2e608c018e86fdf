//! Name lookup through the host's resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::Network;

impl Network {
    /// The addresses of a name, as the host's resolver orders them.
    ///
    /// # Errors
    /// What the resolver said; an unknown name is an error too.
    pub(crate) async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match self {
            Self::Os => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in tokio::net::lookup_host((name, 0)).await? {
                    if !addresses.contains(&address.ip()) {
                        addresses.push(address.ip());
                    }
                }
                Ok(addresses)
            }
            // The simulated network is one host with one name.
            Self::Simulated(_) if name == "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            Self::Simulated(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
