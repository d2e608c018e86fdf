//! Instances that are made before there is a request for them: before the port is open, and while a worker has
//! nothing else to do.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::call::Call;
use super::kept::Instance;
use super::{Site, reuse};
use crate::guest::Guest;
use crate::instance::{self, Neighbours, Outcome};
use crate::program::Handler;

/// Makes an instance for the next request of 0.2 when this one has been answered, unless one waits already: a client
/// with one connection then never waits for that. Where many come at a time, each makes its own as it comes.
pub(super) fn refill(site: &Arc<Site>, handler: &ProxyPre<Guest>) {
    if !site.kept.begin_refill() {
        return;
    }
    let (site, handler) = (Arc::clone(site), handler.clone());
    tokio::spawn(async move {
        // What is ready comes first.
        tokio::task::yield_now().await;
        if let Some(permit) = spare(&site)
            && let Err(outcome) = make_02(&site, &handler, permit).await
        {
            // The next request meets the same, and tells.
            tracing::debug!("no instance could be made ready: {outcome:?}");
        }
        site.kept.end_refill();
    });
}

/// A place that no request needs for now. The last ones are never taken, nor any where requests must not wait until
/// it is given back.
fn spare(site: &Site) -> Option<OwnedSemaphorePermit> {
    let least = (site.limits.instances as usize / 2).max(site.inbound.published.workers());
    let has_room = site.limits.queue > 0 && site.requests.permits.available_permits() > least;
    if site.drains() || !has_room || !site.kept.is_empty() {
        return None;
    }
    Arc::clone(&site.requests.permits).try_acquire_owned().ok()
}

/// Makes an instance, which waits for a request; or how it has ended.
pub(super) async fn make(site: &Arc<Site>, permit: OwnedSemaphorePermit) -> Result<(), Outcome> {
    match &site.requests.handler {
        Handler::Of02(handler) => make_02(site, handler, permit).await,
        Handler::Of03(handler) => reuse::make(site, handler, permit).await,
        // Each request has an instance with an environment of its own.
        Handler::Cgi(_) => Ok(()),
    }
}

/// Of 0.2: it is kept for one request, or for as many as each may have.
async fn make_02(site: &Arc<Site>, handler: &ProxyPre<Guest>, permit: OwnedSemaphorePermit) -> Result<(), Outcome> {
    let guest = site.guest(None).map_err(|error| Outcome::failed(error.to_string()))?;
    let pace = guest.busy.pace();
    let mut store = instance::store(&site.engine, guest, Neighbours::Always);
    let life = Box::pin({
        let (site, handler) = (Arc::clone(site), handler.clone());
        async move {
            match handler.instantiate_async(&mut store).await {
                Ok(proxy) => {
                    site.kept.put(Instance { store, proxy, used: 0, _permit: permit });
                    Outcome::Exited(0)
                }
                Err(error) => instance::outcome(&store, Err(error)),
            }
        }
    });
    let mut call = Call::new(life, pace, site);
    match poll_fn(|context| call.poll(context)).await {
        Outcome::Exited(0) => Ok(()),
        // A guest may exit as it is instantiated.
        ended => Err(ended),
    }
}
