//! The proof: the shipped decisions and the shipped gate against what must hold.
//!
//! Knows: a world of two sites, a witness and their faults ([`world`]), the safety invariants ([`invariants`]), an
//! exhaustive search over bounded faults ([`model`]), seeded random runs ([`sim`]), the scenarios of the design
//! ([`scenario`]) and deliberate mistakes ([`bug`], hunted in [`hunt`]).
//! Refuses to know: sockets, clocks, processes. What decides is `bcp-core`, what acts is `bcp_agent::gate::machine`; only
//! the wires, the clocks, the disks and the programs are played.

pub mod bug;
pub mod dice;
mod digest;
pub mod drill;
pub mod host;
pub mod hunt;
pub mod invariants;
pub mod model;
pub mod scenario;
pub mod seeds;
pub mod sim;
mod spoil;
pub mod totals;
pub mod world;
