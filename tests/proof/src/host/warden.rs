//! The warden as played: the shipped budget and verdict, with the time that looking, locking and stopping take.

use bcp_agent::gate::budget::{Budget, POLL_MS, Verdict};
use bcp_agent::gate::machine::FoundDeadline;
use bcp_agent::gate::record::BootMs;
use bcp_wire::Id;

use super::{Host, Note, Play, gate_timing};
use crate::bug::Bug;

impl Host {
    fn budget(&self) -> Budget {
        gate_timing(&self.timing).budget()
    }

    /// Real milliseconds in which the clock goes on by so many.
    fn lasts(&self, local_ms: u64) -> u64 {
        (local_ms * 1_000).div_ceil(self.rate)
    }

    /// At most until `latest`, and so long where everything hangs.
    fn ends(&self, latest: u64, play: &mut Play) -> u64 {
        let latest = latest.max(play.now);
        match &mut play.dice {
            Some(dice) if !self.slow_stops => play.now + dice.below(latest - play.now + 1),
            Some(_) | None => latest,
        }
    }

    /// When the gate's stop ends that begins now. Its machine begins by the deadline, however coarse the steps are here.
    pub(super) fn gate_stop_ends(&self, file: Option<FoundDeadline>, play: &mut Play) -> u64 {
        let begins = file.map_or(play.now, |file| self.real_of(file.deadline).min(play.now));
        self.ends(begins + self.lasts(self.budget().stop_ms()), play)
    }

    /// When the warden's loss action ends that is due at `due`: its look, the lock, a kill, then stop and verify.
    fn warden_ends(&self, deadline: Option<BootMs>, due: BootMs, play: &mut Play) -> u64 {
        let (budget, clock) = (self.budget(), self.clock(play.now));
        // The real one looks more often than the steps here.
        let seen = due.max(BootMs(clock.0.saturating_sub(play.step_ms * self.rate / 1_000))).plus(POLL_MS);
        let begins = seen.plus(budget.lock_ms() + budget.after_kill_ms());
        let takes = match play.bug {
            Some(Bug::WardenTakesItAll) => budget.stop_max_ms,
            _ => budget.warden_stop_ms(deadline, begins, budget.stop_ms()),
        };
        self.ends(self.real_of(begins.plus(takes)), play)
    }

    pub(super) fn warden_looks(&mut self, id: &Id, play: &mut Play) {
        let (clock, budget) = (self.clock(play.now), self.budget());
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.warden.is_some() || !post.disk.may_run {
            post.noticed = None;
            return;
        }
        let deadline = post.file.map(|file| file.deadline);
        let noticed = *post.noticed.get_or_insert(clock);
        let due = match budget.judge(&post.disk, deadline, noticed, clock) {
            Verdict::Fine => {
                post.noticed = None;
                return;
            }
            Verdict::GateActs { until } if clock < until => return,
            Verdict::GateActs { until } => until,
            Verdict::Late => deadline.unwrap_or(clock),
        };
        if play.bug != Some(Bug::LossLeavesStep) {
            post.step = None;
        }
        if post.disk.holder == Some(self.site) && !post.disk.closed {
            let before = post.disk.clone();
            post.disk.closed = true;
            post.disk.writes += 1;
            let after = Box::new(post.disk.clone());
            play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        }
        let ends = self.warden_ends(deadline, due, play);
        if let Some(post) = self.posts.get_mut(id) {
            post.warden = Some(ends);
        }
    }
}
