//! [`Records`]: all records of one kind, by their ids, with everything that is looked up in them.
//!
//! What it promises: the indices agree with the records, because a record changes only through
//! [`Records::insert`], [`Records::update`] and [`Records::remove`], each of which costs O(log n) and what
//! the record itself is large. Clones share all records. In JSON it is a map of ids to records; indices are
//! not stored, they are made anew on load.

use crate::cow::{CowMap, Iter};
use hf_policy::{broken, invariant};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Index;
use std::sync::Arc;

/// What [`Records`] asks of a record.
pub trait Record: Clone + PartialEq + Serialize + for<'de> Deserialize<'de> {
    /// Its id, unique among records of the kind.
    type Key: Copy + Ord + fmt::Debug + fmt::Display + Serialize + for<'de> Deserialize<'de>;
    /// What can be looked up beside the id.
    type Index: Clone + Default + PartialEq + fmt::Debug;
    /// The kind in words, for errors.
    const KIND: &'static str;

    /// The id of this record.
    fn key(&self) -> Self::Key;
    /// The revision of the cluster's state that changed it last.
    fn rev(&self) -> u64;
    /// A record takes the place of another one of the same id, comes (no `old`) or goes (no `new`).
    fn index(index: &mut Self::Index, old: Option<&Self>, new: Option<&Self>);
}

/// One key of an index takes the place of another one; nothing happens if they are equal.
pub(crate) fn replace<K: Ord + Clone>(index: &mut CowMap<K, ()>, old: Option<K>, new: Option<K>) {
    if old == new {
        return; // Lawful: most changes of a record leave alone what it is found by.
    }
    if let Some(old) = old {
        let listed = index.remove(&old);
        invariant!(listed.is_some(), "an index does not list a record that is there");
    }
    if let Some(new) = new {
        index.insert(new, ());
    }
}

/// All records of one kind.
pub struct Records<T: Record> {
    all: CowMap<T::Key, Arc<T>>,
    by_rev: CowMap<(u64, T::Key), ()>,
    index: T::Index,
}

impl<T: Record> Records<T> {
    /// A record by its id.
    pub fn get(&self, key: &T::Key) -> Option<&Arc<T>> {
        self.all.get(key)
    }

    /// Is there a record of this id?
    pub fn contains_key(&self, key: &T::Key) -> bool {
        self.all.contains_key(key)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Is no record there?
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All ids, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &T::Key> + ExactSizeIterator {
        self.all.keys()
    }

    /// All records, in the order of their ids.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Arc<T>> + ExactSizeIterator {
        self.all.values()
    }

    /// Records that were changed after revision `rev`, in the order of their ids. Costs what changed.
    pub fn changed_since(&self, rev: u64) -> Vec<Arc<T>> {
        // No id is less than that of the first record, so this is where the records of the next revision begin.
        let Some(least) = self.all.keys().next() else { return Vec::new() };
        let newer = self.by_rev.range_from(&(rev.saturating_add(1), *least)).map(|((_, key), ())| key);
        let mut keys: Vec<T::Key> = newer.copied().collect();
        keys.sort_unstable();
        keys.iter().filter_map(|k| self.all.get(k).cloned()).collect()
    }

    /// Puts a record in. Returns the one whose place it takes.
    pub fn insert(&mut self, record: impl Into<Arc<T>>) -> Option<Arc<T>> {
        let new = record.into();
        let old = self.all.insert(new.key(), new.clone());
        T::index(&mut self.index, old.as_deref(), Some(&new));
        if let Some(old) = &old {
            let listed = self.by_rev.remove(&(old.rev(), old.key()));
            invariant!(listed.is_some(), "{} {} is not listed under its revision", T::KIND, old.key());
        }
        self.by_rev.insert((new.rev(), new.key()), ());
        old
    }

    /// Changes a record in place, if it is there. Its id must stay.
    pub fn update<R>(&mut self, key: &T::Key, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut record = T::clone(self.all.get(key)?);
        let done = change(&mut record);
        if record.key() != *key {
            broken!("{} {key} was given another id, {}", T::KIND, record.key());
            return None;
        }
        self.insert(record);
        Some(done)
    }

    /// Changes every record in place. Their ids must stay.
    pub fn update_all(&mut self, mut change: impl FnMut(&mut T)) {
        let keys: Vec<T::Key> = self.keys().copied().collect();
        for key in &keys {
            self.update(key, &mut change);
        }
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        *self = Records::default();
    }

    /// Takes out every record that is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let gone: Vec<T::Key> = self.values().filter(|r| !keep(r)).map(|r| r.key()).collect();
        gone.iter().for_each(|k| drop(self.remove(k)));
    }

    /// Takes a record out.
    pub fn remove(&mut self, key: &T::Key) -> Option<Arc<T>> {
        let old = self.all.remove(key)?;
        T::index(&mut self.index, Some(&old), None);
        let listed = self.by_rev.remove(&(old.rev(), *key));
        invariant!(listed.is_some(), "{} {key} is not listed under its revision", T::KIND);
        Some(old)
    }

    /// What can be looked up beside the id.
    pub(crate) fn index(&self) -> &T::Index {
        &self.index
    }

    /// Checks that the indices agree with the records; walks all of them.
    pub fn check(&self) -> Result<(), String> {
        let mut again = T::Index::default();
        for (key, r) in self.all.iter() {
            if r.key() != *key {
                return Err(format!("{} {} stands under {key}", T::KIND, r.key()));
            }
            if !self.by_rev.contains_key(&(r.rev(), *key)) {
                return Err(format!("{} {key} is not listed under revision {}", T::KIND, r.rev()));
            }
            T::index(&mut again, None, Some(r));
        }
        if self.by_rev.len() != self.all.len() {
            return Err(format!("{} of kind {} are listed by revision", self.by_rev.len(), T::KIND));
        }
        if again != self.index {
            return Err(format!("the index of kind {} is not that of its records", T::KIND));
        }
        self.all.check().and(self.by_rev.check())
    }
}

impl<T: Record> Clone for Records<T> {
    fn clone(&self) -> Self {
        Records { all: self.all.clone(), by_rev: self.by_rev.clone(), index: self.index.clone() }
    }
}

impl<T: Record> Default for Records<T> {
    fn default() -> Self {
        Records { all: CowMap::new(), by_rev: CowMap::new(), index: T::Index::default() }
    }
}

impl<T: Record> PartialEq for Records<T> {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl<T: Record + Eq> Eq for Records<T> {}

impl<T: Record + fmt::Debug> fmt::Debug for Records<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
    }
}

impl<T: Record> Index<&T::Key> for Records<T> {
    type Output = T;
    /// For tests; panics without a record of this id, as the standard maps do.
    #[allow(clippy::panic)]
    fn index(&self, key: &T::Key) -> &T {
        match self.get(key) {
            Some(r) => r,
            None => panic!("no {} {key}", T::KIND),
        }
    }
}

impl<'a, T: Record> IntoIterator for &'a Records<T> {
    type Item = (&'a T::Key, &'a Arc<T>);
    type IntoIter = Iter<'a, T::Key, Arc<T>>;
    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl<T: Record> FromIterator<T> for Records<T> {
    fn from_iter<I: IntoIterator<Item = T>>(records: I) -> Self {
        let mut all = Records::default();
        records.into_iter().for_each(|r| drop(all.insert(r)));
        all
    }
}

impl<T: Record> Serialize for Records<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.all.iter().map(|(k, r)| (k, &**r)))
    }
}

impl<'de, T: Record> Deserialize<'de> for Records<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct All<T>(PhantomData<T>);
        impl<'de, T: Record> Visitor<'de> for All<T> {
            type Value = Records<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "records of kind {} by id", T::KIND)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Records<T>, A::Error> {
                let mut all = Records::default();
                while let Some((key, record)) = entries.next_entry::<T::Key, T>()? {
                    if record.key() != key {
                        return Err(A::Error::custom(format!("{} {} stands under {key}", T::KIND, record.key())));
                    }
                    all.insert(record);
                }
                Ok(all)
            }
        }
        d.deserialize_map(All(PhantomData))
    }
}

/// A list of shared records in JSON: the records themselves.
pub(crate) mod shared {
    use super::*;

    pub(crate) fn serialize<T: Serialize, S: Serializer>(list: &[Arc<T>], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(list.iter().map(|r| &**r))
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<T>::deserialize(d)?.into_iter().map(Arc::new).collect())
    }
}
