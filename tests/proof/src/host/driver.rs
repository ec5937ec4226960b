//! The driver as played: what it does with a machine's actions, and how programs end, in the order of
//! `agent/src/gate/driver.rs`.

use std::collections::VecDeque;

use bcp_agent::gate::machine::{Action, Event, FoundDeadline};
use bcp_agent::gate::record::{BootMs, Brief};
use bcp_wire::Id;
use bcp_wire::control::{StepKind, StepOutcome};

use super::{Disk, Host, Note, Play, Running, STEP_MS, Stuck};
use crate::bug::Bug;

impl Host {
    /// Programs end, the warden looks, the machine hears that time passed.
    pub fn advance(&mut self, play: &mut Play) {
        if !self.powered || self.is_frozen() {
            return;
        }
        let tickets: Vec<Id> = self.posts.keys().cloned().collect();
        for id in &tickets {
            self.goes_on(id, play);
            self.programs_end(id, play);
            if play.bug != Some(Bug::NoWarden) {
                self.warden_looks(id, play);
            }
            let roll = play.roll();
            self.feed(id, Event::Ticked { dice: roll }, None, play);
        }
    }

    fn programs_end(&mut self, id: &Id, play: &mut Play) {
        let now = play.now;
        let Some(post) = self.posts.get_mut(id) else { return };
        if let Some(step) = post.step.take_if(|step| step.ends <= now) {
            let outcome = post.force.get(&step.order.kind).copied().unwrap_or(StepOutcome::Done);
            if step.order.kind == StepKind::Promote && matches!(outcome, StepOutcome::Done | StepOutcome::Already) {
                post.running = Some(step.order.epoch);
                (post.copy.in_sync, post.copy.alone, post.copy.wants_alone) = (false, false, true);
                self.wish_ended(id);
            }
            let key = step.order.key.clone();
            play.wishes.notes.push(Note::Ended { ticket: id.clone(), order: step.order, outcome });
            self.feed(id, Event::StepEnded { key, outcome, detail: None, took_ms: STEP_MS }, None, play);
        }
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.stop.take_if(|ends| *ends <= now).is_some() {
            let verified = !post.force.contains_key(&StepKind::Stop) && !self.stops_fail;
            if verified && post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            self.feed(id, Event::StopEnded { verified, detail: None }, None, play);
        }
        self.warden_ended(id, play);
    }

    /// A disk that hung gives what was asked of it, and the gate goes on in the middle of what it did.
    fn goes_on(&mut self, id: &Id, play: &mut Play) {
        if self.disk == Disk::Hung || self.paused {
            return;
        }
        let Some(stuck) = self.posts.get_mut(id).and_then(|post| post.stuck.take()) else { return };
        let mut follow = VecDeque::new();
        self.perform(id, stuck.actions, (stuck.nonce, stuck.sent), &mut follow, play);
        self.work(id, follow, play);
    }

    /// One event of one ticket, under its lock; `nonce` of the answer, where it is one.
    pub fn feed(&mut self, id: &Id, event: Event, nonce: Option<u64>, play: &mut Play) {
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.machine.is_none() {
            return;
        }
        let is_locked = post.warden.is_some() || post.puts_down;
        let is_unread = self.disk == Disk::Unreadable && (post.version != post.disk.writes || post.gone);
        if self.paused || self.hangs() || is_locked || is_unread {
            let Some(post) = self.posts.get_mut(id) else { return };
            if let Some(machine) = &mut post.machine
                && (is_locked || is_unread)
                && play.bug != Some(Bug::WardenUnseen)
            {
                machine.blinded("the warden is at work", post.warden.is_some());
            }
            // A paused process finds it all when it goes on; time and questions come anew.
            if !matches!(event, Event::Ticked { .. } | Event::PromiseAsked(_)) && post.pending.len() < 64 {
                post.pending.push_back((event, nonce));
            }
            return;
        }
        let runtime_full = self.runtime_full;
        let Some(post) = self.posts.get_mut(id) else { return };
        let mut events = std::mem::take(&mut post.pending);
        if let Some(machine) = &mut post.machine {
            if machine.is_unheard() && !runtime_full {
                machine.can_be_heard();
            }
            if std::mem::take(&mut post.mark) && play.bug != Some(Bug::WardenUnseen) {
                events.push_front((Event::WardenStopped, None));
            }
            // What a gate could not write was said already.
            if post.gone && machine.stored().writes != u64::MAX {
                events.push_front((Event::RecordLost { reason: "gone".to_owned() }, None));
            } else if !post.gone
                && post.version != post.disk.writes
                && *machine.stored() != post.disk
                && play.bug != Some(Bug::FoundRecordIgnored)
            {
                events.push_front((Event::RecordFound(Box::new(post.disk.clone())), None));
            }
            post.version = post.disk.writes;
        }
        events.push_back((event, nonce));
        self.work(id, events, play);
    }

    fn work(&mut self, id: &Id, mut events: VecDeque<(Event, Option<u64>)>, play: &mut Play) {
        let clock = self.clock(play.now);
        while let Some((event, nonce)) = events.pop_front() {
            if self.hangs() {
                if let Some(post) = self.posts.get_mut(id) {
                    post.pending.push_back((event, nonce));
                }
                continue;
            }
            let sent = match &event {
                Event::Answered { sent, .. } => *sent,
                _ => clock,
            };
            let Some(machine) = self.posts.get_mut(id).and_then(|post| post.machine.as_mut()) else { return };
            let actions = machine.step(clock, event);
            let mut follow = VecDeque::new();
            self.perform(id, actions, (nonce, sent), &mut follow, play);
            for event in follow.into_iter().rev() {
                events.push_front(event);
            }
        }
    }

    fn perform(
        &mut self,
        id: &Id,
        actions: Vec<Action>,
        (nonce, sent): (Option<u64>, BootMs),
        follow: &mut VecDeque<(Event, Option<u64>)>,
        play: &mut Play,
    ) {
        let (now, clock) = (play.now, self.clock(play.now));
        let mut stored = true;
        let mut actions = actions.into_iter();
        while let Some(action) = actions.next() {
            if matches!(action, Action::Persist(_)) && self.disk == Disk::Hung {
                let rest = std::iter::once(action).chain(actions).collect();
                if let Some(post) = self.posts.get_mut(id) {
                    post.stuck = Some(Stuck { actions: rest, nonce, sent });
                }
                return;
            }
            let is_full = self.disk == Disk::Full;
            let Some(post) = self.posts.get_mut(id) else { return };
            match action {
                Action::Persist(record) => {
                    let kept = !is_full || play.bug == Some(Bug::UnstoredIsTold);
                    if let Some(machine) = post.machine.as_mut() {
                        if kept {
                            machine.saved(&record);
                        }
                        if is_full {
                            machine.not_stored("no room");
                        }
                    }
                    if is_full {
                        stored = false;
                        continue;
                    }
                    let before = std::mem::replace(&mut post.disk, (*record).clone());
                    (post.version, post.gone) = (post.disk.writes, false);
                    if let Some(promise) = record.promise.filter(|promise| before.promise.as_ref() != Some(promise)) {
                        let (until, epoch) = (self.real_of(promise.until), promise.epoch);
                        play.wishes.notes.push(Note::Promised { ticket: id.clone(), epoch, until });
                    }
                    let after = Box::new(self.posts[id].disk.clone());
                    play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
                }
                Action::NoteDeadline { epoch, deadline } => {
                    let fault = (self.runtime_full && play.bug != Some(Bug::UntoldLease)).then(|| "no room".to_owned());
                    if !self.runtime_full {
                        post.file = Some(FoundDeadline { epoch, deadline });
                        post.brief = post.machine.as_ref().map(|machine| machine.record().brief());
                    }
                    if fault.is_none() {
                        let ticket = id.clone();
                        play.wishes.notes.push(Note::Extended { ticket, epoch, deadline, nonce, sent });
                    }
                    follow.push_back((Event::DeadlineNoted { epoch, deadline, fault }, nonce));
                }
                Action::ForgetDeadline => {
                    post.file = None;
                    post.brief = post.brief.map(|brief| Brief { may_run: false, ..brief });
                    post.mark = false;
                }
                Action::NoteActive { .. } => {}
                Action::KillStep => {
                    if play.bug != Some(Bug::LossLeavesStep) {
                        post.step = None;
                    }
                }
                Action::RunStep { order, deadline } => {
                    let key = order.key.clone();
                    let ended = |outcome| Event::StepEnded { key, outcome, detail: None, took_ms: 0 };
                    // The warden must know of a step before it begins.
                    if !stored || (self.runtime_full && post.file.is_some()) {
                        follow.push_back((ended(StepOutcome::Failed), None));
                    } else if deadline.is_some_and(|deadline| clock >= deadline) {
                        follow.push_back((ended(StepOutcome::Rejected), None));
                    } else {
                        post.brief = post.machine.as_ref().map(|machine| machine.record().brief());
                        if order.kind == StepKind::Promote {
                            post.running = Some(order.epoch);
                        }
                        let by_chance = play.dice.as_mut().map_or(STEP_MS, |dice| 50 + dice.below(900));
                        let takes = self.step_takes_ms.unwrap_or(by_chance);
                        play.wishes.notes.push(Note::Began { ticket: id.clone(), order: order.clone() });
                        post.step = Some(Running { order, ends: now + takes });
                    }
                }
                Action::RunStop { .. } => {
                    let (file, lost) = (post.file, post.disk.may_run && post.running.is_some());
                    let ends = if lost { self.gate_stop_ends(file, play) } else { now };
                    let tells = !self.runtime_full;
                    if let Some(post) = self.posts.get_mut(id) {
                        post.stop = Some(ends);
                        if tells && post.file.is_some() {
                            post.brief = post.machine.as_ref().map(|machine| machine.record().brief());
                        }
                    }
                }
                Action::SyncNow => self.sync_now = true,
                Action::AskPeers { epoch, nonce } => play.wishes.asks.push((id.clone(), epoch, nonce)),
                Action::AnswerPromise(answer) if stored => play.wishes.promises.push(answer),
                Action::AnswerPromise(_) | Action::AnswerForce(_) => {}
            }
        }
    }
}
