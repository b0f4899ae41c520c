//! The newest revision of the record that the leader has told this node.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// After this time without an answer of the leader, the revision is unknown.
const UNHEARD: Duration = Duration::from_secs(10);

/// The revision that the leader has told last, and when.
pub struct Told(Mutex<Option<(u64, Instant)>>, Instant);

impl Default for Told {
    fn default() -> Told {
        Told(Mutex::default(), Instant::now())
    }
}

impl Told {
    /// Notes an answer of the leader.
    pub fn says(&self, revision: u64) {
        if let Ok(mut t) = self.0.lock() {
            *t = Some((revision, Instant::now()));
        }
    }

    /// How long ago the leader was heard last; since the node began if it never was.
    pub fn age(&self) -> Duration {
        let told = self.0.lock().ok().and_then(|t| *t);
        told.map_or_else(|| self.1.elapsed(), |(_, at)| at.elapsed())
    }

    /// Whether `revision` is at least what the leader told within [`UNHEARD`].
    pub fn is_all(&self, revision: u64) -> bool {
        let told = self.0.lock().ok().and_then(|t| *t);
        told.is_some_and(|(newest, at)| newest <= revision && at.elapsed() < UNHEARD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_says_nothing_is_left_when_the_leader_has_more_or_is_silent() {
        let told = Told::default();
        assert!(!told.is_all(7), "nobody has said what there is");
        told.says(7);
        assert!(told.is_all(7) && told.is_all(8));
        told.says(9);
        assert!(!told.is_all(8));
    }
}
