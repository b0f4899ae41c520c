//! A volume's policy as the API says and takes it. Its schema is made from the attribute table, so a new attribute
//! needs no line here.

use crate::error::{Code, Problem};
use hf_policy::attribute::{DEFAULT, Fallback, Kind, LABEL_PREFIX};
use hf_policy::policy::AttrMap;
use hf_policy::{Attribute, TABLE};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};
use std::collections::BTreeMap;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A volume's policy: attributes by their keys. Bytes and seconds are numbers, or texts with a unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeSpec(pub BTreeMap<String, Value>);

/// Bytes of a key, at most: those of a label with its prefix.
const MOST_KEY: usize = 128;
/// Attributes that one request may set, at most.
const MOST: usize = 256;

impl VolumeSpec {
    /// The attributes as they are stored, checked one by one. Unknown keys are refused with the nearest known one.
    pub fn attrs(&self) -> Result<AttrMap, Problem> {
        if self.0.len() > MOST {
            return Err(Problem::new(Code::TooLarge, format!("the policy has {} attributes", self.0.len()))
                .because(format!("a request may set {MOST}")));
        }
        self.0.iter().map(|(k, v)| Ok((k.clone(), checked(k, v)?))).collect()
    }

    /// The attributes of a map that was stored, as numbers, truths and words.
    pub fn shown(attrs: &AttrMap) -> VolumeSpec {
        VolumeSpec(attrs.iter().map(|(k, v)| (k.clone(), value(k, v))).collect())
    }

    /// All attributes: those that are set, and the defaults of the others.
    pub fn effective(attrs: &AttrMap) -> VolumeSpec {
        let mut all = VolumeSpec::shown(attrs);
        for a in TABLE {
            let text = match a.default {
                Fallback::Required => continue,
                Fallback::Text(t) => t.to_string(),
                Fallback::Computed { text, .. } => text(attrs),
            };
            all.0.entry(a.key.to_string()).or_insert_with(|| value(a.key, &text));
        }
        all
    }
}

/// The stored text of one attribute.
fn checked(key: &str, given: &Value) -> Result<String, Problem> {
    let pointer = format!("/spec/{}", key.replace('~', "~0").replace('/', "~1"));
    let refuse = |why: String| Problem::new(Code::Invalid, format!("attribute {key}")).because(why).at(&pointer);
    if key.len() > MOST_KEY {
        let begin: String = key.chars().take(32).collect();
        return Err(Problem::new(Code::UnknownAttribute, format!("no attribute has a name of {} bytes", key.len()))
            .because(format!("it begins with {begin}"))
            .at("/spec"));
    }
    let text = match given {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => number(key, n).map_err(refuse)?,
        Value::Null => return Err(refuse("null is no value; the text \"default\" takes it back".into())),
        Value::Array(_) | Value::Object(_) => {
            return Err(refuse("it is a text, a number or true or false, not a list or an object".into()));
        }
    };
    hf_policy::table::check(key, &text).map_err(|e| Problem::from(&e).at(&pointer))
}

/// The text of a number that was given for an attribute, in the unit of the attribute.
fn number(key: &str, n: &Number) -> Result<String, String> {
    let seconds = hf_policy::table::find(key).is_some_and(|a| a.kind == Kind::Seconds);
    match (n.as_u64(), n.as_f64()) {
        (Some(n), _) if n > MOST_INTEGER => {
            Err(format!("{n} is beyond 2^53, where JSON numbers lose digits; write it as a text with a unit"))
        }
        (Some(0), _) => Ok("0".into()),
        (Some(n), _) if seconds => Ok(format!("{n}s")),
        (Some(n), _) => Ok(n.to_string()),
        (None, Some(0.0)) if seconds => Ok("0".into()),
        // To the microsecond, as they are kept. Less is not taken for 0, which may mean something else.
        (None, Some(f)) if seconds && (1e-6..1e9).contains(&f) => Ok(format!("{}us", (f * 1e6).round())),
        (None, _) if seconds => Err(format!("{n} is not a number of seconds")),
        _ => Err(format!("{n} is not a whole number of 0 or more")),
    }
}

/// Integers in JSON are exact up to here.
pub const MOST_INTEGER: u64 = 1 << 53;

/// A stored text as the value that the API says.
fn value(key: &str, text: &str) -> Value {
    let kind = hf_policy::table::find(key).map(|a| a.kind);
    let parsed = match kind {
        Some(Kind::Bytes) => hf_policy::parse_size(text).ok().map(Value::from),
        Some(Kind::Seconds) => hf_policy::parse_duration_us(text).ok().map(seconds),
        Some(Kind::Count) => text.parse::<u64>().ok().map(Value::from),
        Some(Kind::Percent) => text.trim_end_matches('%').trim().parse::<u64>().ok().map(Value::from),
        Some(Kind::Flag) => text.parse::<bool>().ok().map(Value::from),
        Some(Kind::Word(_) | Kind::Names) | None => None,
    };
    parsed.unwrap_or_else(|| Value::from(text))
}

/// Microseconds as seconds: a whole number where it is one.
fn seconds(us: u64) -> Value {
    if us.is_multiple_of(1_000_000) { Value::from(us / 1_000_000) } else { Value::from(us as f64 / 1e6) }
}

/// The largest whole number up to 1,024 that an attribute may be.
fn most(a: &Attribute) -> u64 {
    (1..=1024).rev().find(|n| (a.check)(&n.to_string()).is_ok()).unwrap_or(1)
}

/// The shortest and the longest time of an attribute, as its row in the table says them, in seconds.
fn bounds(a: &Attribute) -> (Value, Value) {
    let words = a.values.rsplit(' ').next().and_then(|range| range.split_once('–'));
    let time = |text: &str| hf_policy::parse_duration_us(text).map(seconds).unwrap_or_else(|_| 0.into());
    words.map_or((0.into(), 0.into()), |(least, longest)| (time(least), time(longest)))
}

/// The JSON schema of one attribute.
fn schema_of(a: &Attribute) -> Value {
    let forms = match a.kind {
        Kind::Bytes if a.key == "size" => json!([
            {"type": "integer", "minimum": 4096, "maximum": hf_policy::MAX_VOLUME_BYTES, "multipleOf": 4096, "x-unit": "bytes"},
            {"type": "string", "pattern": "^([1-9][0-9]{0,5}(M|MiB|G|GiB)|[1-9][0-9]{0,2}(T|TiB))$"},
        ]),
        Kind::Bytes => {
            json!([{"type": "integer", "enum": [512, 4096], "x-unit": "bytes"}, {"type": "string", "enum": ["512", "4096"]}])
        }
        Kind::Seconds => {
            let (least, longest) = bounds(a);
            let also: &[u64] = if (a.check)("0").is_ok() { &[0] } else { &[] };
            json!([
                {"type": "number", "minimum": least, "maximum": longest, "x-unit": "seconds"},
                {"type": "integer", "enum": also, "x-unit": "seconds"},
                {"type": "string", "pattern": "^[0-9]{1,4}(ms|s|m|h|d)?$"},
            ])
        }
        Kind::Count => {
            let digits = if most(a) < 10 { format!("^[1-{}]$", most(a)) } else { "^[1-9][0-9]{0,2}$".into() };
            json!([{"type": "integer", "minimum": 1, "maximum": most(a)}, {"type": "string", "pattern": digits}])
        }
        Kind::Percent => {
            json!([{"type": "integer", "minimum": 0, "maximum": 100}, {"type": "string", "pattern": "^([1-9]?[0-9]|100)%?$"}])
        }
        Kind::Flag => {
            json!([{"type": "boolean"}, {"type": "string", "enum": ["true", "false", "yes", "no", "on", "off"]}])
        }
        Kind::Word(words) => json!([{"type": "string", "enum": words}]),
        Kind::Names => {
            json!([{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}(,[A-Za-z0-9][A-Za-z0-9_.-]{0,62}){0,15}$"}])
        }
    };
    let mut forms = forms.as_array().cloned().unwrap_or_default();
    // An enumeration of nothing is no schema.
    forms.retain(|f| f["enum"].as_array().is_none_or(|e| !e.is_empty()));
    forms.push(json!({"type": "string", "enum": [DEFAULT]}));
    json!({"description": format!("{} Values: {}. Default: {}. Changes online: {}.", a.help, a.values, a.default.shown(), a.online.text()), "anyOf": forms})
}

/// The JSON schema of a policy, from the attribute table.
pub fn spec_schema() -> Value {
    let rows: serde_json::Map<String, Value> = TABLE.iter().map(|a| (a.key.to_string(), schema_of(a))).collect();
    let label = format!("^{}[A-Za-z0-9_./-]{{1,63}}$", LABEL_PREFIX.replace('.', "\\."));
    json!({
        "type": "object",
        "description": "A volume's policy: attributes by their keys (holdfast policy attributes). Free labels begin with label.",
        "properties": rows,
        "patternProperties": {label: {"type": "string", "maxLength": 255, "pattern": "^[ -~]*$"}},
        "additionalProperties": false,
    })
}

/// Puts into the schemas of the API's types what their derived schemas cannot say: the attributes of a policy, labels,
/// the forms of a size, that a change changes something, and how many nodes may vote.
pub fn patch_schemas(schemas: &mut Value) {
    schemas["VolumeSpec"] = spec_schema();
    for (_, label) in schemas["VolumeSpec"]["patternProperties"].as_object_mut().into_iter().flatten() {
        *label = json!({
            "description": "255 bytes of UTF-8 at most, without control characters. Numbers and truths are kept as texts.",
            "anyOf": [
                {"type": "string", "maxLength": 255, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"},
                {"type": "integer", "minimum": 0, "maximum": MOST_INTEGER},
                {"type": "boolean"},
            ],
        });
    }
    let size = &mut schemas["VolumeSpec"]["properties"]["size"];
    if let Some(forms) = size["anyOf"].as_array_mut() {
        forms.retain(|f| f["enum"] != json!([DEFAULT])); // It has none.
    }
    let size = size.clone();
    schemas["Resize"]["properties"]["size"] = size;
    schemas["PolicyChange"]["properties"]["spec"] =
        json!({"allOf": [{"$ref": "#/components/schemas/VolumeSpec"}, {"minProperties": 1}]});
    let count = &mut schemas["Voters"]["properties"]["count"];
    *count = json!({"type": "integer", "enum": [1, 3, 5], "description": count["description"]});
}

impl PartialSchema for VolumeSpec {
    fn schema() -> RefOr<Schema> {
        // The whole schema, which this type cannot say, is put in its place by `patch_schemas`.
        utoipa::openapi::ObjectBuilder::new().description(Some("A volume's policy.")).into()
    }
}

impl ToSchema for VolumeSpec {}
