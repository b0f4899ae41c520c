//! Rules broken on purpose, one at a time, to see whether the simulator notices (docs/hazards.md).
//!
//! Rules that another one shields are missing, because breaking them alone changes nothing that can be seen:
//! the check of the session within a term (a term is given to one session), of the boot id (leases outlast a
//! restart, and an acknowledgement stays true), of the promise being durable before the term is served, of a
//! change's term (its epoch is older too), of the term when an answer leaves (the store keeps order), and of
//! a base that is too high (a replica that holds less than its base says takes itself for put back, and is
//! compared as a whole), and of what a target that was not asked has there (a copy is never newer than a live
//! write).
//!
//! Others are too rare for random walks and have tests of their own: that a lease counts from when it was
//! asked for, and that a replica lets nobody in right after a restart
//! (replication/core/tests/regressions.rs); that who promised a term does not yet hold what came before it
//! (testdata/replica_identity.txt); what becomes of bad blocks in a take-over (takeover/compare.rs) and in a sync
//! (sync/copy.rs); that only the version that was lost mends a block (chunk-store/tests/faults.rs); that what
//! a disk that lost a write still has is not passed off for what is bad elsewhere
//! (replication/core/tests/damage.rs).
//!
//! Only with the cargo feature `mutants` can one be switched on, per thread; without it every question is a
//! constant `false` and no trace of this is in the daemon.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($(#[$doc])* $name),* }
        /// All rules that can be broken.
        pub const ALL: &[Mutant] = &[$(Mutant::$name),*];
    };
}

mutants! {
    /// A replica serves messages of an older term.
    ServeStaleTerm,
    /// A replica does not compare the storage with the recorded one.
    IgnoreStoreUuid,
    /// A replica whose storage was put back from an older copy does not notice.
    TrustsOldStorage,
    /// A member whose process began anew is believed to hold what it had acknowledged.
    RebornIsBelieved,
    /// A replica lets a new session in while another one's lease runs.
    SealIgnoresLease,
    /// A replica acknowledges writes before they are durable.
    AckBeforeDurable,
    /// A lease ends early at the replica.
    ShortLeaseAtReplica,
    /// A replica counts a lease no longer than the coordinator does: clocks that run at different rates are forgotten.
    LeaseMarginIgnored,
    /// Writes are acknowledged though fewer members are in sync than the policy asks for.
    AckBelowMinReplicas,
    /// A flush waits for requests that were not answered before it came.
    FlushWaits,
    /// What is written to a part of a block makes the rest of it zero.
    EdgesForgotten,
    /// A replica that leaves is synced again when it has left.
    SyncsWhoLeaves,
    /// One acknowledgement is enough.
    AckByOne,
    /// A member whose drop is only proposed does not count any more.
    DropCountsAtOnce,
    /// Reads are delivered without leases.
    ReadWithoutLease,
    /// Strict reads rely on leases, and so on clocks.
    StrictBelievesLeases,
    /// Reads take no lock.
    ReadWithoutLock,
    /// Writes take no lock.
    WriteWithoutLock,
    /// A take-over reconciles nothing.
    SkipReconcile,
    /// A take-over takes the oldest version.
    ReconcileOldest,
    /// A take-over believes that everything on any member is on all.
    StableIsMax,
    /// A take-over goes on when one member is sealed.
    SealOne,
    /// A take-over serves before its copies are there.
    ServeBeforeCopied,
    /// The watermark is the newest number.
    StableLeads,
    /// A take-over serves before the record says so.
    ServesUnrecorded,
    /// A fenced coordinator goes on.
    IgnoreFence,
    /// A newer term in the record does not end the attachment.
    IgnoreNewTerm,
    /// A number is used twice.
    ReuseSeq,
    /// A take-over believes of all members what one of them has noted.
    OneNotesForAll,
    /// A sync compares what is above the recorded base, whatever the target knows itself to hold.
    SyncTrustsBase,
    /// A sync mirrors no live writes.
    SyncWithoutMirror,
    /// Trims are not mirrored to a member that syncs.
    SyncForgetsTrims,
    /// A target takes no note of zeroes where it holds nothing.
    SyncForgetsZeroesOfNothing,
    /// A sync does not look at the target's own newer blocks.
    SyncForgetsTarget,
    /// A sync lists the source before older writes are everywhere.
    SyncListsEarly,
    /// A target counts only after its Add was committed.
    JoinCountsLate,
    /// A target joins while it lacks acknowledged writes.
    JoinEarly,
    /// A sync copies nothing.
    SyncCopiesNothing,
    /// A stop ends the sync that held writes wait for.
    StopEndsSyncs,
    /// A stop keeps the place of a sync that was asked for.
    StopKeepsItsPlace,
    /// What a member noted in a term that was never served is held against the others.
    UnservedTermsCount,
    /// Zeroes are not copied.
    ForgetZeroes,
    /// Storage that was made anew keeps its base.
    WipedKeepsBase,
    /// An attach keeps the term.
    AttachKeepsTerm,
    /// A link sends more than the other end has said it will hold.
    CreditIgnored,
    /// A link's serving end begins every request at once, whether or not its answers can leave.
    AnswersWithoutRoom,
    /// A request that waits its turn on a link is taken for lost: it is repeated, and its member suspected.
    QueueIsSilence,
    /// After a last resort the others keep the base of the history that was given up.
    ForceKeepsBase,
    /// A shard is part of the volume before its replicas have been made.
    PartBeforeMade,
    /// A shard that became part of the volume late counts as served since it was asked for.
    PartSinceAsked,
    /// A replica of a shard that was never served is not replaced when it cannot be made.
    UnmadeStays,
    /// A replica of a shard that is served is replaced by one that holds nothing.
    ReplacesServed,
    /// In a command with changes of several shards, the changes behind a refused one are forgotten.
    TogetherStopsAtRefusal,
    /// In a command with changes of several shards, a drop may empty a set.
    TogetherDropsLast,
    /// Refusals push outcomes out of the table that makes requests exactly-once.
    KeepsRefusals,
    /// The bytes that the target of a sync is behind are counted up and never down. Nobody sees it but the assertions.
    BehindNeverFalls,
    /// A disk that has failed for good is recorded as only failing when that report comes late.
    FailingForgetsFailed,
}

/// Rules of links, on which the simulator's messages do not depend: `replication/core/tests/links.rs` breaks
/// each of them.
pub const OF_LINKS: &[Mutant] = &[Mutant::CreditIgnored, Mutant::AnswersWithoutRoom, Mutant::QueueIsSilence];

/// Rules that concern volumes of several shards: the simulator of growth notices them (tests/tests/growth.rs).
pub const GROWTH: &[Mutant] = &[Mutant::PartBeforeMade, Mutant::PartSinceAsked, Mutant::UnmadeStays];

/// Rules that only the record shows (metadata/core/tests/rules.rs).
pub const RECORD: &[Mutant] = &[
    Mutant::ReplacesServed,
    Mutant::TogetherStopsAtRefusal,
    Mutant::TogetherDropsLast,
    Mutant::KeepsRefusals,
    Mutant::FailingForgetsFailed,
];

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread, or none.
#[cfg(feature = "mutants")]
pub fn set(m: Option<Mutant>) {
    ACTIVE.with(|a| a.set(m));
}

/// Is this rule broken now?
#[cfg(feature = "mutants")]
pub fn is(m: Mutant) -> bool {
    ACTIVE.with(|a| a.get() == Some(m))
}

/// Is this rule broken now? Without the feature no rule ever is.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}
