//! Places in a hub's stream of changes, as clients hold them, and why a client must list anew.

use crate::error::{Code, Problem};
use std::fmt;

/// A place in the stream of one hub: everything up to it was read. To clients it is an opaque text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number that the hub drew when it began. Another hub's places mean nothing to it.
    pub boot: u64,
    /// The place of the last change that was read.
    pub at: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.boot, self.at)
    }
}

impl Position {
    /// The place that a text stands for. Only what [`Position`] itself wrote is taken.
    pub fn parse(text: &str) -> Result<Position, Problem> {
        let parts = text.split_once('-').filter(|(boot, _)| boot.len() == 16);
        let read = parts
            .and_then(|(boot, at)| Some(Position { boot: u64::from_str_radix(boot, 16).ok()?, at: at.parse().ok()? }));
        read.filter(|p| p.to_string() == text).ok_or_else(|| {
            Problem::new(Code::Invalid, "the watch position is none that this cluster gave")
                .so("give the id of the last message, or leave it out and give after=REVISION of a list")
                .at("Last-Event-ID")
        })
    }
}

/// A client cannot go on from where it was: it must list anew, and watch from that list's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reset {
    /// Another hub gave the position: another node leads now, or the leader's process is a new one.
    #[error("another leader gave this position")]
    OtherLeader,
    /// What happened since is not kept any more, or was never noticed here.
    #[error("what has changed since then is not known any more")]
    TooOld,
    /// This hub has not come to this position yet, so it did not give it.
    #[error("no message had this position yet")]
    NotYet,
    /// The client left too many changes unread.
    #[error("more changes were left unread than are kept for one client")]
    TooSlow,
}

impl From<Reset> for Problem {
    fn from(why: Reset) -> Problem {
        Problem::new(Code::Gone, "the watch cannot go on from where it was")
            .because(why.to_string())
            .so("list anew, then watch from that list's revision")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_hub_wrote_is_a_position() {
        for p in [Position { boot: 0, at: 0 }, Position { boot: u64::MAX, at: u64::MAX }, Position { boot: 7, at: 12 }]
        {
            assert_eq!(Position::parse(&p.to_string()), Ok(p));
        }
        let long = "9".repeat(10_000);
        for forged in [
            "",
            "-",
            "7-1",
            "0000000000000007",
            "0000000000000007-",
            "0000000000000007-+1",
            "0000000000000007-01",
            "000000000000000G-1",
            "000000000000000A-1",
            "+000000000000007-1",
            "0000000000000007--1",
            "ü00000000000007-1",
            "0000000000000007-18446744073709551616",
            "0000000000000007-1 ",
            &long,
        ] {
            assert_eq!(Position::parse(forged).unwrap_err().code, Code::Invalid, "{forged}");
        }
        assert_eq!(Problem::from(Reset::TooOld).code, Code::Gone);
    }
}
