//! Which version of the envelope a command needs, and what of it an older version can say (decisions/0035, 0048).
//!
//! What it promises: a command that [`Command::at`] returns has nothing in it that came after that version. What a
//! command does, it does not decide; that is [`crate::apply`]'s.

use super::{Command, ShardStep};

impl ShardStep {
    /// The first envelope version that can say this.
    fn since(&self) -> u32 {
        match self {
            ShardStep::Drop { reasons, .. } if !reasons.is_empty() => 3,
            _ => 2,
        }
    }

    fn forget_reasons(&mut self) {
        if let ShardStep::Drop { reasons, .. } = self {
            reasons.clear();
        }
    }
}

impl Command {
    /// The first envelope version that can say this.
    pub fn since(&self) -> u32 {
        match self {
            Command::RenameVolume { .. } | Command::Mute { .. } | Command::Unmute { .. } => 3,
            Command::Drop { reasons, .. } if !reasons.is_empty() => 3,
            Command::SetDiskState { fault: Some(_), .. } => 3,
            Command::Together { changes, .. } => changes.iter().map(|c| c.what.since()).max().unwrap_or(2),
            Command::ReplaceUnmade { .. } | Command::RaiseVersion { .. } => 2,
            _ => 1,
        }
    }

    /// The same command as a cluster of this version can be told it: what only says more is left out. A command that is
    /// new as a whole stays, and is refused when it is applied.
    pub fn at(mut self, version: u32) -> Command {
        if version < 3 {
            match &mut self {
                Command::Drop { reasons, .. } => reasons.clear(),
                Command::Together { changes, .. } => changes.iter_mut().for_each(|c| c.what.forget_reasons()),
                Command::SetDiskState { fault, .. } => *fault = None,
                _ => {}
            }
        }
        self
    }
}
