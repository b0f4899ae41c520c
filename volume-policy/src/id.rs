//! Identifiers. Each is its own type; none converts from an integer by accident.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

macro_rules! small_id {
    ($($(#[$m:meta])* $name:ident($raw:ty)),* $(,)?) => {$(
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $raw);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    )*};
}

macro_rules! uuid_id {
    ($($(#[$m:meta])* $name:ident),* $(,)?) => {$(
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);
        impl $name {
            /// No identity: what a field holds before one is known.
            pub const NONE: Self = Self(0);
            /// Is this a real identity?
            pub fn is_some(self) -> bool { self.0 != 0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                if s.len() != 32 { return Err(IdError); }
                u128::from_str_radix(s, 16).map(Self).map_err(|_| IdError)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.collect_str(self) }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// An identifier that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an identifier is 32 hexadecimal digits")]
pub struct IdError;

small_id! {
    /// A node: one daemon on one host. Also its Raft id. Never 0, never reused.
    NodeId(u64),
    /// A disk of some node's pool, numbered by the cluster. Never reused.
    DiskId(u64),
    /// A volume, numbered by the cluster. Never reused.
    VolumeId(u64),
    /// A replica of a shard, numbered by the cluster. Never reused (protocol §1).
    Rid(u64),
}

uuid_id! {
    /// The cluster; every superblock, hello and Raft message names it.
    ClusterId,
    /// Made when a replica's storage is initialised; a wipe makes a new one (I12).
    StoreUuid,
    /// Written in a disk's superblock when it is formatted.
    DiskUuid,
    /// One attachment of a volume.
    SessionId,
    /// A volume's history; changes only with `ForceInsync`.
    Lineage,
    /// One process start.
    BootId,
    /// A mutating request, for exactly-once.
    RequestId,
    /// A node's metadata log: made with its directory.
    LogId,
}

/// A shard: a fixed-size range of a volume, the unit of placement and replication.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardId {
    /// The volume that it is a part of.
    pub vol: VolumeId,
    /// Its number in the volume, from 0.
    pub index: u32,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.vol, self.index)
    }
}

/// The age of a metadata log. Its node raises it at every start, and every few seconds while the log changes;
/// it is noted outside of the log (on the node's disks, in the cluster's record), so that a copy that was put
/// back is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogAge {
    /// The log; ages of different logs cannot be compared.
    pub log: LogId,
    /// How often it was raised, from 0.
    pub age: u64,
    /// A number drawn at the start that raised it to this age; 0 if it was not raised by a start.
    #[serde(default)]
    pub start: u64,
}

impl LogAge {
    /// Was any log's age noted?
    pub fn is_some(self) -> bool {
        self.log.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_ids_round_trip_as_text() {
        let id = SessionId(0x00ab_0000_0000_0000_0000_0000_0000_00cd);
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert_eq!("xyz".parse::<SessionId>(), Err(IdError));
    }
}
