//! What one client has not read yet. Changes of a resource that came while it did not read become one.

use super::key::{Change, Key, Kinds};
use super::position::Reset;
use std::collections::BTreeMap;

/// Changes that one client may leave unread. With more it must list anew: that costs less than to send them all.
pub const MOST_UNREAD: usize = 256;

/// What one client has not read yet, in the order of positions.
///
/// Of each resource there is one change, and one for each name that is gone, each at its last place. So when a client
/// has read a change, it has read, or will read, everything before it, and may come back with that position.
#[derive(Clone, Debug)]
pub struct Subscriber {
    kinds: Kinds,
    unread: BTreeMap<u64, (Key, Option<String>)>,
    places: BTreeMap<(Key, Option<String>), (u64, u64)>,
    most: usize,
    lost: bool,
}

impl Subscriber {
    /// A client that watches these kinds, and begins with what [`super::Hub::since`] or
    /// [`super::Hub::after_revision`] gave; that does not count as left unread.
    pub fn new(kinds: Kinds, first: &[Change]) -> Subscriber {
        let mut s = Subscriber {
            kinds,
            unread: BTreeMap::new(),
            places: BTreeMap::new(),
            most: MOST_UNREAD + first.len(),
            lost: false,
        };
        s.add(first);
        s
    }

    /// Adds changes, which must be behind all that were added before.
    pub fn add(&mut self, changes: &[Change]) {
        let kinds = self.kinds;
        for c in changes.iter().filter(|c| kinds.has(c.key.kind())) {
            if self.lost {
                return; // Lawful: it must list anew, so nothing that comes meanwhile matters.
            }
            if c.gone.is_some() {
                self.remove(&(c.key, None)); // There is nothing to show any more, or a change behind shows it.
            }
            let what = (c.key, c.gone.clone());
            self.remove(&what);
            self.places.insert(what.clone(), (c.at, c.rev));
            self.unread.insert(c.at, what);
            if self.unread.len() > self.most {
                self.lost = true;
                self.unread.clear();
                self.places.clear();
            }
        }
    }

    fn remove(&mut self, what: &(Key, Option<String>)) {
        if let Some((at, _)) = self.places.remove(what) {
            self.unread.remove(&at);
        }
    }

    /// Takes the next change, if there is one. The error says that the client must list anew, and stays.
    pub fn take(&mut self) -> Result<Option<Change>, Reset> {
        if self.lost {
            return Err(Reset::TooSlow);
        }
        let Some((at, what)) = self.unread.pop_first() else {
            self.most = MOST_UNREAD;
            return Ok(None);
        };
        let rev = self.places.remove(&what).map_or(0, |(_, rev)| rev);
        let (key, gone) = what;
        Ok(Some(Change { key, gone, at, rev }))
    }

    /// Number of changes that are unread.
    pub fn len(&self) -> usize {
        self.unread.len()
    }

    /// Is nothing unread?
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty() && !self.lost
    }
}
