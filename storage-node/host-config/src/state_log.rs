//! A log of states instead of occurrences: something that goes wrong again and again is told when it begins or changes,
//! and then, with how often it happened, after 1, 10 and 60 minutes and each hour.
//!
//! It promises two bounds: a kind of trouble writes at most [`MOST_LINES`] lines in [`WINDOW_MS`], however many
//! things it concerns and however often each changes; and at most [`MOST_STATES`] states are remembered. What is not
//! written is counted and told later. It is for what repeats; what happens once belongs into the log directly.

use crate::clock::now;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// States that are remembered at once, at most; the one not met for the longest time is forgotten for another.
pub const MOST_STATES: usize = 1_024;
/// Lines that one kind may write in a window.
pub const MOST_LINES: u32 = 40;
/// Length of such a window, milliseconds.
pub const WINDOW_MS: u64 = 10 * MINUTE;
const MINUTE: u64 = 60_000;
/// A state that is met again after this time begins anew, milliseconds.
const FORGOTTEN_MS: u64 = 10 * MINUTE;

/// What is wrong with one thing.
struct State {
    text: String,
    since: u64,
    last: u64,
    times: u64,
    /// When it is told again, if it goes on.
    again: u64,
    /// Lines about it were written.
    written: bool,
}

/// What a kind of trouble has written.
#[derive(Default)]
struct Written {
    window: u64,
    lines: u32,
    withheld: u64,
}

/// The states; its caller tells the time.
#[derive(Default)]
pub struct States {
    states: BTreeMap<(&'static str, String), State>,
    kinds: BTreeMap<&'static str, Written>,
}

/// The pause after the line that is told after this time: to the marks at 1, 10 and 60 minutes, then hourly.
fn next_mark(since: u64, now: u64) -> u64 {
    let marks = [MINUTE, 10 * MINUTE, 60 * MINUTE];
    let age = now - since;
    since + marks.into_iter().find(|m| *m > age).unwrap_or((age / (60 * MINUTE) + 1) * 60 * MINUTE)
}

fn seconds(ms: u64) -> String {
    match ms / 1_000 {
        s if s >= 120 => format!("{} minutes", s / 60),
        s => format!("{s} s"),
    }
}

impl States {
    /// Something of this kind is wrong with `thing`, at `now` milliseconds. Returns the line to be written, if any.
    pub fn met(&mut self, kind: &'static str, thing: &str, text: &str, now: u64) -> Option<String> {
        let key = (kind, thing.to_string());
        let line = match self.states.get_mut(&key).filter(|s| now.saturating_sub(s.last) < FORGOTTEN_MS) {
            Some(s) if s.text == text => {
                (s.last, s.times) = (now, s.times + 1);
                if now < s.again {
                    return None;
                }
                s.again = next_mark(s.since, now);
                format!("{text} ({} times in {}, and it goes on)", s.times, seconds(now - s.since))
            }
            _ => {
                let again = now + MINUTE;
                let new = State { text: text.into(), since: now, last: now, times: 1, again, written: false };
                self.states.insert(key.clone(), new);
                self.forget_oldest();
                text.to_string()
            }
        };
        let line = self.count(kind, line, now)?;
        if let Some(s) = self.states.get_mut(&key) {
            s.written = true;
        }
        Some(line)
    }

    /// Nothing of this kind is wrong with `thing` any more. Returns the line to be written, if any.
    pub fn over(&mut self, kind: &'static str, thing: &str, now: u64) -> Option<String> {
        if self.states.is_empty() {
            return None;
        }
        let s = self.states.remove(&(kind, thing.to_string())).filter(|s| s.written)?;
        let line = format!("over, after {} times in {}: {}", s.times, seconds(now.saturating_sub(s.since)), s.text);
        self.count(kind, line, now)
    }

    /// The line, if its kind may still write one.
    fn count(&mut self, kind: &'static str, line: String, now: u64) -> Option<String> {
        let k = self.kinds.entry(kind).or_default();
        if k.lines == 0 || now.saturating_sub(k.window) >= WINDOW_MS {
            (k.window, k.lines) = (now, 0);
        }
        if k.lines >= MOST_LINES {
            k.withheld += 1;
            return None;
        }
        k.lines += 1;
        let last = k.lines == MOST_LINES;
        let withheld = std::mem::take(&mut k.withheld);
        let before = if withheld > 0 { format!(" ({withheld} lines like it were not written)") } else { String::new() };
        let after = if last { " (no more lines like it for some minutes)" } else { "" };
        Some(format!("{line}{before}{after}"))
    }

    fn forget_oldest(&mut self) {
        if self.states.len() > MOST_STATES
            && let Some(oldest) = self.states.iter().min_by_key(|(_, s)| s.last).map(|(k, _)| k.clone())
        {
            self.states.remove(&oldest);
        }
    }
}

/// The states of a process, by its clock.
#[derive(Default)]
pub struct StateLog(Mutex<States>);

impl StateLog {
    fn with(&self, f: impl FnOnce(&mut States, u64) -> Option<String>) -> Option<String> {
        self.0.lock().ok().and_then(|mut s| f(&mut s, now().0 / 1_000))
    }

    /// Something of this kind is wrong with `thing`: an error that a person has to see to.
    pub fn error(&self, kind: &'static str, thing: &str, text: &str) {
        if let Some(line) = self.with(|s, now| s.met(kind, thing, text, now)) {
            tracing::error!(kind, thing, "{line}");
        }
    }

    /// The same, as a warning.
    pub fn warn(&self, kind: &'static str, thing: &str, text: &str) {
        if let Some(line) = self.with(|s, now| s.met(kind, thing, text, now)) {
            tracing::warn!(kind, thing, "{line}");
        }
    }

    /// The same, for who wants to know.
    pub fn info(&self, kind: &'static str, thing: &str, text: &str) {
        if let Some(line) = self.with(|s, now| s.met(kind, thing, text, now)) {
            tracing::info!(kind, thing, "{line}");
        }
    }

    /// Nothing of this kind is wrong with `thing` any more.
    pub fn over(&self, kind: &'static str, thing: &str) {
        if let Some(line) = self.with(|s, now| s.over(kind, thing, now)) {
            tracing::info!(kind, thing, "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_is_told_at_its_marks() {
        let mut s = States::default();
        let mut lines = Vec::new();
        // Each second for three hours.
        for t in 0..=3 * 3_600 {
            lines.extend(s.met("reserve", "", "no space", t * 1_000).map(|l| (t, l)));
        }
        let at: Vec<u64> = lines.iter().map(|(t, _)| *t).collect();
        assert_eq!(at, [0, 60, 600, 3_600, 7_200, 10_800]);
        assert_eq!(lines[0].1, "no space");
        assert_eq!(lines[1].1, "no space (61 times in 60 s, and it goes on)");
        assert_eq!(lines[3].1, "no space (3601 times in 60 minutes, and it goes on)");
        let over = s.over("reserve", "", 10_801_000);
        assert_eq!(over.as_deref(), Some("over, after 10801 times in 180 minutes: no space"));
        assert_eq!(s.over("reserve", "", 10_802_000), None);
    }

    #[test]
    fn a_change_is_told_at_once_and_things_are_told_apart() {
        let mut s = States::default();
        assert!(s.met("disk", "1", "I/O error", 0).is_some());
        assert!(s.met("disk", "1", "I/O error", 1).is_none());
        assert!(s.met("disk", "1", "it is missing", 2).is_some());
        assert!(s.met("disk", "2", "it is missing", 3).is_some());
        assert!(s.met("link", "2", "it is missing", 3).is_some());
        // Long after it was met last it is news again.
        assert_eq!(s.met("disk", "1", "it is missing", 3 + FORGOTTEN_MS).as_deref(), Some("it is missing"));
    }

    #[test]
    fn no_kind_writes_more_than_its_lines_and_what_is_withheld_is_counted() {
        let mut s = States::default();
        let mut lines = Vec::new();
        for t in 0..WINDOW_MS / 100 {
            // Ten things a second, each with words of its own.
            lines.extend(s.met("replica", &format!("{}", t % 5_000), &format!("no room for {t}"), t * 100));
        }
        assert_eq!(lines.len(), MOST_LINES as usize);
        assert!(lines[MOST_LINES as usize - 1].contains("no more lines like it"), "{lines:?}");
        assert!(s.states.len() <= MOST_STATES);
        assert!(s.met("disk", "1", "another kind is told all the same", 5).is_some());
        let next = s.met("replica", "x", "no room", WINDOW_MS + 1).unwrap_or_default();
        let withheld = WINDOW_MS / 100 - u64::from(MOST_LINES);
        assert_eq!(next, format!("no room ({withheld} lines like it were not written)"));
    }

    #[test]
    fn a_state_that_was_never_written_ends_in_silence() {
        let mut s = States::default();
        for i in 0..=MOST_LINES {
            s.met("replica", &i.to_string(), "no room", 0);
        }
        assert_eq!(s.over("replica", &MOST_LINES.to_string(), 5), None);
    }
}
