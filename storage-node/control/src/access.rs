//! Who may do what: one exhaustive match over every verb.
//!
//! Until there are users every caller is an admin. Each verb names its caller all the same, so that users change this
//! file and no other.

use crate::error::{Code, Problem};
use serde::{Deserialize, Serialize};

/// What a caller is allowed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything, changes nothing.
    Viewer,
    /// Sees and changes what it owns.
    Tenant,
    /// Changes volumes, disks and nodes.
    Operator,
    /// Changes who may do what, too.
    Admin,
}

/// The way a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// It came over TCP.
    Tcp,
    /// Over the API's Unix socket.
    Socket,
    /// From this node itself.
    Itself,
}

/// The caller who asks for this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its name, for events and mutes.
    pub name: String,
    /// What it is allowed to be.
    pub role: Role,
    /// The way it came.
    pub via: Via,
}

/// Declares the verbs with the least role of each.
macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $word:literal: $role:ident,)*) => {
        /// Everything that can be asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verb { $($(#[$doc])* #[doc = concat!("`", $word, "`: for the role ", stringify!($role), ".")] $name,)* }

        impl Verb {
            /// All verbs, in the order of the table.
            pub const ALL: &'static [Verb] = &[$(Verb::$name,)*];

            /// Noun and verb, for messages.
            pub fn word(self) -> &'static str {
                match self { $(Verb::$name => $word,)* }
            }

            /// The least role that may.
            pub fn least(self) -> Role {
                match self { $(Verb::$name => Role::$role,)* }
            }
        }
    };
}

verbs! {
    VolumeRead = "volume read": Viewer,
    VolumeCreate = "volume create": Tenant,
    VolumeSet = "volume set": Tenant,
    VolumeRename = "volume rename": Tenant,
    VolumeDelete = "volume delete": Tenant,
    VolumeAttach = "volume attach": Tenant,
    VolumeDetach = "volume detach": Tenant,
    VolumeScrub = "volume scrub": Tenant,
    VolumeForceInsync = "volume force-insync": Operator,
    ReplicaRead = "replica read": Viewer,
    ReplicaMove = "replica move": Operator,
    DiskRead = "disk read": Viewer,
    DiskChange = "disk change": Operator,
    NodeRead = "node read": Viewer,
    NodeChange = "node change": Operator,
    JobRead = "job read": Viewer,
    JobChange = "job change": Operator,
    EventRead = "event read": Viewer,
    HealthRead = "health read": Viewer,
    HealthMute = "health mute": Operator,
    ClusterRead = "cluster read": Viewer,
    ClusterChange = "cluster change": Operator,
    ClusterInit = "cluster init": Admin,
    ClusterJoin = "cluster join": Admin,
    ClusterFinalize = "cluster upgrade finalize": Admin,
    AttributeRead = "attribute read": Viewer,
    Watch = "watch": Viewer,
}

/// May the caller do this?
pub fn may(caller: &Caller, verb: Verb) -> Result<(), Problem> {
    if caller.role >= verb.least() {
        return Ok(());
    }
    Err(Problem::new(Code::Forbidden, format!("{} may not: {}", caller.name, verb.word()))
        .so("ask an administrator for another role"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_its_row_says_and_no_more() {
        for role in [Role::Viewer, Role::Tenant, Role::Operator, Role::Admin] {
            let caller = Caller { name: "x".into(), role, via: Via::Tcp };
            for v in Verb::ALL {
                assert_eq!(may(&caller, *v).is_ok(), role >= v.least(), "{role:?} {}", v.word());
            }
        }
        let viewer = Caller { name: "x".into(), role: Role::Viewer, via: Via::Tcp };
        let changes = Verb::ALL.iter().filter(|v| !v.word().contains("read") && **v != Verb::Watch);
        assert!(changes.clone().count() > 10);
        assert!(changes.into_iter().all(|v| may(&viewer, *v).is_err()), "a viewer changes nothing");
    }
}
