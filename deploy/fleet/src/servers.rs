//! Servers of an application: a pool with a reserve, at each of the two datacenters, for drills of minimum servers.
//!
//! Knows: how many there are, and what stands in their configurations. Refuses to know: when one is started. Each is an agent
//! that reports a host of its own.

use std::fmt::Write as _;

use bcp_wire::Site;

use crate::layout::Layout;

/// What the pool is called in the policy.
pub const POOL: &str = "app";
/// The processes, at each site.
pub const UNITS: [&str; 4] = ["app-1", "app-2", "app-3", "app-4"];
/// Those of them that stand by.
pub const RESERVE: [&str; 1] = ["app-4"];
/// A ticket's holder needs so many.
const MIN: usize = 2;

/// The server's name in the policy and as a device.
fn id(site: Site, unit: &str) -> String {
    unit.replacen("app-", &format!("app-{site}"), 1)
}

fn list(site: Site, stands_by: bool) -> String {
    let units = UNITS.iter().filter(|unit| RESERVE.contains(unit) == stands_by);
    units.map(|unit| format!("\"{}\"", id(site, unit))).collect::<Vec<_>>().join(", ")
}

/// The pool for the policy.
pub(crate) fn policy() -> String {
    let of = |stands_by| format!("{{ a = [{}], b = [{}] }}", list(Site::A, stands_by), list(Site::B, stands_by));
    format!(
        "\n[pool.{POOL}]\nservers = {}\nreserve = {}\nmin = {MIN}\nrise = \"5s\"\nfall = \"10s\"\n",
        of(false),
        of(true)
    )
}

impl Layout {
    /// One server's agent.
    pub(crate) fn server(&self, site: Site, unit: &str) -> String {
        let id = id(site, unit);
        // A host and the agent on it are two things.
        let mut text = self.agent_head(site, &format!("on-{id}"), None);
        let _ = write!(
            text,
            "\n[host]\nid = \"{id}\"\nlocation = \"{site}/hall1/r02\"\nparent = \"ups-{site}1\"\ninterval = \"1s\"\n"
        );
        text.push_str(&self.agent_tail(site));
        text
    }
}

/// The process that is this server of the pool, for the step that starts one of the reserve.
#[must_use]
pub fn unit_of(site: Site, server: &str) -> Option<&'static str> {
    RESERVE.into_iter().find(|unit| id(site, unit) == server)
}
