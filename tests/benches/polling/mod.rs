//! What the bench of the agent is made of: devices, processes under measurement, other pollers.

pub mod devices;
pub mod peers;
pub mod process;
