//! The items of a watch stream, made from changes.

use crate::member::Member;
use hf_control::view::{self, Look};
use hf_control::watch::{Change, Key};
use serde_json::{Value, json};

/// An item: the fields of a server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `put`, `gone`, `event`, `bookmark`, `soft` or `reset`.
    pub event: &'static str,
    /// The position behind it; empty: it has none.
    pub id: String,
    /// JSON text of the item.
    pub data: String,
}

impl Item {
    /// An item without a position.
    pub fn of(event: &'static str, data: &Value) -> Item {
        Item { event, id: String::new(), data: data.to_string() }
    }

    /// A sign of life; `stale`: for how many seconds no leader was heard.
    pub fn bookmark(id: String, revision: u64, stale: Option<u64>) -> Item {
        let data = match stale {
            None => json!({ "revision": revision }),
            Some(s) => json!({ "revision": revision, "stale_seconds": s }),
        };
        Item { id, ..Item::of("bookmark", &data) }
    }

    /// The client must list anew.
    pub fn reset(why: &str) -> Item {
        Item::of("reset", &json!({ "why": why }))
    }
}

/// Looks at the cluster as the leader saw it at its last tick.
pub fn looking<T>(m: &Member, f: impl FnOnce(Look) -> T) -> T {
    let state = m.watching.state().unwrap_or_else(|| m.view.borrow().clone());
    let soft = m.soft_as_leader();
    let wall_ms = crate::member::wall_ms();
    m.watching.with(|alerts, _| f(Look { state: &state, soft: soft.as_ref(), alerts, here: m.node, wall_ms }))
}

/// The items of a change: usually one; of a revision with several events, as many.
pub fn items(look: Look, change: &Change, id: &str) -> Vec<Item> {
    let kind = change.key.kind().word();
    let item = |event, key: &str, object: Option<Value>| {
        let data = match object {
            Some(o) => json!({"kind": kind, "key": key, "object": o}),
            None => json!({"kind": kind, "key": key}),
        };
        Item { event, id: id.to_string(), data: data.to_string() }
    };
    if let Some(name) = &change.gone {
        return vec![item("gone", name, None)];
    }
    if let Key::Event(rev) = change.key {
        let newest = look.state.events.iter().rev().take_while(|e| e.rev >= rev).filter(|e| e.rev == rev);
        let mut all: Vec<Item> = newest.map(|e| item("event", &rev.to_string(), value(&view::event(e)))).collect();
        all.reverse();
        return all;
    }
    // What is not there any more has a change of its own that says so.
    let Some(name) = change.key.name(look.state) else { return Vec::new() };
    match object(look, change.key, &name) {
        Some(o) => vec![item("put", &name, Some(o))],
        // A job that is over.
        None => vec![item("gone", &name, None)],
    }
}

fn value<T: serde::Serialize>(t: &T) -> Option<Value> {
    serde_json::to_value(t).ok()
}

fn object(look: Look, key: Key, name: &str) -> Option<Value> {
    let s = look.state;
    match key {
        Key::Volume(id) => value(&view::volume_in_list(look, s.volumes.get(&id)?)),
        Key::Node(id) => value(&view::node(look, s.nodes.get(&id)?)),
        Key::Disk(id) => value(&view::disk(look, s.disks.get(&id)?)),
        Key::Job(_) => value(&view::job(look, name)?),
        Key::Health => value(&look.alerts.health(s.revision)),
        Key::Cluster => value(&view::cluster(look, None)),
        Key::Event(_) => None,
    }
}
