//! The whole three-site fleet on one machine.
//!
//! Knows: how to start real collectors, agents and gates as separate processes of this same binary; simulated devices
//! behind real Modbus and SNMP servers; links between the sites that can be cut; two demo services; a visitor.
//! Refuses to know: how agents and collectors work. It talks to them as any operator would.
//!
//! Invariants:
//! * no process of the fleet outlives it;
//! * everything listens on loopback only;
//! * nothing between two sites goes past a link.
//!
//! | module | knows |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`fleet`] | one running fleet: start, orders, end |
//! | [`api`] | orders to a running fleet over HTTP, both ends |
//! | [`units`] | processes kept up |
//! | [`layout`] | files and configurations of all parts |
//! | [`link`] | links between sites |
//! | [`front`], [`visitor`] | where users come in, and one who never stops |
//! | [`devices`] | simulated devices |
//! | [`service`] | the demo services and their actuator |
//! | [`servers`] | a pool of servers with a reserve |
//! | [`reference`] | two PostgreSQL servers, HAProxy and a writer |

pub mod api;
pub mod cli;
pub mod devices;
pub mod fleet;
pub mod front;
pub mod layout;
pub mod link;
pub mod ports;
pub mod reference;
pub mod servers;
pub mod service;
pub mod signals;
pub mod units;
pub mod visitor;

/// Makes ring the process's cryptography; a second call changes nothing.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
