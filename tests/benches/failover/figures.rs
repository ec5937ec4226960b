//! Durations of many runs, and what was wanted of them.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is measured, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    LossToGrant,
    LossToService,
    LossToPage,
    LossToPageWell,
    SwitchoverGap,
    IsolatedStopped,
    IsolatedToService,
}

impl What {
    const fn title(self) -> &'static str {
        match self {
            What::LossToGrant => "site loss: the grant to b is effective",
            What::LossToService => "site loss: b answers users through HAProxy",
            What::LossToPage => "site loss: the public page of w says so",
            What::LossToPageWell => "site loss: it says that all works again",
            What::SwitchoverGap => "planned switchover: users without an answer",
            What::IsolatedStopped => "isolated holder: its service is stopped",
            What::IsolatedToService => "isolated holder: b answers users",
        }
    }

    /// Goal in seconds, and whether it is for the median or for all.
    const fn goal(self, timing: &str) -> Option<(f64, Of)> {
        let (metro, fast) = match self {
            What::LossToGrant => ((16.0, Of::All), (6.0, Of::All)),
            What::LossToService => ((20.0, Of::All), (8.0, Of::All)),
            What::LossToPage => ((22.0, Of::All), (10.0, Of::All)),
            What::SwitchoverGap => ((2.0, Of::Median), (2.0, Of::Median)),
            What::IsolatedStopped => ((14.0, Of::All), (14.0, Of::All)),
            What::LossToPageWell | What::IsolatedToService => return None,
        };
        match timing.as_bytes() {
            b"metro" => Some(metro),
            b"fast" => Some(fast),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Median,
    All,
}

#[derive(Debug, Default)]
pub struct Figures(BTreeMap<What, Vec<Duration>>);

impl Figures {
    pub fn add(&mut self, what: What, took: Duration) {
        self.0.entry(what).or_default().push(took);
    }

    pub fn merge(&mut self, other: Figures) {
        for (what, mut all) in other.0 {
            self.0.entry(what).or_default().append(&mut all);
        }
    }

    /// One line, for the log of the runs.
    pub fn brief(&self) -> String {
        let one = |(what, all): (&What, &Vec<Duration>)| {
            let each: Vec<String> = all.iter().map(|took| format!("{:.2}", took.as_secs_f64())).collect();
            format!("{what:?} {}", each.join("/"))
        };
        self.0.iter().map(one).collect::<Vec<_>>().join("  ")
    }

    /// The table. False: a goal was missed.
    pub fn print(&mut self, timing: &str) -> bool {
        let mut met = true;
        println!(
            "\n{:<46}{:>5}{:>9}{:>9}{:>9}{:>9}  goal",
            format!("{timing}, seconds"),
            "n",
            "min",
            "median",
            "p99",
            "max"
        );
        for (what, all) in &mut self.0 {
            all.sort_unstable();
            // Nearest rank: of 30 runs p99 is the longest.
            let at = |share: f64| {
                let rank = (share * all.len() as f64).ceil() as usize;
                all[rank.clamp(1, all.len()) - 1].as_secs_f64()
            };
            let (median, most) = (at(0.5), at(1.0));
            let verdict = what.goal(timing).map_or_else(String::new, |(goal, of)| {
                let (is_met, which) = match of {
                    Of::Median => (median <= goal, "median"),
                    Of::All => (at(0.99) <= goal, "p99"),
                };
                met &= is_met;
                format!("{which} <= {goal}: {}", if is_met { "met" } else { "MISSED" })
            });
            println!(
                "{:<46}{:>5}{:>9.2}{:>9.2}{:>9.2}{:>9.2}  {verdict}",
                what.title(),
                all.len(),
                at(0.0),
                median,
                at(0.99),
                most
            );
        }
        met
    }
}
