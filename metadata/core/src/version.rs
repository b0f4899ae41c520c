//! The versions of commands: which this code knows, and which a state has that says none (decisions/0035).

/// The newest version of commands that this code can encode and apply.
///
/// New in 2: [`crate::Command::Together`], [`crate::Command::ReplaceUnmade`]; a volume can be attached while
/// new shards of it are still to be made, which are part of it from the moment they are; refusals that can
/// only be repeated are not kept; a disk that has failed is not failing again;
/// [`crate::Command::RaiseVersion`] (docs/wire.md).
///
/// New in 3 (decisions/0048): why a replica was dropped and when; what is wrong with a disk and since when; mutes
/// of health checks; a volume can be renamed.
pub const COMMAND_VERSION: u32 = 3;

/// The version of a state that does not say one: it was written before states had one, by code that knew
/// commands up to this version. A cluster is founded with its first commands in this version and raised to the newest
/// at once ([`crate::ClusterState::found`]). It never changes, or logs would be read differently.
pub const FIRST_VERSION: u32 = 2;
