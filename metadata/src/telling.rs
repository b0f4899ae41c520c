//! What a node has to tell the leader of its replicas and its attached volumes: only what changed since what this
//! leader is known to have taken (docs/decisions/0050). A beat that is not answered may have been taken or not, so
//! what it said is in doubt and is said again. A leader that does not know what was told before is told everything,
//! in pieces.
//!
//! It promises that after finitely many answered beats the leader knows what is told here, whichever beats and
//! answers were lost before, and that no beat says more than [`MOST`] of each kind. It holds no clock and sends
//! nothing.

use hf_meta_core::soft::VolumeTold;
use hf_meta_proto::pb;
use hf_policy::{Rid, VolumeId};
use std::collections::BTreeMap;

/// Replicas, and volumes, that one beat tells of at most; so many more of each may be told to be gone.
pub const MOST: usize = 2_048;

/// Things of one kind, and what the leader knows of them.
struct Part<K, V> {
    /// What the leader took; none: in doubt, since a beat that said it was not answered.
    taken: BTreeMap<K, Option<V>>,
    /// What the last beat said; none: that it is gone.
    said: Vec<(K, Option<V>)>,
    /// Where the next beat begins to look, so that things that change all the time do not keep others from being told.
    next: Option<K>,
}

impl<K, V> Default for Part<K, V> {
    fn default() -> Self {
        Part { taken: BTreeMap::new(), said: Vec::new(), next: None }
    }
}

impl<K: Ord + Copy, V: PartialEq + Clone> Part<K, V> {
    fn forget(&mut self) {
        *self = Part::default();
    }

    /// What has to be said now. It is in doubt until [`Part::took`].
    fn say(&mut self, now: &BTreeMap<K, V>) -> (Vec<(K, V)>, Vec<K>) {
        let unknown = |(k, v): &(&K, &V)| self.taken.get(k).is_none_or(|t| t.as_ref() != Some(*v));
        let from = self.next.filter(|n| now.contains_key(n));
        let (first, rest) = match &from {
            Some(n) => (now.range(n..), Some(now.range(..n))),
            None => (now.range::<K, _>(..), None),
        };
        let mut news = first.chain(rest.into_iter().flatten()).filter(unknown);
        let put: Vec<(K, V)> = news.by_ref().take(MOST).map(|(k, v)| (*k, v.clone())).collect();
        self.next = news.next().map(|(k, _)| *k);
        let gone: Vec<K> = self.taken.keys().filter(|k| !now.contains_key(k)).take(MOST).copied().collect();
        self.said = put.iter().map(|(k, v)| (*k, Some(v.clone()))).chain(gone.iter().map(|k| (*k, None))).collect();
        self.taken.extend(self.said.iter().map(|(k, _)| (*k, None)));
        (put, gone)
    }

    /// The leader has taken what was said last.
    fn took(&mut self) {
        for (k, v) in self.said.drain(..) {
            match v {
                Some(v) => drop(self.taken.insert(k, Some(v))),
                None => drop(self.taken.remove(&k)),
            }
        }
    }
}

/// What a node has told the leader.
pub struct Telling {
    boot: u64,
    seq: u64,
    /// The leader has taken a beat that begins anew, or a later one.
    begun: bool,
    replicas: Part<Rid, u64>,
    volumes: Part<VolumeId, VolumeTold>,
}

impl Telling {
    /// Nobody was told anything yet. `boot` tells this process from others of the node.
    pub fn new(boot: u64) -> Telling {
        Telling { boot, seq: 0, begun: false, replicas: Part::default(), volumes: Part::default() }
    }

    /// What the next beat says. `replicas`: bytes that each takes; only those that the record of `revision` knows.
    pub fn say(
        &mut self,
        revision: u64,
        replicas: &BTreeMap<Rid, u64>,
        volumes: &BTreeMap<VolumeId, VolumeTold>,
    ) -> pb::Changes {
        if !self.begun {
            self.replicas.forget();
            self.volumes.forget();
        }
        self.seq += 1;
        let (put, rids_gone) = self.replicas.say(replicas);
        let (served, volumes_gone) = self.volumes.say(volumes);
        pb::Changes {
            boot: self.boot,
            seq: self.seq,
            anew: !self.begun,
            revision,
            rids: put.iter().map(|(r, _)| r.0).collect(),
            bytes: put.iter().map(|(_, b)| *b).collect(),
            rids_gone: rids_gone.iter().map(|r| r.0).collect(),
            volumes: served.into_iter().map(|(vol, v)| served_as(vol, v)).collect(),
            volumes_gone: volumes_gone.iter().map(|v| v.0).collect(),
        }
    }

    /// Takes the leader's answer: the `seq` that it took, 0 for none, and whether it wants everything anew.
    pub fn answered(&mut self, took: u64, anew: bool) {
        if took == self.seq && took > 0 {
            self.begun = true;
            self.replicas.took();
            self.volumes.took();
        } else if anew {
            self.begun = false;
        }
    }
}

fn served_as(vol: VolumeId, v: VolumeTold) -> pb::VolumeServed {
    pb::VolumeServed {
        vol: vol.0,
        session: v.session.0.to_be_bytes().to_vec(),
        serving: v.serving,
        waits_for: v.waits_for,
        connections: v.connections,
    }
}
