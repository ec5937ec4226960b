//! Which addresses are looked at.

use std::net::{IpAddr, Ipv4Addr};

/// More than a site's network: a slip of the prefix.
pub const MAX_ADDRESSES: usize = 4_096;

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("`{0}` is not an address, as 10.0.0.5, 10.0.0.0/24 or 10.0.0.5-10.0.0.9")]
    Form(String),
    #[error("`{text}` are {count} addresses; at most {MAX_ADDRESSES} are looked at")]
    TooMany { text: String, count: u64 },
}

/// Addresses of `10.0.0.0/24`, `10.0.0.5-10.0.0.9` or one address. Of a network the first and last are left out where
/// they are its name and its broadcast, but not in the loopback network.
///
/// # Errors
/// It is none of these, or too large.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, TargetError> {
    let form = || TargetError::Form(text.to_owned());
    let (first, last) = if let Some((base, bits)) = text.split_once('/') {
        let base: Ipv4Addr = base.parse().map_err(|_| form())?;
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32).ok_or_else(form)?;
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let (first, last) = (u32::from(base) & mask, u32::from(base) | !mask);
        if bits < 31 && !base.is_loopback() { (first + 1, last - 1) } else { (first, last) }
    } else if let Some((first, last)) = text.split_once('-') {
        let number = |text: &str| text.parse::<Ipv4Addr>().map(u32::from).map_err(|_| form());
        (number(first)?, number(last)?)
    } else {
        return text.parse().map(|one| vec![one]).map_err(|_| form());
    };
    if last < first {
        return Err(form());
    }
    let count = u64::from(last - first) + 1;
    if count > MAX_ADDRESSES as u64 {
        return Err(TargetError::TooMany { text: text.to_owned(), count });
    }
    Ok((first..=last).map(|n| IpAddr::V4(Ipv4Addr::from(n))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_ranges_and_single_addresses() {
        let count = |text: &str| addresses(text).map(|found| found.len());
        assert_eq!(count("127.0.0.0/28"), Ok(16));
        assert_eq!(count("192.0.2.0/24"), Ok(254));
        assert_eq!(count("192.0.2.7/32"), Ok(1));
        assert_eq!(count("192.0.2.5-192.0.2.9"), Ok(5));
        assert_eq!(count("::1"), Ok(1));
        assert!(matches!(count("10.0.0.0/8"), Err(TargetError::TooMany { .. })));
        assert!(matches!(count("0.0.0.0/0"), Err(TargetError::TooMany { .. })));
        for bad in ["", "10.0.0", "10.0.0.0/33", "10.0.0.9-10.0.0.5", "host"] {
            assert!(matches!(count(bad), Err(TargetError::Form(_))), "{bad}");
        }
    }
}
