//! Answers every read. Lists are read by key, never by offset, and stop after a bounded number of looks: a page may
//! then be short, or empty, and still name a next one.

use super::*;
use crate::error::{Code, Problem};
use crate::model::*;
use crate::read::{Filter, Query};
use hf_meta_core::record::{ReplicaRecord, VolumeRecord};
use hf_policy::{DiskId, Rid};
use serde::Serialize;

/// Items of a page, at most.
pub const MOST_ITEMS: usize = 1000;
/// Items of a page if the caller does not say.
const ITEMS: usize = 100;
/// Items that one page may look at before it stops.
const MOST_LOOKS: usize = 20_000;

/// The place in a list behind its last item: the kind of the list and the item's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor<'a> {
    /// The list that it is of.
    pub kind: &'a str,
    /// The key of the last item.
    pub key: String,
}

impl Cursor<'_> {
    /// The text that callers give back.
    pub fn text(&self) -> String {
        let key: String = self.key.bytes().map(|b| format!("{b:02x}")).collect();
        format!("{}.{key}", self.kind)
    }

    /// The key in a cursor of this kind of list. A forged or foreign one is refused.
    pub fn parse(kind: &str, text: &str) -> Result<String, Problem> {
        let refuse = || {
            Problem::new(Code::Invalid, "the cursor in after is not of this list")
                .so("give what next said, or leave it out to begin")
                .at("after")
        };
        let hex = text.strip_prefix(kind).and_then(|t| t.strip_prefix('.')).ok_or_else(refuse)?;
        if hex.len() > 512 || hex.len() % 2 != 0 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let bytes: Result<Vec<u8>, _> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16)).collect();
        bytes.ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(refuse)
    }
}

/// One page: the items, and the key of the last item if more may follow.
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// Takes a page from `all`: what `see` shows of it, up to the limits.
fn page<S, T>(limit: usize, all: impl Iterator<Item = (String, S)>, mut see: impl FnMut(S) -> Option<T>) -> Page<T> {
    let mut p = Page { items: Vec::new(), next: None };
    let mut last = None;
    for (looks, (key, item)) in all.enumerate() {
        if p.items.len() == limit || looks == MOST_LOOKS {
            p.next = last;
            break;
        }
        p.items.extend(see(item));
        last = Some(key);
    }
    p
}

fn limit(f: &Filter) -> Result<usize, Problem> {
    match f.limit {
        0 => Ok(ITEMS),
        n if n <= MOST_ITEMS => Ok(n),
        n => Err(Problem::new(Code::Invalid, format!("limit = {n} is not from 1 to {MOST_ITEMS}")).at("limit")),
    }
}

fn after(kind: &str, f: &Filter) -> Result<String, Problem> {
    f.after.as_deref().map_or(Ok(String::new()), |text| Cursor::parse(kind, text))
}

fn number(kind: &str, f: &Filter) -> Result<u64, Problem> {
    let key = after(kind, f)?;
    match key.is_empty() {
        true => Ok(0),
        false => key
            .parse::<u64>()
            .map(|n| n.saturating_add(1))
            .map_err(|_| Problem::new(Code::Invalid, "the cursor in after is not of this list").at("after")),
    }
}

fn text<T: Serialize>(t: &T) -> Result<String, Problem> {
    serde_json::to_string(t).map_err(|e| Problem::new(Code::Internal, format!("an answer cannot be encoded: {e}")))
}

/// Declares how a page becomes the answer of a list.
macro_rules! listed {
    ($look:expr, $kind:literal, $list:ident, $page:expr, $total:expr) => {{
        let p = $page;
        let next = p.next.map(|key| Cursor { kind: $kind, key }.text());
        text(&$list { items: p.items, next, total_estimate: $total as u64, revision: $look.state.revision })
    }};
}

/// Answers a read with the JSON text of its resource. `states`: volumes by state, if they are counted already.
pub fn answer(look: Look, q: &Query, states: Option<&Counts>) -> Result<String, Problem> {
    let s = look.state;
    match q {
        Query::Volumes(f) => listed!(look, "volume", VolumeList, volumes(look, f)?, s.volumes.len()),
        Query::Volume(name) => text(&volume(look, s.volume_named(name).ok_or_else(|| Problem::no("volume", name))?)),
        Query::Replicas(f) => {
            let placed = s.disks.keys().map(|d| s.load(*d).replicas).sum::<u64>();
            listed!(look, "replica", ReplicaList, replicas(look, f)?, placed)
        }
        Query::Replica(id) => {
            let v = s.volume_of_replica(Rid(*id));
            let found = v.and_then(|v| Some((v, v.replicas().find(|(_, r)| r.rid.0 == *id)?)));
            let (v, (shard, r)) = found.ok_or_else(|| Problem::no("replica", &id.to_string()))?;
            text(&replica(look, v, shard, r))
        }
        Query::Nodes(f) => listed!(look, "node", NodeList, nodes(look, f)?, s.nodes.len()),
        Query::Node(name) => text(&node(look, s.node_named(name).ok_or_else(|| Problem::no("node", name))?)),
        Query::Disks(f) => listed!(look, "disk", DiskList, disks(look, f)?, s.disks.len()),
        Query::Disk(id) => {
            text(&disk(look, s.disks.get(&DiskId(*id)).ok_or_else(|| Problem::no("disk", &id.to_string()))?))
        }
        Query::Jobs(f) => {
            let all = jobs(look);
            let total = all.len();
            listed!(look, "job", JobList, job_page(look, all, f)?, total)
        }
        Query::Job(id) => text(&job(look, id).ok_or_else(|| Problem::no("job", id))?),
        Query::Events { after, limit, subject, kind } => {
            events(look, *after, *limit, subject.as_deref(), kind.as_deref())
        }
        Query::Health => text(&look.alerts.health(s.revision)),
        Query::Cluster => text(&cluster(look, states)),
    }
}

fn has_health(h: &[HealthRef], f: &Filter) -> bool {
    f.health.as_ref().is_none_or(|code| h.iter().any(|x| x.code == *code))
}

/// Do labels fit `key=value`, `key!=value` and `key`, separated by commas?
fn labels_fit(labels: &std::collections::BTreeMap<String, String>, f: &Filter) -> bool {
    let fits = |term: &str| match (term.split_once("!="), term.split_once('=')) {
        (Some((k, v)), _) => labels.get(k.trim()).is_none_or(|x| x != v.trim()),
        (None, Some((k, v))) => labels.get(k.trim()).is_some_and(|x| x == v.trim()),
        (None, None) => labels.contains_key(term.trim()),
    };
    f.label.as_ref().is_none_or(|l| l.split(',').filter(|t| !t.trim().is_empty()).all(fits))
}

fn name_fits(name: &str, f: &Filter) -> bool {
    f.name.as_ref().is_none_or(|part| name.contains(part.as_str()))
}

fn volumes(look: Look, f: &Filter) -> Result<Page<Volume>, Problem> {
    let (limit, from) = (limit(f)?, after("volume", f)?);
    let on_node = f.node.as_ref().map(|n| look.state.node_named(n).map(|n| n.id));
    let there = |v: &VolumeRecord| match on_node {
        None => true,
        Some(None) => false,
        Some(Some(n)) => {
            v.replicas().any(|(_, r)| r.node == n)
                || v.coordinator.as_ref().is_some_and(|a| a.node == n || a.home == Some(n))
        }
    };
    let see = |v: &std::sync::Arc<VolumeRecord>| {
        let cheap = name_fits(&v.name, f)
            && there(v)
            && f.volume.as_ref().is_none_or(|n| *n == v.name)
            && f.disk.is_none_or(|d| v.replicas().any(|(_, r)| r.disk.0 == d))
            && v.policy().map_or(f.label.is_none(), |p| labels_fit(&p.labels, f));
        if !cheap || f.state.as_ref().is_some_and(|w| volume_state(look, v).word() != w) {
            return None;
        }
        Some(volume_in_list(look, v)).filter(|v| has_health(&v.health, f))
    };
    Ok(page(limit, look.state.volumes_after(&from).map(|v| (v.name.clone(), v)), see))
}

/// Does a replica of the volume that is asked for fit? True if none is asked for.
fn on_volume(look: Look, f: &Filter, fits: impl Fn(&ReplicaRecord) -> bool) -> bool {
    let replicas = |name: &String| look.state.volume_named(name).is_some_and(|v| v.replicas().any(|(_, r)| fits(r)));
    f.volume.as_ref().is_none_or(replicas)
}

fn replicas(look: Look, f: &Filter) -> Result<Page<Replica>, Problem> {
    let (limit, from) = (limit(f)?, number("replica", f)?);
    // What has no name or label of its own is found by those of its volume.
    let labels = |v: &VolumeRecord| v.policy().map_or(f.label.is_none(), |p| labels_fit(&p.labels, f));
    let see = |(rid, v): (Rid, &std::sync::Arc<VolumeRecord>)| {
        let other = f.volume.as_ref().is_some_and(|n| *n != v.name);
        if other || !name_fits(&v.name, f) || !labels(v) || !has_health(&[], f) {
            return None;
        }
        let (shard, r) = v.replicas().find(|(_, r)| r.rid == rid)?;
        if f.disk.is_some_and(|d| d != r.disk.0) {
            return None;
        }
        let shown = replica(look, v, shard, r);
        let fits = f.node.as_ref().is_none_or(|n| *n == shown.node)
            && f.state.as_ref().is_none_or(|w| *w == shown.state.word());
        fits.then_some(shown)
    };
    let all = look.state.replicas_from(Rid(from)).map(|(rid, v)| (rid.to_string(), (rid, v)));
    Ok(page(limit, all, see))
}

fn nodes(look: Look, f: &Filter) -> Result<Page<Node>, Problem> {
    let (limit, from) = (limit(f)?, after("node", f)?);
    let of_disk = f.disk.map(|d| look.state.disks.get(&DiskId(d)).map(|d| d.node));
    let held = |n: NodeId| on_volume(look, f, |r| r.node == n);
    let see = |n: &std::sync::Arc<hf_meta_core::NodeRecord>| {
        let cheap = name_fits(&n.name, f)
            && labels_fit(&n.labels, f)
            && f.node.as_ref().is_none_or(|w| *w == n.name)
            && of_disk.is_none_or(|node| node == Some(n.id))
            && held(n.id);
        let shown = cheap.then(|| node(look, n))?;
        (f.state.as_ref().is_none_or(|w| *w == shown.state) && has_health(&shown.health, f)).then_some(shown)
    };
    Ok(page(limit, look.state.nodes_after(&from).map(|n| (n.name.clone(), n)), see))
}

fn disks(look: Look, f: &Filter) -> Result<Page<Disk>, Problem> {
    let (limit, from) = (limit(f)?, number("disk", f)?);
    let see = |d: &std::sync::Arc<hf_meta_core::DiskRecord>| {
        let shown = disk(look, d);
        let fits = f.node.as_ref().is_none_or(|n| *n == shown.node)
            && f.disk.is_none_or(|id| id == shown.id)
            && f.name.as_ref().is_none_or(|part| shown.path.contains(part.as_str()))
            && f.state.as_ref().is_none_or(|w| *w == shown.state)
            && on_volume(look, f, |r| r.disk == d.id)
            && look.state.nodes.get(&d.node).map_or(f.label.is_none(), |n| labels_fit(&n.labels, f));
        (fits && has_health(&shown.health, f)).then_some(shown)
    };
    let all = look.state.disks.values().filter(|d| d.id.0 >= from).map(|d| (d.id.to_string(), d));
    Ok(page(limit, all, see))
}

fn job_page(look: Look, all: Vec<Job>, f: &Filter) -> Result<Page<Job>, Problem> {
    let (limit, from) = (limit(f)?, after("job", f)?);
    let on_disk = |j: &Job, disk: u64| {
        let rid = j.id.strip_prefix("replica/").and_then(|n| n.parse().ok()).map(Rid);
        let v = rid.and_then(|rid| Some((rid, look.state.volume_of_replica(rid)?)));
        v.is_some_and(|(rid, v)| v.replicas().any(|(_, r)| r.rid == rid && r.disk.0 == disk))
    };
    let state = |j: &Job| serde_json::to_value(j.state).is_ok_and(|v| f.state.as_deref() == v.as_str());
    let see = |j: Job| {
        let about = |v: &str| j.subject == v || j.subject.strip_prefix(v).is_some_and(|r| r.starts_with(" shard "));
        let fits = name_fits(&j.id, f)
            && has_health(&[], f)
            && labels_fit(&Default::default(), f)
            && f.volume.as_ref().is_none_or(|v| about(v))
            && f.node.as_ref().is_none_or(|n| j.node.as_ref() == Some(n) || j.id == format!("node/{n}"))
            && f.disk.is_none_or(|d| j.id == format!("disk/{d}") || on_disk(&j, d))
            && (f.state.is_none() || state(&j));
        fits.then_some(j)
    };
    Ok(page(limit, all.into_iter().filter(|j| j.id > from).map(|j| (j.id.clone(), j)), see))
}

fn events(look: Look, after: u64, limit: usize, subject: Option<&str>, kind: Option<&str>) -> Result<String, Problem> {
    let limit = event_limit(limit)?;
    let all = look.state.events.iter().filter(|e| e.rev > after);
    let fits =
        |e: &&hf_meta_core::record::Event| subject.is_none_or(|s| e.subject == s) && kind.is_none_or(|k| e.kind == k);
    text(&event_list(all.filter(fits), limit, look.state.events.len() as u64, look.state.revision))
}

/// Events of a page, if the caller asks for so many; 0: it does not say.
pub fn event_limit(asked: usize) -> Result<usize, Problem> {
    limit(&Filter { limit: asked, ..Filter::default() })
}

/// A page of events: the first `limit` of those that were found. The next page begins after a revision, so one that
/// brought several events is not cut in two: the page may be longer.
pub fn event_list<'a>(
    found: impl Iterator<Item = &'a hf_meta_core::record::Event>,
    limit: usize,
    total: u64,
    revision: u64,
) -> EventList {
    let mut all = found.peekable();
    let mut items: Vec<Event> = Vec::new();
    while let Some(e) = all.next_if(|e| items.len() < limit || items.last().is_some_and(|last| last.revision == e.rev))
    {
        items.push(event(e));
    }
    let next = items.last().filter(|_| all.peek().is_some()).map(|e| e.revision.to_string());
    EventList { items, next, total_estimate: total, revision }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_list_and_cannot_be_forged() {
        let text = Cursor { kind: "volume", key: "a/ü".into() }.text();
        assert_eq!(Cursor::parse("volume", &text).unwrap(), "a/ü");
        for bad in ["", "volume", "volume.", "node.61", "volume.6", "volume.zz", "volume.ff", "volume.+1"] {
            if bad == "volume." {
                assert_eq!(Cursor::parse("volume", bad).unwrap(), "", "the beginning");
            } else {
                assert_eq!(Cursor::parse("volume", bad).unwrap_err().code, Code::Invalid, "{bad}");
            }
        }
        assert!(Cursor::parse("volume", &format!("volume.{}", "61".repeat(300))).is_err(), "too long");
    }
}
