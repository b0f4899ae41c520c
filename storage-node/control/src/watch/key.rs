//! What changes are about: resources by their numbers, which stay when a resource gets another name.

use crate::error::{Code, Problem};
use hf_policy::{DiskId, NodeId, Rid, VolumeId};

/// A kind of resource that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Volumes, by name.
    Volume,
    /// Nodes, by name.
    Node,
    /// Disks, by number.
    Disk,
    /// Jobs, by name.
    Job,
    /// Events, by revision.
    Event,
    /// The health of the cluster, as one resource.
    Health,
    /// The cluster as a whole.
    Cluster,
}

impl Kind {
    /// All the kinds there are.
    pub const ALL: [Kind; 7] =
        [Kind::Volume, Kind::Node, Kind::Disk, Kind::Job, Kind::Event, Kind::Health, Kind::Cluster];

    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Volume => "volume",
            Kind::Node => "node",
            Kind::Disk => "disk",
            Kind::Job => "job",
            Kind::Event => "event",
            Kind::Health => "health",
            Kind::Cluster => "cluster",
        }
    }
}

/// Some of the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// All the kinds there are.
    pub const ALL: Kinds = Kinds(u8::MAX);

    /// Is the kind among them?
    pub fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// The kinds whose words stand in a text, separated by commas; an empty text means every kind.
    pub fn parse(text: &str) -> Result<Kinds, Problem> {
        if text.trim().is_empty() {
            return Ok(Kinds::ALL);
        }
        let mut some = Kinds(0);
        for word in text.split(',').map(str::trim) {
            let all = Kind::ALL.map(Kind::word).join(", ");
            let kind = Kind::ALL.into_iter().find(|k| k.word() == word).ok_or_else(|| {
                let word: String = word.chars().take(64).collect();
                Problem::new(Code::Invalid, format!("kinds names {word:?}, which cannot be watched"))
                    .so(format!("use some of {all}"))
                    .at("kinds")
            })?;
            some.0 |= 1 << kind as u8;
        }
        Ok(some)
    }
}

/// A job by what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobKey {
    /// The drain of a node.
    Node(NodeId),
    /// The emptying of a disk.
    Disk(DiskId),
    /// The filling or moving of a replica.
    Replica(Rid),
    /// The scrub of a volume.
    Scrub(VolumeId),
    /// The rebalancing of the cluster.
    Rebalance,
}

/// A resource that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A volume of this number.
    Volume(VolumeId),
    /// A node of this number.
    Node(NodeId),
    /// A disk of this number.
    Disk(DiskId),
    /// A job, by what it is about.
    Job(JobKey),
    /// The events that one revision brought.
    Event(u64),
    /// The health of the cluster.
    Health,
    /// The cluster as a whole.
    Cluster,
}

impl Key {
    /// The kind of the resource.
    pub fn kind(self) -> Kind {
        match self {
            Key::Volume(_) => Kind::Volume,
            Key::Node(_) => Kind::Node,
            Key::Disk(_) => Kind::Disk,
            Key::Job(_) => Kind::Job,
            Key::Event(_) => Kind::Event,
            Key::Health => Kind::Health,
            Key::Cluster => Kind::Cluster,
        }
    }
}

/// A change: a resource may look different, or a name stands for nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The resource that it is about.
    pub key: Key,
    /// The name that is gone: the resource was removed, or has another name and a change of its own. None: it is there.
    pub gone: Option<String>,
    /// The place of the change in the hub's stream; each change has a higher one than all before.
    pub at: u64,
    /// The revision of the record at which it was noticed.
    pub rev: u64,
}
