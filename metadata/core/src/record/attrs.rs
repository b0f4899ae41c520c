//! A volume's attributes as they were set, with the policy they mean.
//!
//! The policy is parsed once, when the attributes change or are read from disk or wire, and never stands in a file or a
//! message. Attributes that this release cannot parse (input: an image may come from anywhere) are kept as they are;
//! the error is what [`Attrs::policy`] returns.

use hf_policy::policy::AttrMap;
use hf_policy::{AttrError, Policy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Attributes and their policy. They change only as a whole, so the two always agree; a clone shares both.
#[derive(Clone)]
pub struct Attrs(Arc<Parsed>);

struct Parsed {
    map: AttrMap,
    policy: Result<Policy, AttrError>,
}

impl Attrs {
    /// What the attributes mean, defaults filled in.
    pub fn policy(&self) -> Result<&Policy, &AttrError> {
        self.0.policy.as_ref()
    }

    /// Sets one attribute, in normal form.
    pub fn set(&mut self, key: &str, value: String) {
        let mut map = self.0.map.clone();
        map.insert(key.into(), value);
        *self = map.into();
    }
}

impl From<AttrMap> for Attrs {
    fn from(map: AttrMap) -> Attrs {
        let policy = Policy::from_attrs(&map);
        Attrs(Arc::new(Parsed { map, policy }))
    }
}

impl Deref for Attrs {
    type Target = AttrMap;
    fn deref(&self) -> &AttrMap {
        &self.0.map
    }
}

impl Default for Attrs {
    fn default() -> Attrs {
        AttrMap::new().into()
    }
}

impl PartialEq for Attrs {
    fn eq(&self, other: &Attrs) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.map == other.0.map
    }
}

impl Eq for Attrs {}

impl fmt::Debug for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map.fmt(f)
    }
}

impl Serialize for Attrs {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.map.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Attrs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Attrs, D::Error> {
        AttrMap::deserialize(d).map(Attrs::from)
    }
}
