//! What packet loss does to a TCP connection: nothing is lost, repeated or out of order, but what follows waits.
//!
//! A lost packet is sent again after a timeout that doubles; everything behind it waits for it. So losses, repeats and
//! packets that overtake each other all reach the two ends as time alone.

use std::time::Duration;

use rand::Rng;

/// Beyond this TCP itself gives up more often than it delivers.
pub const MAX_LOSS_PERCENT: u8 = 90;
/// Payload of one packet.
const PACKET_BYTES: usize = 1_400;
/// First timeout of data (RFC 6298 has 1 s; Linux takes 200 ms) and of a connection that is being made (RFC 6298).
const DATA_TIMEOUT_MS: u64 = 200;
const OPENING_TIMEOUT_MS: u64 = 1_000;
/// A timeout doubles so often, and then stays.
const DOUBLINGS_MAX: u32 = 5;

/// How much later so many bytes arrive that were sent at once.
pub(super) fn delay_of(bytes: usize, percent: u8) -> Duration {
    let packets = bytes.div_ceil(PACKET_BYTES).max(1);
    (0..packets).map(|_| retransmission(percent, DATA_TIMEOUT_MS)).max().unwrap_or_default()
}

/// How much longer it takes to open a connection over two directions with these losses.
pub(super) fn delay_of_opening(there: u8, back: u8) -> Duration {
    retransmission(there, OPENING_TIMEOUT_MS) + retransmission(back, OPENING_TIMEOUT_MS)
}

fn retransmission(percent: u8, first_timeout_ms: u64) -> Duration {
    if percent == 0 {
        return Duration::ZERO;
    }
    let mut waited_ms = 0;
    let mut doublings = 0;
    while rand::rng().random_range(0..100) < percent.min(MAX_LOSS_PERCENT) {
        waited_ms += first_timeout_ms << doublings;
        doublings = (doublings + 1).min(DOUBLINGS_MAX);
    }
    Duration::from_millis(waited_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_packets_waits_for_its_timeout_and_without_loss_none_does() {
        assert!((0..100).all(|_| delay_of(50_000, 0).is_zero() && delay_of_opening(0, 0).is_zero()));
        let waits: Vec<u128> = (0..10_000).map(|_| delay_of(100, 30).as_millis()).collect();
        let late = waits.iter().filter(|ms| **ms > 0).count();
        assert!((2_500..3_500).contains(&late), "{late}");
        assert!(waits.iter().all(|ms| [0, 200, 600, 1_400, 3_000].contains(ms) || *ms > 3_000));
        let many = (0..1_000).filter(|_| !delay_of(16_384, 30).is_zero()).count();
        assert!(many > 950, "twelve packets, and one is enough: {many}");
    }
}
