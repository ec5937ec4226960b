//! Where everything listens: one base port moves the whole fleet.
//!
//! Knows: the port table. Refuses to know: who listens there.
//! Invariant: no two uses share a port, for any base.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use bcp_wire::Site;

/// Ports from the base on that belong to one fleet.
pub const PORTS_OF_A_FLEET: u16 = 1_000;
/// The base that is used where none is given.
pub const DEFAULT_BASE: u16 = 18_000;

/// First port of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasePort(u16);

/// Why a number cannot be a base port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a base port: a number from 1024 to {}", u16::MAX - PORTS_OF_A_FLEET)]
pub struct BasePortError {
    text: String,
}

impl FromStr for BasePort {
    type Err = BasePortError;
    fn from_str(text: &str) -> Result<Self, BasePortError> {
        text.parse::<u16>()
            .ok()
            .filter(|port| (1_024..=u16::MAX - PORTS_OF_A_FLEET).contains(port))
            .map(BasePort)
            .ok_or_else(|| BasePortError { text: text.chars().take(16).collect() })
    }
}

impl fmt::Display for BasePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a site listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    Public,
    Console,
    Control,
    Mqtt,
    Gate,
    Prescriptions,
    Portal,
    HostStatus,
    GatewayStatus,
    Postgres,
    /// Sidecar of PostgreSQL.
    PostgresCopy,
    /// Server of a simulated device, 0 to 28.
    Device(u16),
    /// Where the simulator takes orders.
    Simulator,
}

impl Port {
    const fn offset(self) -> u16 {
        match self {
            Port::Public => 0,
            Port::Console => 1,
            Port::Control => 2,
            Port::Mqtt => 3,
            Port::Gate => 10,
            Port::Prescriptions => 11,
            Port::Portal => 12,
            Port::HostStatus => 13,
            Port::GatewayStatus => 14,
            Port::Postgres => 15,
            Port::PostgresCopy => 16,
            Port::Device(n) => 20 + n,
            Port::Simulator => 49,
        }
    }
}

/// What crosses a link between two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    Control,
    Mqtt,
    Gate,
    Prescriptions,
    Portal,
    Public,
    Postgres,
    PostgresCopy,
}

impl Lane {
    pub const ALL: [Lane; 8] = [
        Lane::Control,
        Lane::Mqtt,
        Lane::Gate,
        Lane::Prescriptions,
        Lane::Portal,
        Lane::Public,
        Lane::Postgres,
        Lane::PostgresCopy,
    ];

    const fn offset(self) -> u16 {
        match self {
            Lane::Control => 0,
            Lane::Mqtt => 1,
            Lane::Gate => 2,
            Lane::Prescriptions => 3,
            Lane::Portal => 4,
            Lane::Public => 5,
            Lane::Postgres => 6,
            Lane::PostgresCopy => 7,
        }
    }

    /// Where the lane ends in the target site.
    #[must_use]
    pub const fn port(self) -> Port {
        match self {
            Lane::Control => Port::Control,
            Lane::Mqtt => Port::Mqtt,
            Lane::Gate => Port::Gate,
            Lane::Prescriptions => Port::Prescriptions,
            Lane::Portal => Port::Portal,
            Lane::Public => Port::Public,
            Lane::Postgres => Port::Postgres,
            Lane::PostgresCopy => Port::PostgresCopy,
        }
    }
}

const fn number(site: Site) -> u16 {
    match site {
        Site::A => 0,
        Site::B => 1,
        Site::W => 2,
    }
}

/// An address on this machine's loopback.
#[must_use]
pub const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl BasePort {
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// A listener of a site.
    #[must_use]
    pub const fn site(self, site: Site, port: Port) -> u16 {
        self.0 + 100 * number(site) + port.offset()
    }

    /// The near end of a link: what is sent here by `from` arrives at `to`.
    #[must_use]
    pub const fn link(self, from: Site, to: Site, lane: Lane) -> u16 {
        self.0 + 500 + 100 * number(from) + 30 * number(to) + lane.offset()
    }

    /// `site`'s own port for its own site, else the near end of the link to it.
    #[must_use]
    pub fn reach(self, from: Site, to: Site, lane: Lane) -> u16 {
        if from == to { self.site(to, lane.port()) } else { self.link(from, to, lane) }
    }

    /// Where the fleet itself takes orders.
    #[must_use]
    pub const fn fleet(self) -> u16 {
        self.0 + 900
    }

    /// Where the clients of the reference application come in: HAProxy.
    #[must_use]
    pub const fn reference_door(self) -> u16 {
        self.0 + 912
    }

    /// Where the name of the reference application is asked for, and changed: BIND.
    #[must_use]
    pub const fn reference_name(self) -> u16 {
        self.0 + 913
    }

    /// Where the users of a service come in.
    #[must_use]
    pub const fn front(self, service: crate::service::Service) -> u16 {
        match service {
            crate::service::Service::Prescriptions => self.0 + 910,
            crate::service::Service::PatientPortal => self.0 + 911,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::service::Service;

    #[test]
    fn no_port_is_used_twice_and_all_lie_within_the_fleet() {
        let base: BasePort = "18000".parse().unwrap();
        let mut all = vec![base.fleet(), base.front(Service::Prescriptions), base.front(Service::PatientPortal)];
        all.extend([base.reference_door(), base.reference_name()]);
        let mut ports = vec![
            Port::Public,
            Port::Console,
            Port::Control,
            Port::Mqtt,
            Port::Gate,
            Port::Prescriptions,
            Port::Portal,
            Port::HostStatus,
            Port::GatewayStatus,
            Port::Postgres,
            Port::PostgresCopy,
            Port::Simulator,
        ];
        ports.extend((0..=28).map(Port::Device));
        for site in Site::ALL {
            all.extend(ports.iter().map(|port| base.site(site, *port)));
            for to in site.others() {
                all.extend(Lane::ALL.iter().map(|lane| base.link(site, to, *lane)));
            }
        }
        let distinct: BTreeSet<u16> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(distinct.iter().all(|port| (18_000..18_000 + PORTS_OF_A_FLEET).contains(port)));
        assert_eq!(base.link(Site::A, Site::B, Lane::Control), 18_530);
        assert_eq!(base.link(Site::A, Site::W, Lane::Public), 18_565);
    }

    #[test]
    fn a_base_that_does_not_fit_is_refused() {
        for text in ["0", "1023", "64536", "x", "-1", ""] {
            assert!(text.parse::<BasePort>().is_err(), "{text}");
        }
    }
}
