//! [`CowQueue`]: first in, first out, with clones that cost nothing.

use super::map::CowMap;
use hf_policy::invariant;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A queue. Its clones share all items with it. In JSON it is an array, the oldest item first.
pub struct CowQueue<T> {
    items: CowMap<u64, Arc<T>>,
    /// The number of the next item; the numbers of items rise without gaps.
    next: u64,
}

impl<T> CowQueue<T> {
    /// A queue without items.
    pub fn new() -> Self {
        CowQueue { items: CowMap::new(), next: 0 }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Is no item in it?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The oldest item.
    pub fn front(&self) -> Option<&T> {
        self.iter().next()
    }

    /// The newest item.
    pub fn back(&self) -> Option<&T> {
        self.iter().next_back()
    }

    /// All items, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items.values().map(|t| &**t)
    }

    /// Puts an item at the end.
    pub fn push_back(&mut self, item: T) {
        let old = self.items.insert(self.next, Arc::new(item));
        invariant!(old.is_none(), "item {} of a queue was there already", self.next);
        self.next += 1;
    }

    /// Takes out the oldest item.
    pub fn pop_front(&mut self) -> Option<Arc<T>> {
        let oldest = self.items.keys().next().copied()?;
        self.items.remove(&oldest)
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        *self = CowQueue::new();
    }
}

impl<T> Extend<T> for CowQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|t| self.push_back(t));
    }
}

impl<T> FromIterator<T> for CowQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut queue = CowQueue::new();
        queue.extend(items);
        queue
    }
}

impl<T> Clone for CowQueue<T> {
    fn clone(&self) -> Self {
        CowQueue { items: self.items.clone(), next: self.next }
    }
}

impl<T> Default for CowQueue<T> {
    fn default() -> Self {
        CowQueue::new()
    }
}

impl<T: PartialEq> PartialEq for CowQueue<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for CowQueue<T> {}

impl<T: fmt::Debug> fmt::Debug for CowQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: Serialize> Serialize for CowQueue<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for CowQueue<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = CowQueue<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut queue = CowQueue::new();
                while let Some(item) = items.next_element()? {
                    queue.push_back(item);
                }
                Ok(queue)
            }
        }
        d.deserialize_seq(Items(PhantomData))
    }
}
