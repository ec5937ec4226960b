//! Harness for tests against the real thing: the fleet as separate processes, driven as a user would drive it.
//!
//! Knows: how to start and stop a fleet, how to ask its API and how to wait. Refuses to know: what is right; that is in
//! the scenarios. Nothing here sleeps for a guessed time: [`wait_for`] ends as soon as the condition holds and names what
//! it waited for when it does not; [`hold_for`] watches an invariant for as long as the scenario lasts.

pub mod disk;
pub mod fleet;
pub mod gatelog;
pub mod leaks;
pub mod wait;

pub use disk::Disk;
pub use fleet::{Fleet, Options};
pub use wait::{hold_for, wait_for};
