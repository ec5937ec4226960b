//! How far this host's clock is off, by the word of a time server (RFC 4330, SNTP).
//!
//! Knows: one question, and which answers to it count. Refuses to know: how clocks are set.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::net::UdpSocket;

use crate::resolver::Resolver;

/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(1);
const PACKET_BYTES: usize = 48;
/// Leap indicator 0, version 4, mode 3 (client).
const CLIENT: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
/// Leap indicator of a server that is not synchronised itself.
const ALARM: u8 = 3;
/// Seconds from 1900 to 1970.
const ERA: i128 = 2_208_988_800;
/// Answers to other questions that are passed over.
const MAX_STRAYS: usize = 8;

/// Why there is no offset.
#[derive(Debug, thiserror::Error)]
pub enum NtpError {
    #[error("{server} cannot be asked: {cause}")]
    Socket {
        server: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{server} does not answer within {TIMEOUT:?}")]
    Timeout { server: String },
    #[error("{server} does not know the time itself")]
    Unsynchronised { server: String },
}

/// A time on the wire: seconds since 1900 in 32.32 bits, kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64);

impl Stamp {
    fn now() -> Stamp {
        let now = clock_gettime(ClockId::Realtime);
        let fraction = (i128::from(now.tv_nsec) << 32) / 1_000_000_000;
        let whole = (i128::from(now.tv_sec) + ERA) << 32;
        // The era wraps in 2036; differences do not mind.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let wrapped = (whole + fraction) as u64;
        Stamp(wrapped)
    }

    fn of(bytes: &[u8], at: usize) -> Option<Stamp> {
        Some(Stamp(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?)))
    }

    /// Milliseconds from `earlier` to this.
    fn since_ms(self, earlier: Stamp) -> f64 {
        self.0.wrapping_sub(earlier.0).cast_signed() as f64 / 4_294_967.296
    }
}

/// Milliseconds this clock is behind (above 0) or ahead (below 0) of the server's.
///
/// # Errors
/// There is no answer that counts.
pub async fn offset_ms(server: &str, resolver: &Resolver) -> Result<f64, NtpError> {
    let failed = |cause| NtpError::Socket { server: server.to_owned(), cause };
    let exchange = async {
        let found = resolver.addresses(server).await.map_err(|error| failed(error.into()))?;
        let target = *found.first().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.map_err(failed)?;
        socket.connect(target).await.map_err(failed)?;
        let sent = Stamp::now();
        let mut packet = [0; PACKET_BYTES];
        packet[0] = CLIENT;
        packet[40..].copy_from_slice(&sent.0.to_be_bytes());
        socket.send(&packet).await.map_err(failed)?;
        for _ in 0..MAX_STRAYS {
            let mut answer = [0; PACKET_BYTES];
            let length = socket.recv(&mut answer).await.map_err(failed)?;
            let received = Stamp::now();
            match judge(answer.get(..length).unwrap_or_default(), sent, received) {
                Answer::Offset(ms) => return Ok(ms),
                Answer::Unsynchronised => return Err(NtpError::Unsynchronised { server: server.to_owned() }),
                Answer::Stray => {}
            }
        }
        Err(NtpError::Timeout { server: server.to_owned() })
    };
    let timeout = NtpError::Timeout { server: server.to_owned() };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(timeout))
}

#[derive(Debug, PartialEq)]
enum Answer {
    Offset(f64),
    Unsynchronised,
    Stray,
}

fn judge(answer: &[u8], sent: Stamp, received: Stamp) -> Answer {
    let (Some(&[head, stratum, ..]), Some(origin), Some(arrived), Some(left)) =
        (answer.get(..2), Stamp::of(answer, 24), Stamp::of(answer, 32), Stamp::of(answer, 40))
    else {
        return Answer::Stray;
    };
    if head & 7 != MODE_SERVER || origin != sent || left.0 == 0 {
        return Answer::Stray;
    }
    // Stratum 0 is a "kiss of death", 16 unsynchronised.
    if head >> 6 == ALARM || !(1..=15).contains(&stratum) {
        return Answer::Unsynchronised;
    }
    let offset = f64::midpoint(arrived.since_ms(sent), left.since_ms(received));
    Answer::Offset((offset * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sent: Stamp, arrived: Stamp, left: Stamp) -> [u8; PACKET_BYTES] {
        let mut packet = [0; PACKET_BYTES];
        packet[0] = 4 << 3 | MODE_SERVER;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&sent.0.to_be_bytes());
        packet[32..40].copy_from_slice(&arrived.0.to_be_bytes());
        packet[40..].copy_from_slice(&left.0.to_be_bytes());
        packet
    }

    fn ms(ms: i64) -> Stamp {
        Stamp((1_u64 << 63).wrapping_add_signed(ms * 4_294_967))
    }

    #[test]
    fn the_offset_is_half_way_and_only_our_own_answer_counts() {
        // The server is 500 ms ahead; 20 ms there, 40 ms back.
        let (sent, arrived, left, received) = (ms(0), ms(520), ms(521), ms(61));
        let good = answer(sent, arrived, left);
        let Answer::Offset(offset) = judge(&good, sent, received) else { panic!() };
        assert!((offset - 490.0).abs() < 0.01, "{offset}");
        assert_eq!(judge(&good, ms(1), received), Answer::Stray);
        assert_eq!(judge(&good[..47], sent, received), Answer::Stray);
        let mut bad = good;
        bad[0] |= ALARM << 6;
        assert_eq!(judge(&bad, sent, received), Answer::Unsynchronised);
        let mut bad = good;
        bad[1] = 0;
        assert_eq!(judge(&bad, sent, received), Answer::Unsynchronised);
        // 2036: the seconds begin anew between two stamps.
        assert!((Stamp(4_294_967_296).since_ms(Stamp(0_u64.wrapping_sub(4_294_967_296))) - 2_000.0).abs() < 1e-6);
    }

    #[tokio::test]
    async fn a_server_is_asked_and_a_silent_one_is_told() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut packet = [0; PACKET_BYTES];
            let (_, from) = server.recv_from(&mut packet).await.unwrap();
            let sent = Stamp::of(&packet, 40).unwrap();
            let ahead = Stamp(Stamp::now().0.wrapping_add(2 << 32));
            let _ = server.send_to(&answer(Stamp(0), ahead, ahead), from).await;
            let _ = server.send_to(&answer(sent, ahead, ahead), from).await;
            // Keeps the port, and says nothing more.
            std::future::pending::<()>().await;
        });
        let resolver = Resolver::default();
        let offset = offset_ms(&address, &resolver).await.unwrap();
        assert!((1_000.0..2_001.0).contains(&offset), "{offset}");
        assert!(matches!(offset_ms(&address, &resolver).await, Err(NtpError::Timeout { .. })));
    }
}
