//! Which disk is a member: a node that comes back with an empty one, or a second node with the same site, is not the
//! member the others know.
//!
//! Every database gets a random member id when it is made. The nodes meet before the first vote and write down each
//! other's ids; a message of the consensus names the member it is from and the member it is for, and both ends refuse what
//! does not fit. So a wiped node neither votes nor counts until it is admitted again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bcp_wire::Site;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::store::{Store, StoreError};

const KEY: &str = "members";
/// A stranger that was not heard for this long is not there.
const STRANGER_FRESH: Duration = Duration::from_secs(10);
/// A stranger is said this often, however often it tries.
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Page {
    own: String,
    peers: BTreeMap<Site, String>,
}

/// The members this node knows; durable.
#[derive(Debug)]
pub struct Book {
    store: Store,
    page: Mutex<Page>,
    said: Mutex<BTreeMap<Site, Instant>>,
    /// Nodes with the site of another member that take part in nothing, and when they were heard.
    strangers: Mutex<BTreeMap<Site, (String, Instant)>>,
}

/// Why a message is not for or from a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    #[error(
        "collector {site} is not the member known here: its disk was replaced, or there are two of it; admit it again"
    )]
    Peer { site: Site },
    #[error("this is not the member you know: its disk was replaced; admit it again")]
    Here,
    #[error("the members have not met yet")]
    NotMet,
}

/// `from` and `to` of a message between members.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Address {
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub to: String,
}

impl Book {
    pub async fn open(store: Store) -> Result<Book, StoreError> {
        let page = match store.read_meta::<Page>(KEY).await? {
            Some(page) => page,
            None => {
                let page = Page { own: format!("{:016x}", rand::random::<u64>()), peers: BTreeMap::new() };
                store.write_meta(KEY, &page).await?;
                page
            }
        };
        Ok(Book { store, page: Mutex::new(page), said: Mutex::default(), strangers: Mutex::default() })
    }

    fn page(&self) -> std::sync::MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn own(&self) -> String {
        self.page().own.clone()
    }

    /// The query of a message to `site`; none before its member was met.
    #[must_use]
    pub fn query_to(&self, site: Site) -> Option<String> {
        let page = self.page();
        page.peers.get(&site).map(|to| format!("from={}&to={to}", page.own))
    }

    /// The member of `site` introduced itself; `is_new`: it takes part in nothing. The first one is written down.
    pub async fn meet(&self, site: Site, member: &str, is_new: bool) -> Result<(), Stranger> {
        let page = {
            let mut page = self.page();
            match page.peers.get(&site) {
                Some(known) if known == member => return Ok(()),
                Some(_) => {
                    drop(page);
                    if is_new {
                        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
                        strangers.insert(site, (member.to_owned(), Instant::now()));
                    }
                    return Err(self.refuse(site));
                }
                None => {
                    page.peers.insert(site, member.to_owned());
                    page.clone()
                }
            }
        };
        // Not durable: it is met again. The one written down first still counts.
        if let Err(error) = self.store.write_meta(KEY, &page).await {
            tracing::error!(%error, "failed to write down a member");
        }
        Ok(())
    }

    /// A node of `site` that is there, takes part in nothing, and is not the member known here.
    #[must_use]
    pub fn stranger(&self, site: Site) -> Option<String> {
        let strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.get(&site).filter(|(_, at)| at.elapsed() < STRANGER_FRESH).map(|(member, _)| member.clone())
    }

    /// `member` is the member of `site` from now on. On disk when this returns.
    pub async fn adopt(&self, site: Site, member: &str) -> Result<(), StoreError> {
        let mut page = self.page().clone();
        page.peers.insert(site, member.to_owned());
        self.store.write_meta(KEY, &page).await?;
        self.page().peers.insert(site, member.to_owned());
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner).remove(&site);
        Ok(())
    }

    /// Checks a message of the collector of `site`.
    pub fn check(&self, site: Site, address: &Address) -> Result<(), Stranger> {
        let (known, own) = {
            let page = self.page();
            (page.peers.get(&site).cloned(), page.own.clone())
        };
        match known {
            None => Err(Stranger::NotMet),
            Some(known) if known != address.from => Err(self.refuse(site)),
            Some(_) if own != address.to => {
                self.say(
                    site,
                    "this node's disk is not the one the others know: it does not vote until it is admitted again",
                );
                Err(Stranger::Here)
            }
            Some(_) => Ok(()),
        }
    }

    fn refuse(&self, site: Site) -> Stranger {
        self.say(site, "a collector is not the member known here and is refused until it is admitted again");
        Stranger::Peer { site }
    }

    fn say(&self, site: Site, what: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(&site).is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said.insert(site, Instant::now());
            tracing::error!(%site, "{what}");
        }
    }
}
