//! `failure_domain`: what no two replicas of a shard may share.

use super::*;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "failure_domain",
    values: "node, rack, zone, region",
    default: "node",
    online: Online::MovesData,
    since: "0.1",
    help: "no two replicas share one; rack, zone and region are node labels",
    check: |v| one_of(v, FailureDomain::WORDS),
};

word_enum! {
    /// A level of the topology.
    FailureDomain {
        /// One host.
        Node = "node",
        /// The node label `rack`.
        Rack = "rack",
        /// The node label `zone`.
        Zone = "zone",
        /// The node label `region`.
        Region = "region",
    }
}
