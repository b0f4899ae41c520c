//! Health: what is wrong with the cluster, in stable codes, each with what it means and what to do.
//!
//! [`table`] is the one place that names codes; checks, `docs/health.md`, the alert rules and the page's texts
//! come from it. Every code has a check behind it. A check is a function of the record and of what the leader
//! hears; without fresh evidence it says that it does not know, and what was raised stays raised. [`Tracker`]
//! gives a code its dwell, so that what passes by itself raises nothing.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`table`] | the codes |
//! | [`checks`] | which codes hold now |
//! | [`tracker`] | which codes are raised: dwell, order of checks, bounds |
//! | [`mutes`] | which of them are silenced |
//! | [`generated`] | `docs/health.md` and the alert rules |
//! | `progress`, `entries`, `shown` | copies that stand still, the alerts themselves, how the API shows them |

pub mod checks;
mod entries;
pub mod generated;
pub mod mutes;
mod progress;
mod shown;
pub mod table;
pub mod tracker;

pub use entries::Alert;
pub use table::{HealthCode, TABLE};
pub use tracker::{Flips, MOST_ALERTS, Now, Tracker};
