//! The clock of leases.

use rustix::time::{ClockId, clock_gettime};

use super::record::BootMs;

/// CLOCK_BOOTTIME: steps of the wall clock do not touch it and it runs on while the machine is suspended.
#[must_use]
pub fn boot_ms() -> BootMs {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    BootMs(seconds.saturating_mul(1_000).saturating_add(millis))
}

/// Identity of the boot that [`boot_ms`] counts from.
///
/// # Errors
/// The kernel does not say.
pub fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
