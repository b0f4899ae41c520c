//! What requests carry. Unknown fields are refused.

use super::VolumeSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Declares the body of a request.
macro_rules! input {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

input!(
    /// A new volume.
    NewVolume {
        /// Its name: 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit.
        #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
        name: String,
        /// Its policy; `size` is required.
        spec: VolumeSpec,
    }
);
input!(
    /// A change of a policy.
    PolicyChange {
        /// The attributes that change; the value `default` takes one back.
        spec: VolumeSpec,
    }
);
input!(
    /// A new size.
    Resize {
        /// The new size in bytes, or a text with a unit; a multiple of 4 KiB, not less than the present one.
        #[schema(value_type = Object)] // Its forms come from the attribute table; see `patch_schemas`.
        size: serde_json::Value,
    }
);
input!(
    /// A new name.
    Rename {
        /// The new name.
        #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
        name: String,
    }
);
input!(
    /// An attachment to be made.
    Attach {
        /// Name of the node; absent: the node that is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Take the volume even from a node that still answers.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    }
);
input!(
    /// The last resort: one replica is declared the truth. What only others hold is lost.
    ForceInsync {
        /// Number of the replica.
        replica: u64,
        /// Who orders this, for the record.
        operator: String,
        /// Why, for the record.
        reason: String,
        /// The volume's name once more.
        confirm: String,
    }
);
input!(
    /// A disk to be formatted and added.
    NewDisk {
        /// Name of its node; absent: the node that is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Directory on a mounted file system, or block device.
        #[schema(min_length = 1, max_length = 4096)]
        path: String,
        /// Bytes of a directory's file system to use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(minimum = 4096, maximum = 9007199254740991_i64)]
        size_bytes: Option<u64>,
        /// Its class: `nvme`, `ssd` or `hdd`; absent: as the kernel says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(pattern = "^(nvme|ssd|hdd)$")]
        media: Option<String>,
    }
);
input!(
    /// A health code to be silenced.
    NewMute {
        /// The code that stands for it.
        #[schema(pattern = "^[A-Z0-9_]{1,64}$")]
        code: String,
        /// The subject, such as `volume/web`; absent: every subject.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(max_length = 128)]
        subject: Option<String>,
        /// For how long.
        #[schema(minimum = 1, maximum = 31536000)]
        for_seconds: u64,
        /// Why it is silenced.
        #[schema(max_length = 512)]
        reason: String,
        /// Keep it silenced when more subjects have the code.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        sticky: bool,
    }
);
input!(
    /// A cluster to be founded.
    NewCluster {
        /// The name that it has.
        #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
        name: String,
    }
);
input!(
    /// A cluster to be joined.
    Join {
        /// Control-plane addresses of nodes of that cluster, `host:port`.
        #[schema(min_items = 1, max_items = 64)]
        seeds: Vec<String>,
    }
);
input!(
    /// How many nodes are to vote.
    Voters {
        /// 1, 3 or 5.
        count: u32,
    }
);
