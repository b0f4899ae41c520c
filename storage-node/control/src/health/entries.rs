//! The codes that hold or held lately, each with its place between "just found" and "cleared".
//!
//! A code that is found waits for its dwell and is raised; one that is not found any more waits for twice its
//! dwell and is cleared. Nothing here looks at the cluster.

use super::checks::Findings;
use super::table::{HealthCode, TABLE};
use crate::watch::Key;
use std::collections::{BTreeMap, BTreeSet};

/// A code that is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert<'a> {
    /// The code that is raised.
    pub code: HealthCode,
    /// What it is about.
    pub key: Key,
    /// The same as text, such as `volume/web`.
    pub subject: &'a str,
    /// The evidence, in a sentence.
    pub message: &'a str,
    /// Since when it holds, Unix milliseconds.
    pub since_ms: u64,
    /// It is silenced.
    pub muted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It holds, and is raised when it still does at this monotonic millisecond.
    Waits(u64),
    /// It is raised.
    Raised,
    /// It is raised, does not hold any more, and is cleared if that is still so at this monotonic millisecond.
    Fades(u64),
}

#[derive(Debug)]
pub(super) struct Entry {
    phase: Phase,
    /// Wall clock at which it was found, Unix milliseconds.
    pub since_ms: u64,
    pub message: String,
}

/// What is raised or cleared, or says something else now.
pub(super) type Flipped = Vec<(HealthCode, Key)>;

/// All codes that hold or held lately.
#[derive(Default)]
pub(super) struct Entries {
    all: BTreeMap<(Key, HealthCode), Entry>,
    due: BTreeSet<(u64, Key, HealthCode)>,
    raised: BTreeMap<HealthCode, BTreeSet<Key>>,
    /// The subject's text, of each resource that has an entry, and the way back.
    texts: BTreeMap<Key, String>,
    keys: BTreeMap<String, Key>,
}

/// Every code of one resource.
fn of(key: Key) -> std::ops::RangeInclusive<(Key, HealthCode)> {
    (key, TABLE[0].code)..=(key, TABLE[TABLE.len() - 1].code)
}

impl Entries {
    /// Takes what a check found about a resource. `most`: a new code is left out when there are as many entries.
    pub fn found(&mut self, key: Key, text: &str, f: Findings, now: (u64, u64), most: usize, flips: &mut Flipped) {
        if f.list.is_empty() && !self.texts.contains_key(&key) {
            return; // Lawful: most resources are well and were so before.
        }
        let there: Vec<HealthCode> = self.all.range(of(key)).map(|((_, code), _)| *code).collect();
        for code in there.into_iter().filter(|c| !f.list.iter().any(|x| x.code == *c)) {
            match f.sure {
                true => self.ceases(key, code, now.0, flips),
                false => self.is_doubtful(key, code),
            }
        }
        for x in f.list {
            self.holds(key, x.code, x.message, now, most, flips);
        }
        self.named(key, text);
    }

    /// Forgets everything about a resource that is not there any more.
    pub fn gone(&mut self, key: Key, flips: &mut Flipped) {
        let codes: Vec<HealthCode> = self.all.range(of(key)).map(|((_, code), _)| *code).collect();
        for code in codes {
            self.remove(key, code, flips);
        }
        self.named(key, "");
    }

    /// Keeps the text of a resource as long as it has entries.
    fn named(&mut self, key: Key, text: &str) {
        let there = self.all.range(of(key)).next().is_some();
        if there && self.texts.get(&key).is_some_and(|t| t == text) {
            return;
        }
        if let Some(old) = self.texts.remove(&key)
            && self.keys.get(&old) == Some(&key)
        {
            self.keys.remove(&old);
        }
        if there {
            self.texts.insert(key, text.into());
            self.keys.insert(text.into(), key);
        }
    }

    fn holds(
        &mut self,
        key: Key,
        code: HealthCode,
        message: String,
        now: (u64, u64),
        most: usize,
        flips: &mut Flipped,
    ) {
        let full = self.all.len() >= most;
        match self.all.get_mut(&(key, code)) {
            Some(e) => {
                if let Phase::Fades(at) = e.phase {
                    self.due.remove(&(at, key, code));
                    e.phase = Phase::Raised;
                }
                if e.message != message {
                    e.message = message;
                    if e.phase == Phase::Raised {
                        flips.push((code, key));
                    }
                }
            }
            None if full => {} // As many are kept as can be; the others have long been told of.
            None => {
                let at = now.0.saturating_add(code.row().dwell_ms);
                self.all.insert((key, code), Entry { phase: Phase::Waits(at), since_ms: now.1, message });
                match code.row().dwell_ms {
                    0 => self.raise(key, code, flips),
                    _ => drop(self.due.insert((at, key, code))),
                }
            }
        }
    }

    fn ceases(&mut self, key: Key, code: HealthCode, now_ms: u64, flips: &mut Flipped) {
        let dwell = code.row().dwell_ms;
        let Some(e) = self.all.get_mut(&(key, code)) else { return };
        match e.phase {
            Phase::Raised if dwell > 0 => {
                let at = now_ms.saturating_add(2 * dwell);
                e.phase = Phase::Fades(at);
                self.due.insert((at, key, code));
            }
            Phase::Fades(_) => {}
            Phase::Waits(_) | Phase::Raised => self.remove(key, code, flips),
        }
    }

    /// There is no evidence for a code, nor against it: what waits to be raised begins its wait anew when it is
    /// found again, and what is raised stays so.
    fn is_doubtful(&mut self, key: Key, code: HealthCode) {
        if let Some(Entry { phase: Phase::Waits(at), .. }) = self.all.get(&(key, code)) {
            self.due.remove(&(*at, key, code));
            self.all.remove(&(key, code));
        }
    }

    fn raise(&mut self, key: Key, code: HealthCode, flips: &mut Flipped) {
        if let Some(e) = self.all.get_mut(&(key, code)) {
            e.phase = Phase::Raised;
            self.raised.entry(code).or_default().insert(key);
            flips.push((code, key));
        }
    }

    fn remove(&mut self, key: Key, code: HealthCode, flips: &mut Flipped) {
        let Some(e) = self.all.remove(&(key, code)) else { return };
        if let Phase::Waits(at) | Phase::Fades(at) = e.phase {
            self.due.remove(&(at, key, code));
        }
        if let Some(keys) = self.raised.get_mut(&code)
            && keys.remove(&key)
        {
            flips.push((code, key));
            if keys.is_empty() {
                self.raised.remove(&code);
            }
        }
    }

    /// Resources of which a code's wait is over.
    pub fn due(&self, now_ms: u64) -> BTreeSet<Key> {
        self.due.iter().take_while(|(at, ..)| *at <= now_ms).map(|(_, key, _)| *key).collect()
    }

    /// The waits of this resource that are over end. Its check has just run, with fresh evidence for everything
    /// (`sure`) or not: what waits to be raised was found by it, and nothing is cleared without evidence.
    pub fn end_waits(&mut self, key: Key, sure: bool, now_ms: u64, flips: &mut Flipped) {
        let list: Vec<(HealthCode, Phase)> = self.all.range(of(key)).map(|((_, c), e)| (*c, e.phase)).collect();
        for (code, phase) in list {
            match phase {
                Phase::Waits(at) if at <= now_ms => {
                    self.due.remove(&(at, key, code));
                    self.raise(key, code, flips);
                }
                Phase::Fades(at) if at <= now_ms && sure => self.remove(key, code, flips),
                Phase::Fades(at) if at <= now_ms => self.postpone(key, code, at, now_ms),
                Phase::Waits(_) | Phase::Fades(_) | Phase::Raised => {}
            }
        }
        if let Some(text) = self.texts.get(&key).cloned() {
            self.named(key, &text);
        }
    }

    fn postpone(&mut self, key: Key, code: HealthCode, at: u64, now_ms: u64) {
        let later = now_ms.saturating_add(1_000);
        if let Some(e) = self.all.get_mut(&(key, code)) {
            e.phase = Phase::Fades(later);
            self.due.remove(&(at, key, code));
            self.due.insert((later, key, code));
        }
    }

    /// Every resource that has an entry.
    pub fn subjects(&self) -> impl Iterator<Item = Key> + '_ {
        self.texts.keys().copied()
    }

    /// Number of entries, those that wait included.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What is raised, by code.
    pub fn raised(&self) -> &BTreeMap<HealthCode, BTreeSet<Key>> {
        &self.raised
    }

    /// How many resources a code is raised about.
    pub fn count(&self, code: HealthCode) -> u64 {
        self.raised.get(&code).map_or(0, |keys| keys.len() as u64)
    }

    /// The resource of a text that has entries.
    pub fn key(&self, text: &str) -> Option<Key> {
        self.keys.get(text).copied()
    }

    /// The text of a resource that has entries.
    pub fn text(&self, key: Key) -> &str {
        self.texts.get(&key).map_or("", String::as_str)
    }

    /// The raised codes of a resource.
    pub fn about(&self, key: Key) -> impl Iterator<Item = (HealthCode, &Entry)> {
        let raised = self.all.range(of(key)).filter(|(_, e)| !matches!(e.phase, Phase::Waits(_)));
        raised.map(|((_, code), e)| (*code, e))
    }

    /// A code of a resource.
    pub fn get(&self, key: Key, code: HealthCode) -> Option<&Entry> {
        self.all.get(&(key, code))
    }
}
