//! Links to other nodes' disks and from other nodes' coordinators: [`host`] holds them, [`dial`] and
//! [`serve`] are their tasks, which see the reactor as [`owner`] says.

pub(crate) mod dial;
pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod owner;
pub(crate) mod serve;
