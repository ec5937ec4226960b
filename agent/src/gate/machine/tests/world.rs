//! The world of a machine under test: what it was told, what it did, what must hold at every moment.

use super::*;

/// A machine and the world around it: carries out actions, remembers what was effective when.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: u64,
    pub(super) index: u64,
    pub(super) disk: Record,
    pub(super) deadline: Option<FoundDeadline>,
    pub(super) running: Option<StepOrder>,
    pub(super) stopping: bool,
    /// Deadline under which a promotion was last begun or the lease extended.
    pub(super) believed: Option<u64>,
    pub(super) promoted: Vec<Epoch>,
    pub(super) log: Vec<String>,
    /// The warden cannot be told of a deadline.
    pub(super) unheard: bool,
}

impl World {
    pub(super) fn new(now: u64) -> World {
        World::with(Record::default(), None, now)
    }

    pub(super) fn with(record: Record, found: Option<FoundDeadline>, now: u64) -> World {
        let machine = Machine::new(terms(), record.clone(), found, BootMs(now));
        World {
            machine,
            now,
            index: 0,
            disk: record,
            deadline: found,
            running: None,
            stopping: false,
            believed: found.map(|found| found.deadline.0),
            promoted: Vec::new(),
            log: Vec::new(),
            unheard: false,
        }
    }

    pub(super) fn at(&mut self, now: u64) -> &mut World {
        self.now = now;
        self.event(Event::Ticked { dice: now });
        self
    }

    pub(super) fn event(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.machine.step(BootMs(self.now), event);
        for at in 0.. {
            let Some(action) = actions.get(at).cloned() else { break };
            self.carry_out(&action);
            if let Action::NoteDeadline { epoch, deadline } = action {
                let fault = self.unheard.then(|| "no room".to_owned());
                let noted = Event::DeadlineNoted { epoch, deadline, fault };
                let follow = self.machine.step(BootMs(self.now), noted);
                actions.extend(follow);
            }
        }
        self.check();
        actions
    }

    pub(super) fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Persist(record) => {
                assert!(record.epoch >= self.disk.epoch, "epochs never fall");
                assert!(record.epoch > self.disk.epoch || !self.disk.closed || record.closed, "closed stays closed");
                assert!(record.writes > self.disk.writes);
                self.disk = (**record).clone();
                self.machine.saved(record);
            }
            Action::NoteDeadline { epoch, deadline } => {
                assert_eq!(*epoch, self.disk.epoch, "a lease only of the stored epoch");
                if !self.unheard {
                    self.deadline = Some(FoundDeadline { epoch: *epoch, deadline: *deadline });
                    self.believed = Some(deadline.0);
                }
            }
            Action::ForgetDeadline => self.deadline = None,
            Action::NoteActive { epoch, active, .. } => {
                self.log.push(format!("{active} {epoch}"));
                if *active {
                    assert!(self.disk.may_run, "stored before it is so");
                }
            }
            Action::KillStep => self.running = None,
            Action::RunStep { order, deadline } => {
                assert!(self.running.is_none() && !self.stopping, "one thing at a time");
                assert_eq!(order.epoch, self.disk.epoch, "nothing of another epoch");
                let last = self.disk.last_step.as_ref().unwrap();
                assert_eq!(last.key, order.key, "stored before it is begun");
                if matches!(order.kind, StepKind::Promote | StepKind::Publish) {
                    let deadline = deadline.unwrap().0;
                    assert_eq!(Some(deadline), self.believed, "the warden knows the same deadline");
                    assert!(self.now < deadline, "the lease runs");
                    assert!(!self.disk.closed && self.disk.may_run && self.disk.holder == Some(Site::A));
                    let promise = self.disk.promise.as_ref();
                    assert!(promise.is_none_or(|promise| promise.until.0 <= self.now), "promised not to");
                    self.promoted.push(order.epoch);
                }
                self.running = Some(order.clone());
            }
            Action::RunStop { .. } => {
                assert!(self.running.is_none(), "the step is killed first");
                // What runs under an epoch is stopped after that epoch was closed or left behind.
                let current = self.promoted.last() == Some(&self.disk.epoch) && self.disk.may_run;
                assert!(self.disk.closed || !current, "closed before it is stopped");
                self.stopping = true;
            }
            Action::AnswerPromise(answer) => {
                if let PromiseVerdict::Promised { for_ms } = &answer.verdict {
                    let promise = self.disk.promise.as_ref().expect("stored before it is given");
                    assert!(promise.until.0 >= self.now + for_ms);
                    assert!(!self.disk.may_run && answer.epoch >= self.disk.epoch);
                }
            }
            Action::AnswerForce(ForceOutcome::Refused { .. }) => {}
            Action::AnswerForce(_) => assert_eq!(&self.disk, self.machine.stored(), "stored before it is said"),
            Action::SyncNow | Action::AskPeers { .. } => {}
        }
    }

    /// What must hold whenever the machine has just been looked after.
    pub(super) fn check(&self) {
        assert_eq!(&self.disk, self.machine.stored(), "what the machine believes is on disk");
        assert_eq!(&self.disk, self.machine.record());
        if self.disk.may_run && !self.stopping {
            let covered = self.believed.is_some_and(|deadline| self.now < deadline);
            assert!(covered || self.machine.figures().doing.starts_with("stopping"), "may run without a lease");
        }
        if let (Some(lease), Some(told)) = (self.machine.figures().deadline, self.believed) {
            assert!(lease.0 <= told, "no longer than the warden was told");
        }
        let part = self.machine.sync_part(None);
        if part.closed {
            assert!(!self.disk.may_run && !self.stopping, "closed is said only when nothing runs");
            assert!(part.renew.is_none());
        }
        if let Some(renew) = part.renew {
            assert!(renew == self.disk.epoch && !self.disk.closed && self.disk.holder == Some(Site::A));
        }
    }

    pub(super) fn answered(&mut self, answer: TicketAnswer) -> Vec<Action> {
        self.index += 1;
        let (sent, index) = (self.now.saturating_sub(10), self.index);
        self.event(answered(sent, index, answer))
    }

    pub(super) fn step_ends(&mut self, outcome: StepOutcome) -> Vec<Action> {
        let Some(order) = self.running.take() else { return Vec::new() };
        self.event(Event::StepEnded { key: order.key, outcome, detail: None, took_ms: 5 })
    }

    pub(super) fn stop_ends(&mut self, verified: bool) -> Vec<Action> {
        if !std::mem::take(&mut self.stopping) {
            return Vec::new();
        }
        self.event(Event::StopEnded { verified, detail: None })
    }

    /// Granted, renewed, promoted.
    pub(super) fn active(now: u64) -> World {
        let mut world = World::new(now);
        world.answered(answer(1, Site::A, false, None));
        world.answered(answer(1, Site::A, true, Some(order(StepKind::Promote, 1, Site::A))));
        assert!(world.running.is_some());
        world.step_ends(StepOutcome::Done);
        assert_eq!(world.machine.figures().doing, "active");
        world
    }

    pub(super) fn outcome_of(&self, key: &str) -> Option<StepOutcome> {
        self.disk.reports.iter().find(|report| report.key == key).map(|report| report.outcome)
    }
}
