//! Mutes of health checks: made, changed, ended.

use super::misrouted;
use crate::command::{Command, Envelope};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;

/// A check and its subject, in words.
fn words(code: &str, subject: &str) -> String {
    if subject.is_empty() { code.to_string() } else { format!("{code} of {subject}") }
}

impl ClusterState {
    /// The mutes that have not ended, but for the one of this code and subject. Returns whether there was that one.
    fn mutes_without(&self, at_ms: u64, code: &str, subject: &str) -> (Vec<Mute>, bool) {
        let going = self.mutes.iter().filter(|m| !m.is_over(at_ms));
        let (same, others): (Vec<&Mute>, Vec<&Mute>) = going.partition(|m| m.code == code && m.subject == subject);
        (others.into_iter().cloned().collect(), !same.is_empty())
    }

    fn put_mutes(&mut self, mutes: Vec<Mute>) {
        self.mutes = mutes.into_iter().collect();
        self.mutes_rev = self.revision;
    }

    pub(super) fn mute(&mut self, env: &Envelope) -> Outcome {
        let Command::Mute { code, subject, by, reason, until_ms, sticky, count } = &env.cmd else {
            return misrouted(env);
        };
        let mute = Mute {
            code: code.clone(),
            subject: subject.clone(),
            by: by.clone(),
            reason: reason.clone(),
            at_ms: env.at_ms,
            until_ms: *until_ms,
            sticky: *sticky,
            count: *count,
        };
        mute.check().map_err(Refusal::Invalid)?;
        let (mut mutes, _) = self.mutes_without(env.at_ms, code, subject);
        if mutes.len() >= MUTES_KEPT {
            return Err(Refusal::State(format!(
                "{MUTES_KEPT} health checks are muted already, as many as can be: end some of the mutes first"
            )));
        }
        mutes.push(mute);
        self.put_mutes(mutes);
        let what = words(code, subject);
        let text = format!("{what} is muted by {by}: {reason}");
        self.event(env.at_ms, EventKind::HealthMuted, what, text);
        Ok(Reply::Done)
    }

    pub(super) fn unmute(&mut self, at_ms: u64, code: &str, subject: &str) -> Outcome {
        let what = words(code, subject);
        let (mutes, there) = self.mutes_without(at_ms, code, subject);
        if !there {
            return Err(Refusal::NotFound { kind: "mute".into(), name: what });
        }
        self.put_mutes(mutes);
        self.event(at_ms, EventKind::HealthUnmuted, what.clone(), format!("{what} is not muted any more"));
        Ok(Reply::Done)
    }
}
