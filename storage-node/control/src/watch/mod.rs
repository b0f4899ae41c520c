//! The watch hub: which resources may look different than a moment ago, as changes with positions.
//!
//! [`Hub::tick`] compares the record and what the leader hears with what they were at the tick before. It costs what
//! changed and the number of nodes, not the number of volumes. A change names a resource and says nothing of what is
//! different: who sends it to a client makes the resource's view when it does, from the record of the last tick
//! ([`Hub::state`]), so a client always gets the newest.
//!
//! What it promises: after a client has read everything up to a position, it knows every resource as it was at that
//! position or later, and [`Hub::since`] gives what it lacks after an interruption, or says that it must list anew.
//! What it does not: a change may be told although the view is the same. Numbers that move all the time (bytes in use
//! below a hundredth of a disk, speeds, the progress of jobs) are no change.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`key`] | what changes are about, and changes |
//! | [`position`] | places in the stream of changes, and why a client must list anew |
//! | [`hub`] | the stream of changes, and its last part, kept for clients that come back |
//! | [`subscriber`] | what one client has not read yet |
//! | `name` | what the API calls a resource |
//! | `dirty`, `record`, `heard`, `jobs` | how two states are compared |

mod dirty;
mod heard;
pub mod hub;
mod jobs;
pub mod key;
mod name;
pub mod position;
mod record;
pub mod subscriber;

pub use hub::{CHANGES_KEPT, Hub};
pub use key::{Change, JobKey, Key, Kind, Kinds};
pub use position::{Position, Reset};
pub use subscriber::{MOST_UNREAD, Subscriber};
