//! `failure_domain`: what no two replicas of a shard may share.

use super::*;

/// The row of `failure_domain` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "failure_domain",
    kind: Kind::Word(&["node", "rack", "zone", "region"]),
    values: "node, rack, zone, region",
    default: Fallback::Text("node"),
    online: Online::MovesData,
    since: "0.1",
    help: "no two replicas share one; rack, zone and region are node labels",
    check: |v| parse(v).map(|v| text(&v)),
};

/// What no two replicas share.
pub type Value = FailureDomain;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    word(v, FailureDomain::WORDS, FailureDomain::parse)
}

pub(super) fn text(v: &Value) -> String {
    v.word().into()
}

word_enum! {
    /// A level of the topology.
    FailureDomain {
        /// One host: a node is a domain of its own.
        Node = "node",
        /// The node label `rack`.
        Rack = "rack",
        /// The node label `zone`.
        Zone = "zone",
        /// The node label `region`.
        Region = "region",
    }
}
