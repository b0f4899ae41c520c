//! What this node exports now.

use hf_frontends::nbd::ExportInfo;
use hf_policy::{SessionId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::RwLock;

/// A volume this node serves now.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What clients see.
    pub info: ExportInfo,
    /// The volume that is exported.
    pub vol: VolumeId,
    /// The attachment by which this node serves it.
    pub session: SessionId,
    /// Where it is coordinated.
    pub reactor: usize,
}

/// What this node exports, by name; nothing any more once it is closed. An attachment that is asked
/// to end is not exported again.
pub struct ExportTable {
    open: RwLock<Option<Table>>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// Attachments that were asked to end, as long as the record names them.
    ending: BTreeSet<(VolumeId, SessionId)>,
}

impl Default for ExportTable {
    fn default() -> Self {
        ExportTable { open: RwLock::new(Some(Table::default())) }
    }
}

impl ExportTable {
    fn change(&self, f: impl FnOnce(&mut Table)) {
        if let Ok(mut t) = self.open.write()
            && let Some(t) = t.as_mut()
        {
            f(t)
        }
    }
    /// Adds or replaces an export, unless its attachment was asked to end.
    pub fn put(&self, e: Entry) {
        self.change(|t| {
            if !t.ending.contains(&(e.vol, e.session)) {
                t.entries.insert(e.info.name.clone(), e);
            }
        });
    }
    /// Takes an attachment's exports away.
    pub fn remove(&self, vol: VolumeId, session: SessionId) {
        self.change(|t| t.entries.retain(|_, e| e.vol != vol || e.session != session));
    }
    /// Takes an attachment's exports away for good: it was asked to end, however long that takes.
    pub fn end(&self, vol: VolumeId, session: SessionId) {
        self.change(|t| {
            t.ending.insert((vol, session));
            t.entries.retain(|_, e| e.vol != vol || e.session != session);
        });
    }
    /// Was this attachment asked to end?
    pub fn is_ending(&self, vol: VolumeId, session: SessionId) -> bool {
        self.open.read().is_ok_and(|t| t.as_ref().is_some_and(|t| t.ending.contains(&(vol, session))))
    }
    /// Forgets attachments that have ended: the record does not name them any more.
    pub fn forget_ended(&self, named: impl Fn(VolumeId) -> Option<SessionId>) {
        self.change(|t| t.ending.retain(|(vol, session)| named(*vol) == Some(*session)));
    }
    /// Takes all away, for good: the node stops.
    pub fn close(&self) {
        if let Ok(mut t) = self.open.write() {
            *t = None;
        }
    }
    /// Is this attachment exported?
    pub fn has(&self, vol: VolumeId, session: SessionId) -> bool {
        self.all().iter().any(|e| e.vol == vol && e.session == session)
    }
    /// The export of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.open.read().ok()?.as_ref()?.entries.get(name).cloned()
    }
    /// All of them.
    pub fn all(&self) -> Vec<Entry> {
        let t = self.open.read();
        t.map(|t| t.iter().flat_map(|t| t.entries.values().cloned()).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attachment_that_was_asked_to_end_is_not_exported_again() {
        let t = ExportTable::default();
        let (vol, old, new) = (VolumeId(1), SessionId(1), SessionId(2));
        let info = ExportInfo { name: "v".into(), size: 4096, read_only: false, description: String::new() };
        let put = |session| t.put(Entry { info: info.clone(), vol, session, reactor: 0 });
        put(old);
        t.end(vol, old);
        put(old);
        assert!(t.get("v").is_none() && t.is_ending(vol, old));
        t.forget_ended(|_| Some(old));
        assert!(t.is_ending(vol, old), "the record names it");
        // A newer attachment of the same volume is exported, and the earlier one is forgotten.
        put(new);
        t.forget_ended(|_| Some(new));
        assert!(t.has(vol, new) && !t.is_ending(vol, old));
    }
}
