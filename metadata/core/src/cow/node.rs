//! A node of the tree under [`super::CowMap`]: entries in a leaf, children in a branch, and what an insertion or a
//! removal does to a path of them. [`super::map`] says what the tree promises.

use hf_policy::broken;
use std::sync::Arc;

/// Entries of a node at most. A change copies one node of this size per level, and with each entry of it a reference
/// that the processor's caches do not hold; 16 was faster than 32 at 100,000 volumes.
pub(super) const FULL: usize = 16;
/// A node that a removal leaves with fewer entries is joined with a neighbour.
pub(super) const SPARSE: usize = 4;

pub(super) type Children<K, V> = Vec<(K, Arc<Node<K, V>>)>;

/// A node: entries in the order of their keys, or children with their least possible keys.
#[derive(Clone)]
pub(super) enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Branch(Children<K, V>),
}

/// The child below which `key` is, if it is anywhere: the last one whose key is not greater, else the first.
pub(super) fn child_of<K: Ord, V>(children: &Children<K, V>, key: &K) -> usize {
    children.partition_point(|(k, _)| k <= key).saturating_sub(1)
}

/// What does not fit into a node any more. A map that grows at its end leaves full nodes behind, not halves.
fn split<T>(entries: &mut Vec<T>, at_end: bool) -> Option<Vec<T>> {
    let keep = if at_end { FULL } else { FULL / 2 };
    (entries.len() > FULL).then(|| entries.split_off(keep))
}

impl<K, V> Node<K, V> {
    pub(super) fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Branch(children) => children.len(),
        }
    }

    /// A key that is not greater than any below this node; none if the node is empty.
    pub(super) fn first_key(&self) -> Option<&K> {
        match self {
            Node::Leaf(entries) => entries.first().map(|(k, _)| k),
            Node::Branch(children) => children.first().map(|(k, _)| k),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// A new node beside another one, with the key under which its parent lists it.
    pub(super) fn beside(right: Node<K, V>) -> Option<(K, Arc<Node<K, V>>)> {
        let first = right.first_key().cloned();
        first.map(|k| (k, Arc::new(right)))
    }

    /// Puts an entry below this node. Returns the value that it replaces, and what the node has no room for. `last`: no
    /// node of this level is behind this one.
    #[allow(clippy::type_complexity)]
    pub(super) fn insert(this: &mut Arc<Self>, key: K, value: V, last: bool) -> (Option<V>, Option<(K, Arc<Self>)>) {
        match Arc::make_mut(this) {
            Node::Leaf(entries) => match entries.binary_search_by(|(k, _)| k.cmp(&key)) {
                Ok(i) => (Some(std::mem::replace(&mut entries[i].1, value)), None),
                Err(i) => {
                    let at_end = last && i == entries.len();
                    entries.insert(i, (key, value));
                    (None, split(entries, at_end).and_then(|right| Node::beside(Node::Leaf(right))))
                }
            },
            Node::Branch(children) => {
                let i = child_of(children, &key);
                let last = last && i + 1 == children.len();
                if key < children[i].0 {
                    children[i].0 = key.clone();
                }
                let (old, right) = Node::insert(&mut children[i].1, key, value, last);
                if let Some(right) = right {
                    children.insert(i + 1, right);
                }
                (old, split(children, last).and_then(|right| Node::beside(Node::Branch(right))))
            }
        }
    }

    /// Takes out the entry of a key that is below this node.
    pub(super) fn remove(this: &mut Arc<Self>, key: &K) -> Option<V> {
        match Arc::make_mut(this) {
            Node::Leaf(entries) => {
                let i = entries.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
                Some(entries.remove(i).1)
            }
            Node::Branch(children) => {
                let i = child_of(children, key);
                let old = Node::remove(&mut children[i].1, key);
                match children[i].1.len() {
                    0 => drop(children.remove(i)),
                    n if n < SPARSE && children.len() > 1 => Node::join(children, i.min(children.len() - 2)),
                    _ => {}
                }
                old
            }
        }
    }

    /// Puts the entries of child `i` and of the next one into one node, or into two halves if they are too
    /// many for one.
    pub(super) fn join(children: &mut Children<K, V>, i: usize) {
        let (_, right) = children.remove(i + 1);
        let mut rest = None;
        match (Arc::make_mut(&mut children[i].1), Arc::unwrap_or_clone(right)) {
            (Node::Leaf(a), Node::Leaf(b)) => {
                a.extend(b);
                let half = a.len().div_ceil(2);
                if a.len() > FULL {
                    rest = Node::beside(Node::Leaf(a.split_off(half)));
                }
            }
            (Node::Branch(a), Node::Branch(b)) => {
                a.extend(b);
                let half = a.len().div_ceil(2);
                if a.len() > FULL {
                    rest = Node::beside(Node::Branch(a.split_off(half)));
                }
            }
            // The entries on the right are lost to this copy; whoever drives the state stops at the report.
            _ => broken!("a leaf and a branch are neighbours in a tree"),
        }
        if let Some(right) = rest {
            children.insert(i + 1, right);
        }
    }
}
