//! The 90-day bars: one shape per state, so that they can be read without colour.
//!
//! Up is a whole bar, degraded a broken one, down a taller one, planned half a bar, unmeasured a dot at the foot. All bars
//! of one state are one path of relative moves, which repeat and therefore compress to almost nothing.

use bcp_core::status::ServiceStatus;

use super::model::{Day, HISTORY_DAYS};

/// Pixels from one bar to the next, and width of a bar.
const PITCH: usize = 3;

/// Class and path per state that occurs, in a box of 270 by 26.
#[must_use]
pub fn paths(days: &[Day], today: i64) -> Vec<(&'static str, String)> {
    let first = today - (HISTORY_DAYS as i64 - 1);
    let mut states = [ServiceStatus::Unknown; HISTORY_DAYS];
    for day in days {
        if let Some(state) = usize::try_from(day.day - first).ok().and_then(|at| states.get_mut(at)) {
            *state = day.bar();
        }
    }
    let order = [
        ServiceStatus::Up,
        ServiceStatus::Degraded,
        ServiceStatus::Down,
        ServiceStatus::Planned,
        ServiceStatus::Unknown,
    ];
    order.into_iter().filter_map(|status| path(&states, status).map(|path| (status.as_str(), path))).collect()
}

fn path(states: &[ServiceStatus], wanted: ServiceStatus) -> Option<String> {
    let mut out = String::new();
    let mut at = 0;
    for (index, _) in states.iter().enumerate().filter(|(_, state)| **state == wanted) {
        let skip = (index - at) * PITCH;
        at = index;
        if out.is_empty() {
            out.push_str(&format!("M{skip} 0"));
        } else {
            out.push_str(&format!("m{skip} 0"));
        }
        out.push_str(shape(wanted));
    }
    (!out.is_empty()).then_some(out)
}

/// From the top left corner of a bar and back to it.
const fn shape(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Up => "m0 4h2v22h-2zm0-4",
        ServiceStatus::Degraded => "m0 4h2v8h-2zm0 13h2v9h-2zm0-17",
        ServiceStatus::Down => "h2v26h-2z",
        ServiceStatus::Planned => "m0 15h2v11h-2zm0-15",
        ServiceStatus::Unknown => "m0 24h2v2h-2zm0-24",
    }
}

/// One bar for the legend, 8 wide.
#[must_use]
pub fn single(status: ServiceStatus) -> String {
    format!("M3 0{}", shape(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_were_never_measured_are_dots() {
        let paths = paths(&[], 20_000);
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].0, "unknown");
        assert_eq!(paths[0].1.matches("h2").count(), HISTORY_DAYS);
    }

    #[test]
    fn a_day_outside_the_window_is_left_out() {
        let day = |day| Day { day, up_ms: 1, ..Day::default() };
        let paths = paths(&[day(20_001), day(20_000), day(19_911), day(19_910)], 20_000);
        assert_eq!(paths[0].1, "M0 0m0 4h2v22h-2zm0-4m267 0m0 4h2v22h-2zm0-4");
    }
}
