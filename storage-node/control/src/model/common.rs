//! Words that several resources share.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A point in time: RFC 3339, UTC, milliseconds.
pub type Time = String;

/// The RFC 3339 text of a time in Unix milliseconds; none for 0, which stands for an unknown time.
pub fn time(ms: u64) -> Option<Time> {
    // A time beyond the year 9999 has no RFC 3339 text; only a damaged record holds one.
    let ms = ms.min(253_402_300_799_999);
    (ms > 0).then(|| {
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).to_string()
    })
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It holds, by fresh evidence.
    True,
    /// It does not hold.
    False,
    /// There is no fresh evidence.
    Unknown,
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Truth {
        if yes { Truth::True } else { Truth::False }
    }
}

/// One thing that holds, does not hold, or is not known of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is judged, such as `Ready` or `Served`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: Truth,
    /// One stable word for the reason; absent if there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// The reason in a sentence; absent if there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// The epoch of the record that was judged, where the resource has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observed_epoch: Option<u64>,
}

impl Condition {
    /// A condition that is judged by what is known.
    pub fn new(kind: &str, status: impl Into<Truth>, reason: &str, message: impl Into<String>) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_epoch: None,
        }
    }
}

/// How grave an event or a health code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong.
    Info,
    /// Something needs attention; data and service are there.
    Warning,
    /// Data or service is missing, or will be after one more fault.
    Error,
}

/// What a change answers when it has no resource to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// What happened, in a sentence.
    pub message: String,
    /// The change is in force. False: it is recorded, and goes on.
    pub done: bool,
    /// What the change waits for, while it is not done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waiting_for: Option<String>,
    /// The revision of the record that has the change.
    pub revision: u64,
    /// Nothing was changed: `dry_run` was asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub dry_run: bool,
}

/// Declares the answer to a list.
macro_rules! list {
    ($(#[$doc:meta])* $name:ident of $item:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
        pub struct $name {
            /// The items of this page, in the order of their keys.
            pub items: Vec<$item>,
            /// Give this as `after` to get the next page; absent on the last one.
            #[serde(skip_serializing_if = "Option::is_none", default)]
            pub next: Option<String>,
            /// About how many items there are, filters not counted.
            pub total_estimate: u64,
            /// The revision of the record that was read: a watch may go on from here.
            pub revision: u64,
        }
    };
}
pub(crate) use list;
