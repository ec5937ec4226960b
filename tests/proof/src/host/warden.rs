//! The warden as played: the shipped budget and verdict, with the time that looking, locking and stopping take.

use bcp_agent::gate::budget::{Budget, POLL_MS, Verdict};
use bcp_agent::gate::machine::{Action, FoundDeadline};
use bcp_agent::gate::record::{BootMs, Brief, Record};
use bcp_wire::Id;

use super::{Disk, Host, Note, Play, gate_timing};
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

    /// What the warden goes by: the file in memory; where none was written in this boot, the record.
    fn warden_knows(&mut self, id: &Id) -> Option<Brief> {
        let disk = self.disk;
        let post = self.posts.get_mut(id)?;
        let is_read = matches!(disk, Disk::Fine | Disk::Full) && !post.gone;
        if is_read {
            post.warden_read = post.disk.clone();
        }
        match (post.brief, disk) {
            (Some(brief), _) => Some(brief),
            (None, Disk::Hung) => None,
            (None, _) if is_read => Some(post.disk.brief()),
            (None, _) => Some(Brief { may_run: true, closed: false, holder: None }),
        }
    }

    pub(super) fn warden_looks(&mut self, id: &Id, play: &mut Play) {
        let (clock, budget) = (self.clock(play.now), self.budget());
        let Some(brief) = self.warden_knows(id) else { return };
        let Some(post) = self.posts.get_mut(id) else { return };
        let is_over = post.stopped.is_some_and(|stopped| stopped == (post.file, brief));
        if post.warden.is_some() || post.puts_down || !brief.may_run || is_over {
            post.noticed = None;
            return;
        }
        let deadline = post.file.map(|file| file.deadline);
        let noticed = *post.noticed.get_or_insert(clock);
        let due = match budget.judge(brief, deadline, noticed, clock) {
            Verdict::Fine => {
                post.noticed = None;
                return;
            }
            Verdict::GateActs { until } if clock < until => return,
            Verdict::GateActs { until } => until,
            Verdict::Late => deadline.unwrap_or(clock),
        };
        if play.bug == Some(Bug::WardenWaitsForDisk) && self.disk == Disk::Hung {
            return;
        }
        if play.bug != Some(Bug::LossLeavesStep) {
            post.step = None;
        }
        post.stopped = Some((post.file, brief));
        post.unlocked = post.stuck.is_some();
        post.mark = !self.runtime_full;
        if post.unlocked {
            // Killed in the middle of a write: the disk takes it, or does not.
            let record = post.stuck.take().and_then(|stuck| match stuck.actions.into_iter().next() {
                Some(Action::Persist(record)) => Some(*record),
                _ => None,
            });
            if let Some(record) = record.filter(|_| play.roll().is_multiple_of(2)) {
                self.keep(id, record, play);
            }
            self.kill_agent();
        }
        let ends = self.warden_ends(deadline, due, play);
        if let Some(post) = self.posts.get_mut(id) {
            post.warden = Some(ends);
        }
    }

    /// The stop is verified; then, and not before, the disk is told.
    pub(super) fn warden_ended(&mut self, id: &Id, play: &mut Play) {
        let now = play.now;
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.warden.take_if(|ends| *ends <= now).is_some() {
            if self.stops_fail {
                post.warden = Some(now + play.step_ms);
                return;
            }
            if post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            // Without the lock nothing is written: the gate would not know.
            if !std::mem::take(&mut post.unlocked) {
                post.puts_down = true;
                post.brief = post.brief.map(|brief| Brief { may_run: false, ..brief });
                post.file = None;
            }
        }
        if self.disk == Disk::Hung || !std::mem::take(&mut post.puts_down) {
            return;
        }
        let mut record = match (self.disk, play.bug) {
            (_, Some(Bug::WardenWritesBlindly)) => post.warden_read.clone(),
            (Disk::Fine, _) if !post.gone => post.disk.clone(),
            _ => return,
        };
        record.closed |= record.holder == Some(self.site);
        (record.may_run, record.promoted) = (false, None);
        record.writes = post.disk.writes + 1;
        self.keep(id, record, play);
    }

    fn keep(&mut self, id: &Id, record: Record, play: &mut Play) {
        let Some(post) = self.posts.get_mut(id) else { return };
        let after = Box::new(record.clone());
        let before = Box::new(std::mem::replace(&mut post.disk, record));
        post.gone = false;
        play.wishes.notes.push(Note::Stored { ticket: id.clone(), before, after });
    }
}
