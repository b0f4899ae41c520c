//! Attached volumes: [`host`] owns their coordinators, [`port`] is the way of every export to them.

pub(crate) mod blank;
mod departures;
pub(crate) mod host;
pub(crate) mod intake;
pub(crate) mod port;
mod record;
mod split;
mod syncs;
