//! MQTT in: removes duplicates, stores, tells the agents what is safe, and keeps the last value of every point.
//!
//! * [`link`]: one MQTT session per broker, nothing but the pipe.
//! * [`intake`]: PURE. A payload becomes samples, marks, live values, or a counted refusal.
//! * [`lateness`]: PURE. How old a reading was when it arrived, without trusting anybody's wall clock.
//!
//! Invariants: a payload is acknowledged to the broker only after its commit; a payload that is not the contract's
//! changes nothing but a counter; backlog is stored and never taken as the present.

pub mod intake;
pub mod lateness;
pub mod link;
