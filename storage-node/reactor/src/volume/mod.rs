//! Attached volumes: [`host`] owns their coordinators, [`port`] is the way of every export to them.

pub(crate) mod blank;
mod departures;
mod due;
pub(crate) mod host;
pub(crate) mod intake;
pub(crate) mod port;
mod record;
pub(crate) mod requests;
mod split;
mod syncs;
mod told;
