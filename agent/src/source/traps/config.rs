//! The `[traps]` section.
//!
//! Knows: where notifications are listened for, and which communities count beside those of the devices.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::document::Section;

/// Notifications of one sender a second, unless said otherwise.
const DEFAULT_PER_SECOND: u32 = 20;

#[derive(Clone, PartialEq, Eq)]
pub struct TrapsConfig {
    pub listen: SocketAddr,
    /// Accepted from known devices beside their own.
    pub communities: Vec<String>,
    pub per_second: u32,
}

impl fmt::Debug for TrapsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrapsConfig")
            .field("listen", &self.listen)
            .field("per_second", &self.per_second)
            .finish_non_exhaustive()
    }
}

/// Reads the section.
pub(crate) fn traps(mut section: Section<'_, '_>) -> Option<TrapsConfig> {
    let listen = section.required("listen", "\"127.0.0.1:9162\"");
    let mut communities: Vec<String> = section.optional("communities").unwrap_or_default();
    if let Some(path) = section.optional::<PathBuf>("communities_file") {
        match std::fs::read_to_string(&path) {
            Ok(text) => communities.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned)),
            Err(error) => {
                section.fault("communities_file", format!("{} cannot be read: {error}", path.display()), None);
            }
        }
    }
    let per_second = section.optional("per_second").unwrap_or(DEFAULT_PER_SECOND);
    if !(1..=1_000).contains(&per_second) {
        section.fault("per_second", "a sender may send 1 to 1000 notifications a second", None);
    }
    section.finish();
    Some(TrapsConfig { listen: listen?, communities, per_second })
}
