//! What the benches of the agent are made of: devices, processes under measurement, other pollers, the other end.

pub mod collector;
pub mod devices;
pub mod peers;
pub mod process;
