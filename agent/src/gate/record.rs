//! What a gate never forgets about one ticket, and the two clocks' worth of time it deals in.

use std::fmt;

use bcp_wire::control::{StepKind, StepReport};
use bcp_wire::{Epoch, Site};
use serde::{Deserialize, Serialize};

/// Milliseconds of CLOCK_BOOTTIME: runs on while the machine sleeps, starts anew at a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootMs(pub u64);

impl BootMs {
    #[must_use]
    pub const fn plus(self, ms: u64) -> BootMs {
        BootMs(self.0.saturating_add(ms))
    }
    #[must_use]
    pub const fn since(self, earlier: BootMs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for BootMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1000, self.0 % 1000)
    }
}

/// Persisted before anything that follows from it is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Grows with every write, by whomever: gate and warden tell by it that the other one wrote.
    pub writes: u64,
    /// Highest epoch ever seen. Nothing of a lower one is obeyed.
    pub epoch: Epoch,
    pub holder: Option<Site>,
    /// Nothing of `epoch` will ever be started here again.
    pub closed: bool,
    /// A promotion was begun since the last verified stop: the service may be running here.
    pub may_run: bool,
    /// The epoch whose promotion was finished.
    #[serde(default)]
    pub promoted: Option<Epoch>,
    /// The last step that was begun.
    #[serde(default)]
    pub last_step: Option<LastStep>,
    /// Finished steps that no collector has confirmed.
    #[serde(default)]
    pub reports: Vec<StepReport>,
    /// Finished and confirmed steps: their keys are answered from here and never run again.
    #[serde(default)]
    pub done: Vec<StepReport>,
    #[serde(default)]
    pub promise: Option<Promise>,
    /// Two operators gave this site the present epoch without any collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
    /// An earlier record was lost: whether the present epoch was closed is unknown, so the first one heard of counts as closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastStep {
    pub key: String,
    pub kind: StepKind,
    pub epoch: Epoch,
}

/// A promise to another site's gate not to promote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    /// To whom, as `a/host-a`.
    pub to: String,
    pub epoch: Epoch,
    /// The boot that `until` is measured in. After another boot the whole length counts again.
    pub boot_id: String,
    pub until: BootMs,
    pub for_ms: u64,
}

/// An order of two operators that this gate follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Forced {
    pub epoch: Epoch,
    /// The boot that `wait_until` is measured in. After another boot the whole length counts again.
    pub boot_id: String,
    /// Nothing is promoted before.
    pub wait_until: BootMs,
    pub for_ms: u64,
    /// Steps that failed so far.
    pub attempt: u32,
    pub published: bool,
}

/// What a warden needs of a record; it is in the warden's file too, for a disk may hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Brief {
    pub may_run: bool,
    pub closed: bool,
    pub holder: Option<Site>,
}

impl Record {
    #[must_use]
    pub const fn brief(&self) -> Brief {
        Brief { may_run: self.may_run, closed: self.closed, holder: self.holder }
    }

    /// In place of a record that is gone: anything may run, anything may have been closed, and a promise may stand.
    #[must_use]
    pub fn lost(boot_id: &str, now: BootMs, promise_ms: u64) -> Record {
        let promise = Promise {
            to: "a gate that is not known any more".to_owned(),
            epoch: Epoch::NONE,
            boot_id: boot_id.to_owned(),
            until: now.plus(promise_ms),
            for_ms: promise_ms,
        };
        Record { closed: true, may_run: true, lost: true, promise: Some(promise), ..Record::default() }
    }
}

impl Default for Record {
    fn default() -> Record {
        Record {
            writes: 0,
            epoch: Epoch::NONE,
            holder: None,
            closed: false,
            may_run: false,
            promoted: None,
            last_step: None,
            reports: Vec::new(),
            done: Vec::new(),
            promise: None,
            forced: None,
            lost: false,
        }
    }
}
