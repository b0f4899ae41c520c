//! Which of a node's metadata logs may take part in the group.
//!
//! A log that was lost or put back from an older copy has forgotten what it voted for and acknowledged (hazard 18). The
//! record says how old each node's log was when the node last started, and with which of its logs the node became a
//! member. Each Raft message carries what the sender's record says of the addressee's log ([`LogRecord::judge`],
//! decisions/0016).

use hf_policy::{LogAge, LogId, broken};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What is recorded of a node's metadata log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRecord {
    /// The age that the log told at its node's last start.
    pub age: LogAge,
    /// The number of this log among the node's logs, from 1; 0: the node has never told of one.
    pub nth: u64,
    /// The number of the log to which the node's seat was given, while the node is a voter or learner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u64>,
}

/// A log, with its number among its node's logs as far as the node itself knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WhichLog {
    /// Identity of the log.
    pub log: LogId,
    /// Its number among its node's logs, from 1; 0: not known.
    pub nth: u64,
}

/// What every Raft message carries about the logs at both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// The sender's log.
    pub from: WhichLog,
    /// What the sender's record says of the addressee's log.
    pub to: LogRecord,
}

/// May a log take part in the group?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The log may vote and acknowledge.
    TakesPart,
    /// Not yet: no member that sends knows this log, or its node's seat is still that of a lost log.
    Waits,
    /// Never: the log is an older copy.
    Older,
}

impl LogRecord {
    /// The node told of its log. A log that is an older copy is not believed.
    pub fn told(&mut self, own: &OwnLog) {
        if !own.log.is_some() {
            return; // Lawful: a node that has no log yet says nothing of one.
        }
        if self.nth == 0 || self.age.log != own.log {
            *self = LogRecord { age: own.begun(), nth: self.nth + 1, member: self.member };
        } else if !own.is_older_than(self.age) {
            self.age = own.begun();
        }
    }

    /// Does a message come from an earlier log of the node than the recorded one?
    pub fn is_newer_than(&self, from: WhichLog) -> bool {
        self.nth > 0 && from.log.is_some() && self.age.log != from.log && self.nth >= from.nth
    }

    /// Was the node's seat given to a log that no longer exists?
    pub fn is_lost(&self) -> bool {
        self.member.is_some_and(|m| m != self.nth)
    }

    /// What this record says of the log `own`.
    fn says(&self, own: &OwnLog) -> Says {
        match (self.age.log == own.log, self.is_lost()) {
            (false, _) => Says::Other,
            (true, true) => Says::Lost,
            (true, false) => Says::Good,
        }
    }

    /// May a node take part that has the log `own` and has applied `mine` of itself, if somebody else has
    /// applied `self` of it? Either view may be behind. The table `ROWS` decides.
    pub fn judge(&self, own: &OwnLog, mine: LogRecord) -> Judgement {
        if self.nth == 0 {
            return Judgement::TakesPart; // Nobody ever told of a log, so none can be missing.
        }
        if own.is_older_than(self.age) {
            return Judgement::Older; // The log began a life that this one does not remember.
        }
        let (theirs, mine_says, later) = (self.says(own), mine.says(own), self.nth > mine.nth);
        match ROWS.iter().find(|r| r.holds(theirs, mine_says, later)) {
            Some(row) => row.then,
            None => {
                broken!("no row for {theirs:?}, {mine_says:?}, {later}");
                Judgement::Waits
            }
        }
    }
}

/// What a view of the record says of a node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// The node has another log (or, for the node's own view, it has applied nothing of itself).
    Other,
    /// The node has this log, but its seat in the group was given to an earlier log of the node, which is gone.
    Lost,
    /// The node has this log, and its seat, if it has one, was given to it.
    Good,
}

/// A row of the table: the first row that holds decides. `None` stands for any.
struct Row {
    /// What somebody else's view says.
    theirs: Option<Says>,
    /// What the node's own view says.
    mine: Option<Says>,
    /// In their view the node has had more logs than in its own.
    later: Option<bool>,
    then: Judgement,
}

impl Row {
    fn holds(&self, theirs: Says, mine: Says, later: bool) -> bool {
        self.theirs.is_none_or(|t| t == theirs)
            && self.mine.is_none_or(|m| m == mine)
            && self.later.is_none_or(|l| l == later)
    }
}

const fn row(theirs: Option<Says>, mine: Option<Says>, later: Option<bool>, then: Judgement) -> Row {
    Row { theirs, mine, later, then }
}

/// A seat is lost, then taken away, then given anew, always in this order: one view in which it is not lost
/// is enough. But the node's own view says nothing of the seat if theirs knows a later number of the same
/// log: it is of the seat before.
const ROWS: &[Row] = {
    use Judgement::{Older, TakesPart, Waits};
    use Says::{Good, Lost, Other};
    &[
        // The seat is this log's, by their view.
        row(Some(Good), None, None, TakesPart),
        // Their view knows a log that came after this one: this one is a copy from before.
        row(Some(Other), Some(Lost), Some(true), Older),
        row(Some(Other), Some(Good), Some(true), Older),
        // Their view is behind: the node has applied more of itself than they have.
        row(Some(Other), Some(Good), Some(false), TakesPart),
        row(Some(Lost), Some(Good), Some(false), TakesPart),
        // The node's own view is of a seat that it had before.
        row(Some(Lost), Some(Good), Some(true), Waits),
        // By both views the seat is still that of a log that is gone.
        row(Some(Lost), Some(Lost), None, Waits),
        row(Some(Lost), Some(Other), None, Waits),
        row(Some(Other), Some(Lost), Some(false), Waits),
        // Nobody knows this log: it is new, and the leader gives it a seat.
        row(Some(Other), Some(Other), None, Waits),
    ]
};

/// Starts that a log remembers. More are never under way to the record at once.
const STARTS_KEPT: usize = 64;

/// What a metadata log says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLog {
    /// Identity of the log, drawn when it was created.
    pub log: LogId,
    /// How often its age was raised: at each start, and every few seconds while it changes.
    pub age: u64,
    /// The last starts: the age to which each raised the log, and a number drawn then.
    pub starts: VecDeque<(u64, u64)>,
    /// Another node knew of a newer one: this log never takes part again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub older: bool,
}

impl OwnLog {
    /// A log that has never been started.
    pub fn new(log: LogId) -> OwnLog {
        OwnLog { log, ..OwnLog::default() }
    }

    /// The node starts with this log; `drawn` is a number that no other start draws.
    pub fn begin(&mut self, drawn: u64) {
        self.age += 1;
        self.starts.push_back((self.age, drawn));
        while self.starts.len() > STARTS_KEPT {
            self.starts.pop_front();
        }
    }

    /// Its age now, for places that are told often.
    pub fn age(&self) -> LogAge {
        LogAge { log: self.log, age: self.age, start: 0 }
    }

    /// Its age when the node last started with it.
    pub fn begun(&self) -> LogAge {
        let (age, start) = self.starts.back().copied().unwrap_or_default();
        LogAge { log: self.log, age, start }
    }

    /// Its number among the logs of its node, if `mine`, the node's own record, is of this log.
    pub fn as_in(&self, mine: LogRecord) -> WhichLog {
        WhichLog { log: self.log, nth: if mine.age.log == self.log { mine.nth } else { 0 } }
    }

    /// Does an age that was `noted` elsewhere prove that this log is an older copy? It does if it is higher,
    /// and also if it is of a start that this log does not remember: a copy that is started again raises its
    /// age, too.
    pub fn is_older_than(&self, noted: LogAge) -> bool {
        let remembered = self.starts.front().is_some_and(|(first, _)| noted.age >= *first);
        let unknown = noted.start != 0 && remembered && !self.starts.contains(&(noted.age, noted.start));
        self.log == noted.log && (noted.age > self.age || unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(log: u128, starts: u64) -> OwnLog {
        let mut own = OwnLog::new(LogId(log));
        (1..=starts).for_each(|i| own.begin(i * 100));
        own
    }

    #[test]
    fn a_log_takes_part_unless_somebody_knows_better() {
        let (never, own) = (LogRecord::default(), &lives(7, 5));
        assert_eq!(never.judge(own, never), Judgement::TakesPart, "nobody ever told anything");
        assert_eq!(record(7, 5, 1, None).judge(own, never), Judgement::TakesPart);
        assert_eq!(record(7, 4, 1, Some(1)).judge(own, never), Judgement::TakesPart, "it goes on");
        assert_eq!(record(7, 6, 1, Some(1)).judge(own, never), Judgement::Older);
        // Another log: theirs is from before, or this one is.
        assert_eq!(
            record(6, 9, 1, Some(1)).judge(own, never),
            Judgement::Waits,
            "it was emptied, and nobody knows it yet"
        );
        assert_eq!(record(6, 9, 1, Some(1)).judge(own, record(7, 5, 2, None)), Judgement::TakesPart, "they are behind");
        assert_eq!(record(8, 1, 3, None).judge(own, record(7, 5, 2, None)), Judgement::Older, "a copy from before");
        // It holds the place of the log before, until that is taken from it.
        assert_eq!(record(7, 5, 2, Some(1)).judge(own, never), Judgement::Waits);
        assert_eq!(record(7, 5, 2, Some(1)).judge(own, record(7, 5, 2, Some(1))), Judgement::Waits);
        assert_eq!(record(7, 5, 2, Some(1)).judge(own, record(7, 5, 2, None)), Judgement::TakesPart);
        assert_eq!(record(7, 5, 2, Some(2)).judge(own, record(7, 5, 2, Some(1))), Judgement::TakesPart);
        // It was replaced by the second, was put back, and has told of itself before anybody told it.
        assert_eq!(record(7, 5, 3, Some(2)).judge(own, record(7, 5, 1, Some(1))), Judgement::Waits);
        assert_eq!(record(7, 5, 3, None).judge(own, record(7, 5, 1, Some(1))), Judgement::TakesPart);
    }

    fn record(log: u128, age: u64, nth: u64, member: Option<u64>) -> LogRecord {
        LogRecord { age: LogAge { log: LogId(log), age, start: age * 100 }, nth, member }
    }

    /// For each row a case that it decides, and no row without one. The node has log 7.
    #[test]
    fn each_row_decides_a_case() {
        let (own, never) = (&lives(7, 5), LogRecord::default());
        let cases = [
            (record(7, 5, 1, Some(1)), never),
            (record(8, 1, 3, Some(3)), record(7, 5, 2, Some(1))),
            (record(8, 1, 3, None), record(7, 5, 2, None)),
            (record(6, 9, 1, Some(1)), record(7, 5, 2, None)),
            (record(7, 5, 2, Some(1)), record(7, 5, 2, Some(2))),
            (record(7, 5, 3, Some(2)), record(7, 5, 1, Some(1))),
            (record(7, 5, 2, Some(1)), record(7, 5, 2, Some(1))),
            (record(7, 5, 2, Some(1)), never),
            (record(6, 9, 1, Some(1)), record(7, 5, 2, Some(1))),
            (record(6, 9, 1, Some(1)), never),
        ];
        assert_eq!(cases.len(), ROWS.len());
        for (i, (theirs, mine)) in cases.into_iter().enumerate() {
            let (a, b, later) = (theirs.says(own), mine.says(own), theirs.nth > mine.nth);
            let first = ROWS.iter().position(|r| r.holds(a, b, later));
            assert_eq!(first, Some(i), "{a:?} {b:?} {later}");
            assert_eq!(theirs.judge(own, mine), ROWS[i].then, "row {i}");
        }
        assert_eq!(never.judge(own, record(8, 1, 1, None)), Judgement::TakesPart, "nobody ever told of a log");
        assert_eq!(record(7, 6, 1, Some(1)).judge(own, never), Judgement::Older, "another life of this log");
    }

    /// The table beside the rule in words: one view that is of this log and not lost is enough, but the
    /// node's own view does not count if theirs has a later number of the same log; and a later log makes
    /// this one a copy from before.
    #[test]
    fn the_table_is_the_rule() {
        let own = &lives(7, 5);
        let logs = [6, 7, 8].map(|log| (log, 5));
        let views = logs.into_iter().flat_map(|(log, age)| {
            (0..4).flat_map(move |nth| [None, Some(1), Some(2), Some(3)].map(|member| record(log, age, nth, member)))
        });
        let views: Vec<LogRecord> = views.collect();
        for theirs in &views {
            for mine in &views {
                let (theirs_own, mine_own) = (theirs.age.log == own.log, mine.age.log == own.log);
                let counts = mine_own && !(theirs_own && theirs.nth > mine.nth);
                let good = theirs_own && !theirs.is_lost() || counts && !mine.is_lost();
                let want = match () {
                    () if theirs.nth == 0 => Judgement::TakesPart,
                    () if !theirs_own && mine_own && theirs.nth > mine.nth => Judgement::Older,
                    () if good => Judgement::TakesPart,
                    () => Judgement::Waits,
                };
                assert_eq!(theirs.judge(own, *mine), want, "{theirs:?} {mine:?}");
            }
        }
    }

    #[test]
    fn what_a_log_that_is_gone_has_sent_is_not_heard() {
        let record = LogRecord { age: lives(8, 1).begun(), nth: 2, member: None };
        let from = |log, nth| WhichLog { log: LogId(log), nth };
        assert!(record.is_newer_than(from(7, 1)) && record.is_newer_than(from(7, 0)));
        // The one that is known, a newer one, and a sender that does not tell.
        assert!(
            !record.is_newer_than(from(8, 0)) && !record.is_newer_than(from(9, 3)) && !record.is_newer_than(from(0, 0))
        );
        assert!(!LogRecord::default().is_newer_than(from(7, 1)));
        assert_eq!((lives(8, 1).as_in(record), lives(7, 4).as_in(record)), (from(8, 2), from(7, 0)));
    }

    #[test]
    fn a_copy_is_known_however_often_it_is_started() {
        let mut log = lives(7, 3);
        let mut copy = log.clone();
        log.begin(400);
        copy.begin(401);
        assert!(copy.is_older_than(log.begun()), "the same age, another life");
        copy.begin(501);
        assert!(copy.is_older_than(log.begun()), "a higher age, without the life that was noted");
        assert!(
            !log.is_older_than(log.begun()) && !log.is_older_than(lives(7, 2).begun()) && !log.is_older_than(log.age())
        );
        // What is noted often has no life of its own.
        log.age += 3;
        assert!(lives(7, 3).is_older_than(log.age()) && !log.is_older_than(lives(7, 3).age()));
        // Lives from before those that are kept are believed.
        let old = log.begun();
        (0..100).for_each(|i| log.begin(1000 + i));
        assert!(!log.is_older_than(old));
        assert_eq!(log.starts.len(), STARTS_KEPT);
    }

    #[test]
    fn each_log_of_a_node_has_its_number() {
        let mut r = LogRecord::default();
        r.told(&OwnLog::default());
        assert_eq!(r.nth, 0);
        r.told(&lives(7, 3));
        r.told(&lives(7, 2));
        assert_eq!((r.nth, r.age), (1, lives(7, 3).begun()), "an older one says nothing");
        r.member = Some(1);
        r.told(&lives(8, 1));
        assert_eq!((r.nth, r.age, r.is_lost()), (2, lives(8, 1).begun(), true));
    }
}
