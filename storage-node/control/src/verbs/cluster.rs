//! Settings of the whole cluster, and health mutes.

use super::decide::{Call, decide};
use super::{done, state};
use crate::access::Verb;
use crate::error::{Code, Problem};
use crate::model::{NewMute, Outcome, Voters};
use crate::ports::Ports;
use hf_meta_core::Command;
use hf_meta_core::command::COMMAND_VERSION;

/// Moves replicas from full disks to empty ones, until that no longer helps.
pub async fn rebalance<P: Ports>(p: &P, call: &Call) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::ClusterChange, |_| Ok(Command::Rebalance { on: true })).await?;
    Ok(done(&d, "replicas move from full disks to empty ones; watch it with holdfast job list"))
}

/// Sets how many nodes vote on metadata.
pub async fn voters<P: Ports>(p: &P, call: &Call, input: &Voters) -> Result<Outcome, Problem> {
    if ![1, 3, 5].contains(&input.count) {
        return Err(Problem::new(Code::Invalid, format!("{} voters", input.count))
            .because("an even number survives no more losses than the odd one below it, and more than 5 only cost time")
            .so("choose 1, 3 or 5")
            .at("/count"));
    }
    let n = input.count as usize;
    let d = decide(p, call, Verb::ClusterChange, |_| Ok(Command::SetVoters { voters: n })).await?;
    Ok(done(&d, format!("{n} nodes vote as soon as that many are there")))
}

/// Raises the version by which the record is written to the newest that every node knows. There is no way back.
pub async fn finalize<P: Ports>(p: &P, call: &Call) -> Result<Outcome, Problem> {
    let mut to = 0;
    let d = decide(p, call, Verb::ClusterFinalize, |s| match s.version < COMMAND_VERSION {
        true => {
            to = s.version + 1;
            Ok(Command::RaiseVersion { to })
        }
        false => {
            Err(state(format!("the record has version {} already, the newest that this release knows", s.version)))
        }
    })
    .await?;
    let version = if d.dry_run { to } else { p.view().version };
    Ok(done(&d, format!("the record has version {version} now")))
}

/// Silences a health code for a while. `subjects`: how many have the code now.
pub async fn mute<P: Ports>(p: &P, call: &Call, input: &NewMute, subjects: u64) -> Result<Outcome, Problem> {
    const YEAR: u64 = 365 * 86_400;
    if input.for_seconds == 0 || input.for_seconds > YEAR {
        let what = format!("for_seconds = {} is not from 1 to {YEAR}", input.for_seconds);
        return Err(Problem::new(Code::Invalid, what).at("/for_seconds"));
    }
    let until_ms = p.wall_ms() + input.for_seconds * 1000;
    let d = decide(p, call, Verb::HealthMute, |_| {
        Ok(Command::Mute {
            code: input.code.clone(),
            subject: input.subject.clone().unwrap_or_default(),
            by: call.caller.name.clone(),
            reason: input.reason.clone(),
            until_ms,
            sticky: input.sticky,
            count: subjects,
        })
    })
    .await?;
    Ok(done(&d, format!("{} is silenced", input.code)))
}

/// Ends a silence.
pub async fn unmute<P: Ports>(p: &P, call: &Call, code: &str, subject: &str) -> Result<Outcome, Problem> {
    let d = decide(p, call, Verb::HealthMute, |_| Ok(Command::Unmute { code: code.into(), subject: subject.into() }))
        .await?;
    Ok(done(&d, format!("{code} is heard again")))
}
