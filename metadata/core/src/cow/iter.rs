//! Iteration over the tree of [`super::CowMap`], from either end.

use super::node::{Node, child_of};
use std::slice;
use std::sync::Arc;

type Entries<'a, K, V> = slice::Iter<'a, (K, V)>;
type Children<'a, K, V> = slice::Iter<'a, (K, Arc<Node<K, V>>)>;

/// One end of an iteration: the leaf it is in, and what is left of each branch above the leaf.
struct End<'a, K, V> {
    branches: Vec<Children<'a, K, V>>,
    leaf: Entries<'a, K, V>,
}

impl<'a, K, V> End<'a, K, V> {
    fn at(root: &'a Node<K, V>) -> Self {
        let mut end = End { branches: Vec::new(), leaf: [].iter() };
        end.enter(root);
        end
    }

    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Branch(children) => self.branches.push(children.iter()),
        }
    }

    fn forward(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((k, v)) = self.leaf.next() {
                return Some((k, v));
            }
            match self.branches.last_mut()?.next() {
                Some((_, node)) => self.enter(node),
                None => drop(self.branches.pop()),
            }
        }
    }

    fn backward(&mut self) -> Option<(&'a K, &'a V)> {
        loop {
            if let Some((k, v)) = self.leaf.next_back() {
                return Some((k, v));
            }
            match self.branches.last_mut()?.next_back() {
                Some((_, node)) => self.enter(node),
                None => drop(self.branches.pop()),
            }
        }
    }
}

/// All entries of a map in the order of their keys.
pub struct Iter<'a, K, V> {
    front: End<'a, K, V>,
    back: End<'a, K, V>,
    /// Entries that neither end has given yet.
    left: usize,
}

impl<'a, K, V> Iter<'a, K, V> {
    /// Over the `len` entries below a root.
    pub(super) fn all(root: &'a Node<K, V>, len: usize) -> Self {
        Iter { front: End::at(root), back: End::at(root), left: len }
    }
}

/// From a key on, in the order of keys.
pub(super) fn range_from<'a, K: Ord, V>(
    root: &'a Node<K, V>,
    key: &K,
) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
    let mut front = End { branches: Vec::new(), leaf: [].iter() };
    let mut node = root;
    while let Node::Branch(children) = node {
        let i = child_of(children, key);
        // What comes after the child stays to be visited.
        front.branches.push(children[i + 1..].iter());
        node = &children[i].1;
    }
    if let Node::Leaf(entries) = node {
        front.leaf = entries[entries.partition_point(|(k, _)| k < key)..].iter();
    }
    std::iter::from_fn(move || front.forward())
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.front.forward()
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.back.backward()
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}
