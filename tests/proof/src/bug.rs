//! Seeded bugs: each is a mistake that an implementation of this design could make.
//!
//! None of them is in the shipped path. The shipped core and the shipped gate stay as they are; what they are given, and
//! what they say, is changed on the way as the mistake would have changed it.

/// What goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    /// The wait covers the lease, but neither the stop nor the drift.
    MarginZero,
    /// The holder's deadline counts from the receipt of the answer.
    LeaseFromReceipt,
    /// Nobody stops the service of a gate that is dead or paused.
    NoWarden,
    /// A warden that waited and had to get the lock takes the whole of `stop_max` for its stop all the same.
    WardenTakesItAll,
    /// The epoch is the term of the log.
    EpochFromTerm,
    /// A gate that starts takes a whole new lease.
    RestartLengthensLease,
    /// A grant takes effect at once.
    NoWaitOut,
    /// The lease is not waited out, only what comes after it.
    WaitOfAcquireAfterOnly,
    /// The target is asked whether it is fresh when the holder is gone.
    FreshnessAskedAfter,
    /// The promotion is ordered with the grant.
    PromoteBeforeSeal,
    /// A gate follows an answer of an epoch it has left behind.
    LowerEpochAccepted,
    /// A gate forgets that it closed an epoch.
    ClosedEpochReopened,
    /// A frozen ticket is not renewed.
    FreezeEndsRenewals,
    /// Automatic moves are not counted.
    BudgetNotCounted,
    /// A human lifts the freeze of a used-up budget, and the budget stays used up.
    BudgetNotReset,
    /// The last word of an observer counts for ever.
    ExpiredObservationCounted,
    /// The silence of an observer that has just started counts.
    FreshObserverCounted,
    /// Ticks carry the wall clock's time.
    LogTimeFromWall,
    /// A node that leads again counts from its own last tick of an older term.
    ReelectedLeaderCounts,
    /// Renewals are stamped before the tick's time is added.
    RenewalStampedBeforeTick,
    /// A renewal is answered before it is in the log.
    AnsweredBeforeLogged,
    /// One stop report of two is taken as a clean release.
    MissingReportTakenClean,
    /// A gate tells that it closed an epoch although its disk did not take that.
    UnstoredIsTold,
    /// A drain stops the service and leaves its epoch open.
    DrainLeavesOpen,
    /// The loss action leaves a running step alone.
    LossLeavesStep,
    /// One of the other site's gates is not asked.
    PromiseOfOneMissing,
    /// Promises to different questions add up.
    PromisesAddUp,
    /// A promise does not survive a restart.
    PromiseForgotten,
    /// Two votes are not needed: one observer's silence is enough.
    OneVoteIsEnough,
    /// A second grant of the same epoch to another site.
    EpochReused,
    /// A dependency is not waited for.
    DependencyIgnored,
    /// `observe` acts.
    ObserveActs,
    /// A word of an observer counts though a later one was heard.
    OldWordCounted,
    /// An order is carried out whatever the ticket has become since its operator looked.
    OrdersDoNotCompare,
    /// A new policy is taken over whoever holds what.
    PolicyTakesAway,
    /// One operator who asks twice counts for two.
    ForceByOne,
    /// What two people force does not wait for the old holder.
    ForceWithoutWait,
    /// A lease counts although its warden could not be told of it.
    UntoldLease,
    /// A gate does not see that its warden is at work, or has stopped its service.
    WardenUnseen,
    /// The warden writes its record before it stops the service.
    WardenWaitsForDisk,
    /// The warden writes what it read once over what it cannot read now.
    WardenWritesBlindly,
    /// A gate renews an epoch that its disk did not take.
    UnsavedIsRenewed,
    /// A gate that cannot store says so in its log alone.
    UnsavedIsUntold,
    /// A record that vanished is taken for one that was never written.
    LostRecordIsNew,
    /// A holder that says that it could not stop is waited out.
    UnstoppedWaitedOut,
    /// A gate does not look whether its warden wrote the record meanwhile.
    FoundRecordIgnored,
    /// A gate goes by the deadline file that the last boot left.
    OldDeadlineRead,
    /// The silence of many agents at once counts as loss on one observer's word.
    SilenceGuardRemoved,
    /// What was started of the reserve is forgotten.
    CapacityWithoutCap,
    /// The steps that start servers are numbered anew after every shortage.
    CapacityStepsNumberedAnew,
    /// Servers count as lost at once.
    FallTimeIgnored,
    /// What one operator wanted to force is good for later epochs too.
    ForceOutlivesEpoch,
}

impl Bug {
    pub const ALL: [Bug; 52] = [
        Bug::MarginZero,
        Bug::LeaseFromReceipt,
        Bug::NoWarden,
        Bug::WardenTakesItAll,
        Bug::EpochFromTerm,
        Bug::RestartLengthensLease,
        Bug::NoWaitOut,
        Bug::WaitOfAcquireAfterOnly,
        Bug::FreshnessAskedAfter,
        Bug::PromoteBeforeSeal,
        Bug::LowerEpochAccepted,
        Bug::ClosedEpochReopened,
        Bug::FreezeEndsRenewals,
        Bug::BudgetNotCounted,
        Bug::BudgetNotReset,
        Bug::ExpiredObservationCounted,
        Bug::FreshObserverCounted,
        Bug::LogTimeFromWall,
        Bug::ReelectedLeaderCounts,
        Bug::RenewalStampedBeforeTick,
        Bug::AnsweredBeforeLogged,
        Bug::MissingReportTakenClean,
        Bug::UnstoredIsTold,
        Bug::DrainLeavesOpen,
        Bug::LossLeavesStep,
        Bug::PromiseOfOneMissing,
        Bug::PromisesAddUp,
        Bug::PromiseForgotten,
        Bug::OneVoteIsEnough,
        Bug::EpochReused,
        Bug::DependencyIgnored,
        Bug::ObserveActs,
        Bug::OldWordCounted,
        Bug::OrdersDoNotCompare,
        Bug::PolicyTakesAway,
        Bug::ForceByOne,
        Bug::ForceWithoutWait,
        Bug::UntoldLease,
        Bug::WardenUnseen,
        Bug::WardenWaitsForDisk,
        Bug::WardenWritesBlindly,
        Bug::UnsavedIsRenewed,
        Bug::UnsavedIsUntold,
        Bug::LostRecordIsNew,
        Bug::UnstoppedWaitedOut,
        Bug::FoundRecordIgnored,
        Bug::OldDeadlineRead,
        Bug::SilenceGuardRemoved,
        Bug::CapacityWithoutCap,
        Bug::CapacityStepsNumberedAnew,
        Bug::FallTimeIgnored,
        Bug::ForceOutlivesEpoch,
    ];
}
