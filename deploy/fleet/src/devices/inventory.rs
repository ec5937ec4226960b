//! Which devices stand at a site.

use bcp_wire::Site;

use super::fault::Server;
use crate::ports::Port;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Number of the unit within its hall.
    Crac(usize),
    Ups(usize),
    Meter,
    Storage,
}

/// One simulated device.
#[derive(Debug, Clone)]
pub struct Spec {
    pub id: String,
    pub kind: Kind,
    pub profile: &'static str,
    pub port: Port,
    pub location: String,
    /// What feeds it, in the topology.
    pub parent: Option<String>,
    /// It hangs on a serial line behind a converter.
    pub serial: bool,
    /// Asked in version 3 of SNMP.
    pub secure: bool,
}

impl Spec {
    /// Kind as the contract names it.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Crac(_) => "crac",
            Kind::Ups(_) => "ups",
            Kind::Meter => "meter",
            Kind::Storage => "host",
        }
    }

    /// What serves it. The meter of the small site hangs on a serial line behind a converter.
    #[must_use]
    pub const fn server(&self) -> Server {
        match (self.kind, self.serial) {
            (Kind::Ups(_) | Kind::Storage, _) => Server::Snmp,
            (Kind::Crac(_) | Kind::Meter, false) => Server::ModbusTcp,
            (Kind::Crac(_) | Kind::Meter, true) => Server::ModbusRtu,
        }
    }

    pub(super) const fn events(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Crac(_) => &["stop", "start"],
            Kind::Ups(_) => &["mains-fail", "mains-back", "weak-battery"],
            Kind::Meter | Kind::Storage => &[],
        }
    }
}

pub(super) fn profile_text(profile: &str) -> &'static str {
    match profile {
        "ietf/ups-mib" => include_str!("../../../../firmware-configs/ietf/ups-mib.toml"),
        "airedale/pco-cooler" => include_str!("../../../../firmware-configs/airedale/pco-cooler.toml"),
        "eastron/sdm630" => include_str!("../../../../firmware-configs/eastron/sdm630.toml"),
        "schneider/iem3000" => include_str!("../../../../firmware-configs/schneider/iem3000.toml"),
        "net-snmp/host" => include_str!("../../../../firmware-configs/net-snmp/host.toml"),
        _ => "",
    }
}

/// The devices of a site.
#[must_use]
pub fn inventory(site: Site) -> Vec<Spec> {
    let (upses, cracs, hall) = match site {
        Site::A => (2, 2, "a/hall1"),
        Site::B => (2, 2, "b/hall1"),
        Site::W => (1, 1, "w/room"),
    };
    let meter = format!("meter-{site}1");
    let mut all = Vec::new();
    for n in 0..cracs {
        all.push(Spec {
            id: format!("crac-{site}{}", n + 1),
            kind: Kind::Crac(usize::from(n)),
            profile: "airedale/pco-cooler",
            port: Port::Device(n),
            location: hall.to_owned(),
            parent: None,
            serial: false,
            secure: false,
        });
    }
    all.push(Spec {
        id: meter.clone(),
        kind: Kind::Meter,
        profile: if matches!(site, Site::B) { "schneider/iem3000" } else { "eastron/sdm630" },
        port: Port::Device(5),
        location: hall.to_owned(),
        parent: None,
        serial: site == Site::W,
        secure: false,
    });
    for n in 0..upses {
        all.push(Spec {
            id: format!("ups-{site}{}", n + 1),
            kind: Kind::Ups(usize::from(n)),
            profile: "ietf/ups-mib",
            port: Port::Device(10 + n),
            location: hall.to_owned(),
            parent: Some(meter.clone()),
            serial: false,
            secure: site == Site::W,
        });
    }
    all.push(Spec {
        id: format!("nas-{site}1"),
        kind: Kind::Storage,
        profile: "net-snmp/host",
        port: Port::Device(15),
        location: hall.to_owned(),
        parent: Some(format!("ups-{site}1")),
        serial: false,
        secure: false,
    });
    all
}

/// The site a device stands at, by its name.
#[must_use]
pub fn site_of(device: &str) -> Option<Site> {
    Site::ALL.into_iter().find(|site| inventory(*site).iter().any(|spec| names(device, &spec.id)))
}

/// Whether `pattern` names this device: its id, or with one `*` for any characters.
#[must_use]
pub fn names(pattern: &str, id: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == id,
        Some((head, tail)) => id.len() >= head.len() + tail.len() && id.starts_with(head) && id.ends_with(tail),
    }
}
