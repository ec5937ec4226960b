//! The front doors: where the users of a service come in. They stand for DNS and load balancers outside the sites.
//!
//! Knows: which site is published for a service, and under which epoch.
//! Refuses to know: why. Tasks: one per door, one per connection.
//! Invariants: the published epoch never goes down (compare-and-set, on the disk before it is answered); when the
//! published site changes, no connection to the old one is left open.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bcp_wire::{Epoch, Site};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::ports::{BasePort, loopback};
use crate::service::Service;

/// Users at one door at a time.
const MAX_CONNECTIONS: usize = 1_024;
/// What a load balancer says when there is nobody behind it.
const NOBODY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 20\r\nconnection: close\r\n\r\nno site answers now\n";

/// Where users are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub epoch: Epoch,
    /// Share of the users per site; the numbers need not add up to anything.
    pub weights: BTreeMap<Site, u32>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Published {
    Done,
    Already,
    /// A higher epoch is published, or the same one for another site.
    Superseded,
}

/// Why a publication could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}")]
pub struct FrontError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// All doors.
#[derive(Debug)]
pub struct Doors {
    path: PathBuf,
    routes: watch::Sender<BTreeMap<Service, Route>>,
}

impl Doors {
    /// Reads what was published before; an unreadable file counts as nothing published.
    #[must_use]
    pub fn open(data_dir: &Path) -> Doors {
        let path = data_dir.join("front-doors.json");
        let mut routes: BTreeMap<Service, Route> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        // The active-active service is open before anybody decides about it.
        routes
            .entry(Service::PatientPortal)
            .or_insert_with(|| Route { epoch: Epoch::NONE, weights: [(Site::A, 50), (Site::B, 50)].into() });
        Doors { path, routes: watch::channel(routes).0 }
    }

    #[must_use]
    pub fn routes(&self) -> BTreeMap<Service, Route> {
        self.routes.borrow().clone()
    }

    /// Compare-and-set on the epoch.
    ///
    /// # Errors
    /// The route could not be kept on the disk; then it is not in force either.
    pub fn publish(&self, service: Service, route: Route) -> Result<Published, FrontError> {
        let mut all = self.routes();
        if let Some(now) = all.get(&service) {
            if *now == route {
                return Ok(Published::Already);
            }
            // The holder of an active-active ticket may change its weights as often as it likes.
            let may_repeat = service == Service::PatientPortal;
            if now.epoch > route.epoch || (now.epoch == route.epoch && !may_repeat) {
                return Ok(Published::Superseded);
            }
        }
        all.insert(service, route);
        self.keep(&all).map_err(|source| FrontError { path: self.path.clone(), source })?;
        self.routes.send_replace(all);
        Ok(Published::Done)
    }

    fn keep(&self, routes: &BTreeMap<Service, Route>) -> std::io::Result<()> {
        let next = self.path.with_extension("json.next");
        let mut file = fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec_pretty(routes)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)
    }

    /// Serves one door for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, service: Service, base: BasePort) {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let Ok((user, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (routes, open) = (self.routes.subscribe(), Arc::clone(&open));
            tokio::spawn(async move {
                carry(user, routes, service, base).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Sites in the order in which they are tried: the first by weight, then the others.
fn order(route: &Route) -> Vec<Site> {
    let mut sites: Vec<(Site, u32)> =
        route.weights.iter().filter(|(_, weight)| **weight > 0).map(|(site, weight)| (*site, *weight)).collect();
    let total: u32 = sites.iter().map(|(_, weight)| *weight).sum();
    if total > 0 {
        let mut ticket = rand::rng().random_range(0..total);
        if let Some(first) = sites.iter().position(|(_, weight)| {
            let is_here = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            is_here
        }) {
            sites.swap(0, first);
        }
    }
    sites.into_iter().map(|(site, _)| site).collect()
}

async fn carry(
    mut user: TcpStream,
    mut routes: watch::Receiver<BTreeMap<Service, Route>>,
    service: Service,
    base: BasePort,
) {
    let Some(route) = routes.borrow_and_update().get(&service).cloned() else {
        let _ = user.write_all(NOBODY).await;
        return;
    };
    for site in order(&route) {
        let Ok(mut server) = TcpStream::connect(loopback(base.site(site, service.port()))).await else { continue };
        let _ = (user.set_nodelay(true), server.set_nodelay(true));
        let left = routes.wait_for(|routes| {
            routes.get(&service).is_none_or(|route| route.weights.get(&site).is_none_or(|weight| *weight == 0))
        });
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut user, &mut server) => {}
            _ = left => {}
        }
        return;
    }
    let _ = user.write_all(NOBODY).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(counter: u64, weights: &[(Site, u32)]) -> Route {
        Route { epoch: Epoch { incarnation: 1, counter }, weights: weights.iter().copied().collect() }
    }

    #[test]
    fn an_older_epoch_never_wins_and_the_answer_survives_a_restart() {
        let data_dir = std::env::temp_dir().join(format!("bcp-fleet-front-{}", std::process::id()));
        fs::create_dir_all(&data_dir).unwrap();
        let doors = Doors::open(&data_dir);
        let publish = |doors: &Doors, route| doors.publish(Service::Prescriptions, route).unwrap();
        assert_eq!(publish(&doors, route(1, &[(Site::A, 1)])), Published::Done);
        assert_eq!(publish(&doors, route(1, &[(Site::A, 1)])), Published::Already);
        assert_eq!(publish(&doors, route(1, &[(Site::B, 1)])), Published::Superseded);
        assert_eq!(publish(&doors, route(2, &[(Site::B, 1)])), Published::Done);
        let doors = Doors::open(&data_dir);
        assert_eq!(publish(&doors, route(1, &[(Site::A, 1)])), Published::Superseded);
        assert_eq!(doors.routes()[&Service::Prescriptions], route(2, &[(Site::B, 1)]));
        fs::remove_dir_all(&data_dir).unwrap();
    }

    #[test]
    fn users_are_shared_out_by_weight() {
        let even = route(1, &[(Site::A, 50), (Site::B, 50)]);
        let firsts = (0..400).filter(|_| order(&even)[0] == Site::A).count();
        assert!((120..280).contains(&firsts), "{firsts}");
        assert_eq!(order(&route(1, &[(Site::A, 0), (Site::B, 1)])), [Site::B]);
    }
}
