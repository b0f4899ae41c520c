//! A B+ tree under shared nodes: [`CowMap`], an ordered map whose clones cost nothing.
//!
//! All leaves are at the same depth. Each node but the root holds between 1 and [`FULL`] entries; a node with
//! fewer than [`SPARSE`] entries after a removal is joined with a neighbour. A branch keeps for each child a
//! key that is not greater than any key below the child, and greater than every key below the child before
//! it.

use super::iter::{Iter, range_from};
use super::node::{FULL, Node, child_of};
use hf_policy::{broken, invariant};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// An ordered map. Its clones share all nodes with it until one of them changes.
pub struct CowMap<K, V> {
    pub(super) root: Arc<Node<K, V>>,
    len: usize,
}

impl<K, V> CowMap<K, V> {
    /// A map without entries.
    pub fn new() -> Self {
        CowMap { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }

    /// Takes out everything.
    pub fn clear(&mut self) {
        *self = CowMap::new();
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is no entry in it?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::all(&self.root, self.len)
    }

    /// All keys in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator {
        self.iter().map(|(k, _)| k)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.iter().map(|(_, v)| v)
    }
}

impl<K: Ord, V> CowMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Leaf(entries) => {
                    let i = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return entries.get(i).map(|(_, v)| v);
                }
                Node::Branch(children) => node = &children.get(child_of(children, key))?.1,
            }
        }
    }

    /// Has the key a value?
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Entries from a key on, in the order of their keys; the key itself need not be there.
    pub fn range_from<'a>(&'a self, key: &K) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        range_from(&self.root, key)
    }
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    /// Sets the value of a key. Returns the value that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (old, right) = Node::insert(&mut self.root, key, value, true);
        if let Some(right) = right {
            match self.root.first_key().cloned() {
                Some(first) => {
                    let left = self.root.clone();
                    self.root = Arc::new(Node::Branch(vec![(first, left), right]));
                }
                None => broken!("a tree without entries was split"),
            }
        }
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes out a key. Returns the value that it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if !self.contains_key(key) {
            return None; // Lawful: nothing is copied for a key that is not there.
        }
        let old = Node::remove(&mut self.root, key);
        invariant!(old.is_some(), "a key that was found cannot be removed");
        self.len -= usize::from(old.is_some());
        loop {
            let child = match &*self.root {
                Node::Branch(children) if children.is_empty() => Arc::new(Node::Leaf(Vec::new())),
                Node::Branch(children) if children.len() == 1 => children[0].1.clone(),
                _ => return old,
            };
            self.root = child;
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.contains_key(key) {
            return None; // Lawful: nothing is copied for a key that is not there.
        }
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let i = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                    return entries.get_mut(i).map(|(_, v)| v);
                }
                Node::Branch(children) => {
                    let i = child_of(children, key);
                    node = Arc::make_mut(&mut children.get_mut(i)?.1);
                }
            }
        }
    }

    /// Checks the promises of this file; for tests and the simulator.
    pub fn check(&self) -> Result<(), String> {
        fn walk<K: Ord, V>(node: &Node<K, V>, root: bool, from: Option<&K>, to: Option<&K>) -> Result<usize, String> {
            if node.len() > FULL || node.len() == 0 && !root {
                return Err(format!("a node of {} entries", node.len()));
            }
            let inside = |k: &K| from.is_none_or(|f| f <= k) && to.is_none_or(|t| k < t);
            match node {
                Node::Leaf(entries) => {
                    let sorted = entries.is_sorted_by(|a, b| a.0 < b.0) && entries.iter().all(|(k, _)| inside(k));
                    sorted.then_some(0).ok_or_else(|| "keys of a leaf are out of order".to_string())
                }
                Node::Branch(children) => {
                    let mut depths = Vec::new();
                    for (i, (key, child)) in children.iter().enumerate() {
                        let next = children.get(i + 1).map(|(k, _)| k).or(to);
                        depths.push(walk(child, false, Some(key), next)? + 1);
                    }
                    let even = depths.iter().all(|d| Some(d) == depths.first());
                    depths.first().copied().filter(|_| even).ok_or_else(|| "leaves at different depths".to_string())
                }
            }
        }
        walk(&self.root, true, None, None)?;
        let counted = self.iter().count();
        if counted == self.len { Ok(()) } else { Err(format!("{counted} entries counted, {} noted", self.len)) }
    }
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        CowMap { root: self.root.clone(), len: self.len }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        CowMap::new()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for CowMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root) || self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for CowMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for CowMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = CowMap::new();
        entries.into_iter().for_each(|(k, v)| drop(map.insert(k, v)));
        map
    }
}

impl<K: Serialize, V: Serialize> Serialize for CowMap<K, V> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter())
    }
}

impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Deserialize<'de> for CowMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries<K, V>(PhantomData<(K, V)>);
        impl<'de, K: Ord + Clone + Deserialize<'de>, V: Clone + Deserialize<'de>> Visitor<'de> for Entries<K, V> {
            type Value = CowMap<K, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut map = CowMap::new();
                while let Some((k, v)) = entries.next_entry()? {
                    map.insert(k, v);
                }
                Ok(map)
            }
        }
        d.deserialize_map(Entries(PhantomData))
    }
}
