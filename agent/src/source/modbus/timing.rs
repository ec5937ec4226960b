//! How long a serial line takes. Pure.
//!
//! Knows: bits of a character, the silences of Modbus RTU (MODBUS over Serial Line 1.02, 2.5.1.1), what a request costs.
//! Refuses to know: sockets.

use std::time::Duration;

use crate::plan::{Block, Limits};

use super::config::{Parity, SerialLine};
use super::frame::{REQUEST_BYTES, data_bytes};

/// Above this speed the silence between frames no longer shrinks.
const FIXED_SILENCE_ABOVE_BAUD: u32 = 19_200;
const FIXED_SILENCE: Duration = Duration::from_micros(1_750);
/// Bytes of an answer around its data: unit, function, count, checksum.
const ANSWER_FRAME_BYTES: usize = 5;

impl SerialLine {
    /// Start bit, data, parity, stop bits.
    const fn bits_per_byte(&self) -> u64 {
        let parity = match self.parity {
            Parity::None => 0,
            Parity::Even | Parity::Odd => 1,
        };
        1 + 8 + parity + self.stop_bits as u64
    }

    /// Time these bytes take on the line, rounded up.
    #[must_use]
    pub fn bytes_time(&self, bytes: usize) -> Duration {
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(self.bits_per_byte());
        Duration::from_micros(bits.saturating_mul(1_000_000).div_ceil(u64::from(self.baud.max(1))))
    }

    /// Silence that separates two frames: 3.5 characters.
    #[must_use]
    pub fn silence(&self) -> Duration {
        if self.baud > FIXED_SILENCE_ABOVE_BAUD { FIXED_SILENCE } else { self.bytes_time(7) / 2 }
    }

    /// Request and answer on the line, without waiting.
    #[must_use]
    pub fn transfer_time(&self, block: &Block) -> Duration {
        self.bytes_time(REQUEST_BYTES + ANSWER_FRAME_BYTES + data_bytes(block))
    }

    /// What one read costs the line: bytes, silence before both frames, and the device's time to turn round.
    #[must_use]
    pub fn read_time(&self, block: &Block, pause: Duration) -> Duration {
        self.transfer_time(block) + self.silence() + self.silence().max(pause) + self.turnaround
    }

    /// Limits with the gap that is cheaper to read along than to ask a second time.
    #[must_use]
    pub fn worth_reading_along(&self, limits: Limits) -> Limits {
        let again = self.bytes_time(REQUEST_BYTES + ANSWER_FRAME_BYTES) + 2 * self.silence() + self.turnaround;
        let register = self.bytes_time(2).as_micros().max(1);
        let registers = u16::try_from(again.as_micros() / register).unwrap_or(u16::MAX);
        Limits { max_gap: limits.max_gap.min(registers), ..limits }
    }
}

/// What one device asks of its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// One poll of everything.
    pub poll: Duration,
    pub interval: Duration,
}

impl Share {
    /// Part of the line's time.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.poll.as_secs_f64() / self.interval.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Space;

    fn line(baud: u32, parity: Parity, stop_bits: u8) -> SerialLine {
        SerialLine { baud, parity, stop_bits, turnaround: Duration::from_millis(10) }
    }

    #[test]
    fn a_line_takes_the_time_of_its_bits() {
        let slow = line(9_600, Parity::Even, 1);
        // 11 bits a character: 1.146 ms.
        assert_eq!(slow.bytes_time(1), Duration::from_micros(1_146));
        assert_eq!(slow.silence().as_micros(), 4_010);
        assert_eq!(line(9_600, Parity::None, 1).bytes_time(960), Duration::from_secs(1));
        assert_eq!(line(115_200, Parity::None, 1).silence(), FIXED_SILENCE);
        let block = Block { space: Space::Holding, address: 0, count: 10, items: 0..1 };
        // 8 + 25 characters, two silences, 10 ms.
        let wanted = slow.bytes_time(33) + 2 * slow.silence() + Duration::from_millis(10);
        assert_eq!(slow.read_time(&block, Duration::ZERO), wanted);
        assert_eq!(
            slow.read_time(&block, Duration::from_millis(30)),
            wanted - slow.silence() + Duration::from_millis(30)
        );
        let load = Share { poll: Duration::from_millis(60), interval: Duration::from_secs(1) }.load();
        assert!((load - 0.06).abs() < 1e-9);
    }

    #[test]
    fn a_slow_line_reads_less_along() {
        let limits = Limits { max_registers: 100, max_bits: 800, max_gap: 124 };
        let gap = |line: SerialLine| line.worth_reading_along(limits).max_gap;
        assert_eq!(gap(line(9_600, Parity::Even, 1)), 14);
        assert_eq!(gap(line(115_200, Parity::None, 1)), 84);
    }
}
