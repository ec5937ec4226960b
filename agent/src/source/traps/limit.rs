//! How many notifications one sender may send. Pure.
//!
//! Knows: a bucket per address, and the bound of addresses. Refuses to know: what was sent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Addresses that are watched at one time. A flood of invented ones shares the last bucket.
const MAX_SENDERS: usize = 1_024;
/// A sender may be this many seconds ahead of its rate at once.
const BURST_S: f64 = 5.0;

/// Tokens of every sender.
#[derive(Debug)]
pub struct Limit {
    per_second: f64,
    buckets: HashMap<IpAddr, Bucket>,
    others: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, per_second: f64, now: Instant) -> bool {
        let most = per_second * BURST_S;
        self.tokens = (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * per_second).min(most);
        self.at = now;
        let allowed = self.tokens >= 1.0;
        self.tokens -= if allowed { 1.0 } else { 0.0 };
        allowed
    }
}

impl Limit {
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Limit {
        let per_second = f64::from(per_second);
        let full = Bucket { tokens: per_second * BURST_S, at: now };
        Limit { per_second, buckets: HashMap::new(), others: full }
    }

    /// True where this sender may send one more.
    pub fn allows(&mut self, sender: IpAddr, now: Instant) -> bool {
        let full = self.per_second * BURST_S;
        if self.buckets.len() >= MAX_SENDERS && !self.buckets.contains_key(&sender) {
            // Whoever was quiet long enough to be full again needs no bucket.
            let (rate, at) = (self.per_second, now);
            self.buckets.retain(|_, bucket| {
                bucket.tokens + at.saturating_duration_since(bucket.at).as_secs_f64() * rate < full
            });
        }
        if self.buckets.len() >= MAX_SENDERS && !self.buckets.contains_key(&sender) {
            return self.others.take(self.per_second, now);
        }
        self.buckets.entry(sender).or_insert(Bucket { tokens: full, at: now }).take(self.per_second, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_sender_floods_and_the_others_are_heard() {
        let start = Instant::now();
        let mut limit = Limit::new(10, start);
        let (loud, quiet) = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((0..1_000).filter(|_| limit.allows(loud, start)).count(), 50);
        assert!(limit.allows(quiet, start));
        let later = start + Duration::from_secs(2);
        assert_eq!((0..1_000).filter(|_| limit.allows(loud, later)).count(), 20);
        // Invented senders cost a bounded amount of memory.
        for n in 0..10_000_u32 {
            limit.allows(IpAddr::V4(Ipv4Addr::from(n)), later);
        }
        assert!(limit.buckets.len() <= MAX_SENDERS);
    }
}
