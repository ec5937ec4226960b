//! The `[host]` section.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bcp_wire::Id;

use crate::config::interval;
use crate::document::Section;

/// Most units, processes and so on that are watched by name.
const MAX_NAMED: usize = 64;
/// The kernel keeps this much of a program's name.
const MAX_COMM_BYTES: usize = 15;
const NTP_PORT: u16 = 123;

/// This host as a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    pub id: Id,
    pub interval: Duration,
    pub parent: Option<Id>,
    pub location: Option<String>,
    /// systemd units whose state is told.
    pub units: Vec<String>,
    /// Programs whose processes are counted, by the name the kernel keeps.
    pub processes: Vec<String>,
    /// `host:port` of a time server that is asked how far this clock is off.
    pub ntp: Option<String>,
}

impl HostConfig {
    /// With nothing watched by name.
    #[must_use]
    pub const fn new(id: Id, interval: Duration) -> HostConfig {
        HostConfig { id, interval, parent: None, location: None, units: Vec::new(), processes: Vec::new(), ntp: None }
    }
}

/// Reads the section; its id was taken already.
pub(crate) fn host(id: Option<Id>, mut section: Section<'_, '_>) -> Option<HostConfig> {
    let interval = interval(&mut section, "5s");
    let parent = section.optional("parent");
    let location = section.optional("location");
    let units = names(&mut section, "units", |unit| {
        let (name, kind) = unit.rsplit_once('.')?;
        let known = ["service", "socket", "timer", "mount", "target", "path", "slice", "automount", "swap", "scope"];
        (!name.is_empty() && !unit.starts_with('-') && known.contains(&kind)).then_some(())
    });
    let processes = names(&mut section, "processes", |name| {
        (!name.is_empty() && name.len() <= MAX_COMM_BYTES && !name.contains('/')).then_some(())
    });
    let ntp: Option<String> = section.optional("ntp");
    let ntp = ntp.map(|server| match server.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, NTP_PORT).to_string(),
        Err(_) if server.contains(':') => server,
        Err(_) => format!("{server}:{NTP_PORT}"),
    });
    section.finish();
    Some(HostConfig { id: id?, interval: interval?, parent, location, units, processes, ntp })
}

fn names(section: &mut Section<'_, '_>, key: &'static str, sound: impl Fn(&str) -> Option<()>) -> Vec<String> {
    let names: Vec<String> = section.optional(key).unwrap_or_default();
    if names.len() > MAX_NAMED {
        section.fault(key, format!("at most {MAX_NAMED} are watched by name"), None);
    }
    if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
        section.fault(key, "a name stands here twice", None);
    }
    for name in names.iter().filter(|name| sound(name).is_none()) {
        let (what, help) = if key == "units" {
            ("is not a unit, as `nginx.service`", format!("did you mean `{name}.service`?"))
        } else {
            ("is not a program's name of at most 15 characters", "see /proc/PID/comm".to_owned())
        };
        section.fault(key, format!("`{name}` {what}"), Some(help));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    #[test]
    fn what_is_watched_by_name_is_checked() {
        let read = |text: &str| {
            let document = Document::new("f", text);
            let config = host("srv".parse().ok(), document.root());
            let faults = document.into_faults();
            (config, faults.iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect::<Vec<_>>())
        };
        let (config, faults) = read("units = ['nginx.service']\nprocesses = ['nginx']\nntp = '10.0.0.1'");
        assert_eq!((faults, config.unwrap().ntp.as_deref()), (vec![], Some("10.0.0.1:123")));
        for (server, asked) in [("2001:db8::1", "[2001:db8::1]:123"), ("ntp.example:1123", "ntp.example:1123")] {
            let (config, _) = read(&format!("ntp = '{server}'"));
            assert_eq!(config.unwrap().ntp.as_deref(), Some(asked));
        }
        for (text, wanted) in [
            ("units = ['nginx']", "`nginx` is not a unit"),
            ("units = ['-x.service']", "is not a unit"),
            ("units = ['a.service', 'a.service']", "stands here twice"),
            ("processes = ['a-name-that-is-too-long']", "at most 15 characters"),
            ("proceses = []", "proceses"),
        ] {
            let (_, faults) = read(text);
            assert!(faults.iter().any(|fault| fault.contains(wanted)), "{text}: {faults:?}");
        }
    }
}
