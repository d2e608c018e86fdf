//! The verbs of names: which addresses a guest is told of.

use std::net::IpAddr;
use std::sync::Arc;

use super::Guest;
use crate::errno::Errno;

impl Guest {
    /// The addresses of a name that the guest may reach.
    pub(crate) async fn lookup(&mut self, name: &str) -> Result<Vec<IpAddr>, Errno> {
        self.begin_lookup(name)?.await
    }

    /// The same, for who asks for other things meanwhile.
    pub(crate) fn begin_lookup(
        &mut self, name: &str,
    ) -> Result<impl Future<Output = Result<Vec<IpAddr>, Errno>> + Send + use<>, Errno> {
        // Numbers need no lookup, and no permission for one.
        let number = name.parse::<IpAddr>().ok();
        if number.is_none() {
            self.gate.lookup(name)?;
        }
        let found = self.names.lookup(&self.network, name);
        let (gate, name) = (Arc::clone(&self.gate), name.to_owned());
        Ok(async move {
            if let Some(number) = number {
                return Ok(vec![number]);
            }
            let addresses = found.await.map_err(|_| Errno::LookupNoName)?;
            Ok(gate.admit(&name, addresses)?)
        })
    }
}
