//! The versions of commands: which this code knows, and with which a cluster begins (decisions/0035).

/// The newest version of commands that this code can encode and apply.
///
/// New in 2: [`crate::Command::Together`], [`crate::Command::ReplaceUnmade`]; a volume can be attached while
/// new shards of it are still to be made, which are part of it from the moment they are; refusals that can
/// only be repeated are not kept; a disk that has failed is not failing again;
/// [`crate::Command::RaiseVersion`] (docs/wire.md).
pub const COMMAND_VERSION: u32 = 2;

/// The version of a state that does not say one: it was written before states had one, by code that knew
/// commands up to this version. Also the version with which every cluster begins. It never changes, or logs
/// would be read differently.
pub const FIRST_VERSION: u32 = 2;
