//! How long a site's UPSs last.

use super::Runway;

/// Mains that come back within this were a dip.
pub const ON_BATTERY_LEAST_MS: u64 = 30_000;

/// Where a UPS takes its power from, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    Mains,
    Battery,
    Unknown,
}

/// One UPS, as an observer sees it now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpsSight {
    pub feed: Feed,
    /// The observer has seen it on battery without a gap for this long.
    pub on_battery_ms: u64,
    /// It discharges on purpose; the mains are there.
    pub self_test: bool,
    /// A second sign that its mains are gone: no input voltage, or a battery that gives current.
    pub confirmed: bool,
    /// Time left at the present load, as it says.
    pub runtime_ms: Option<u64>,
}

/// Until fewer than `needed` of the UPSs give power. `genset`: one runs (`None`: nobody knows).
///
/// Unknown unless every UPS that is not on mains has been on battery for [`ON_BATTERY_LEAST_MS`] by two signs (its own word
/// and another one, of itself or of a second UPS), and no generator carries the load or might.
#[must_use]
pub fn runway(upses: &[UpsSight], needed: usize, genset: Option<bool>) -> Runway {
    let on_battery = upses.iter().filter(|ups| ups.feed == Feed::Battery && !ups.self_test).count();
    let mut lasts: Vec<Runway> = upses.iter().map(|ups| one(*ups, on_battery)).collect();
    let on_mains = lasts.iter().filter(|runway| **runway == Runway::Endless).count();
    if needed > 0 && on_mains >= needed {
        return Runway::Endless;
    }
    if genset != Some(false) || lasts.contains(&Runway::Unknown) {
        return Runway::Unknown;
    }
    lasts.sort_by_key(|runway| std::cmp::Reverse(if let Runway::Left { ms } = runway { *ms } else { u64::MAX }));
    needed.checked_sub(1).and_then(|last| lasts.get(last).copied()).unwrap_or(Runway::Unknown)
}

fn one(ups: UpsSight, on_battery: usize) -> Runway {
    match ups.feed {
        Feed::Mains => Runway::Endless,
        Feed::Battery if ups.self_test => Runway::Endless,
        Feed::Battery if ups.on_battery_ms < ON_BATTERY_LEAST_MS => Runway::Unknown,
        Feed::Battery if !ups.confirmed && on_battery < 2 => Runway::Unknown,
        Feed::Battery => ups.runtime_ms.map_or(Runway::Unknown, |ms| Runway::Left { ms }),
        Feed::Unknown => Runway::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAINS: UpsSight =
        UpsSight { feed: Feed::Mains, on_battery_ms: 0, self_test: false, confirmed: false, runtime_ms: Some(900_000) };

    fn battery(runtime_ms: u64) -> UpsSight {
        let (feed, runtime_ms) = (Feed::Battery, Some(runtime_ms));
        UpsSight { feed, on_battery_ms: 30_000, confirmed: true, runtime_ms, self_test: false }
    }

    const GONE: Option<bool> = Some(false);

    #[test]
    fn the_spare_ups_counts_and_the_last_that_is_needed_decides() {
        assert_eq!(runway(&[MAINS, battery(60_000)], 1, GONE), Runway::Endless);
        assert_eq!(runway(&[MAINS, battery(60_000)], 2, GONE), Runway::Left { ms: 60_000 });
        assert_eq!(runway(&[battery(300_000), battery(60_000)], 1, GONE), Runway::Left { ms: 300_000 });
        assert_eq!(runway(&[battery(300_000), battery(60_000)], 2, GONE), Runway::Left { ms: 60_000 });
        assert_eq!(runway(&[battery(300_000)], 2, GONE), Runway::Unknown, "fewer than are needed");
        assert_eq!(runway(&[], 0, GONE), Runway::Unknown);
    }

    #[test]
    fn one_sign_a_dip_a_test_or_a_generator_make_no_runway() {
        let dip = UpsSight { on_battery_ms: 29_999, ..battery(1) };
        assert_eq!(runway(&[dip], 1, GONE), Runway::Unknown);
        let one_sign = UpsSight { confirmed: false, ..battery(1_000) };
        assert_eq!(runway(&[one_sign], 1, GONE), Runway::Unknown);
        assert_eq!(runway(&[one_sign, one_sign], 1, GONE), Runway::Left { ms: 1_000 }, "two UPSs agree");
        let test = UpsSight { self_test: true, ..battery(1_000) };
        assert_eq!(runway(&[test], 1, GONE), Runway::Endless);
        assert_eq!(runway(&[test, one_sign], 2, GONE), Runway::Unknown, "a test agrees with nobody");
        assert_eq!(runway(&[battery(1_000)], 1, Some(true)), Runway::Unknown);
        assert_eq!(runway(&[battery(1_000)], 1, None), Runway::Unknown);
        assert_eq!(runway(&[battery(1_000), UpsSight { feed: Feed::Unknown, ..MAINS }], 1, GONE), Runway::Unknown);
        assert_eq!(runway(&[UpsSight { runtime_ms: None, ..battery(1) }], 1, GONE), Runway::Unknown);
    }
}
