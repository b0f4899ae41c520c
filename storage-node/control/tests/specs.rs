//! A volume's policy in JSON: what is taken, what is refused and where the error points, and that what is shown means
//! what is stored. The JSON schema takes what the API takes, and knows no other keys.

use hf_control::error::{Code, Problem};
use hf_control::model::{VolumeSpec, spec_schema};
use hf_meta_core::Refusal;
use hf_policy::attribute::{DEFAULT, Fallback, Kind, Online};
use hf_policy::policy::AttrMap;
use hf_policy::{AttrError, Policy, TABLE};
use serde_json::{Value, json};

fn one(key: &str, value: Value) -> VolumeSpec {
    VolumeSpec([(key.to_string(), value)].into())
}

fn taken(key: &str, value: &Value) -> String {
    one(key, value.clone()).attrs().unwrap_or_else(|e| panic!("{key}={value}: {e}"))[key].clone()
}

/// Values of an attribute: numbers, texts and truths as they are usually written.
fn samples(key: &str) -> Vec<Value> {
    match key {
        "size" => {
            vec![json!(4096), json!(10737418240u64), json!(1u64 << 50), json!("10GiB"), json!("500M"), json!("2TiB")]
        }
        "replicas" | "min_replicas" => vec![json!(1), json!(5), json!("3")],
        "queue_depth" => vec![json!(1), json!(1024), json!("128")],
        "block_size" => vec![json!(512), json!(4096), json!("512")],
        "rebuild_after" => vec![json!(5), json!(600), json!(7.5), json!(2592000), json!("10m"), json!("30d")],
        "replica_timeout" => vec![json!(0.2), json!(1), json!(60), json!(1.25), json!("200ms"), json!("1s")],
        "scrub_interval" => vec![json!(0), json!(60), json!(604800), json!("7d"), json!("0")],
        "rebuild_impact" => vec![json!(0), json!(100), json!("20%"), json!("20")],
        "nodes" => vec![json!("any"), json!("n1"), json!("n1,n2,rack-3.node_4")],
        "read_only" | "sticky" | "strict_reads" => vec![json!(true), json!(false), json!("true"), json!("no")],
        _ => match hf_policy::table::find(key).unwrap().kind {
            Kind::Word(words) => words.iter().map(|w| json!(w)).collect(),
            kind => panic!("attribute {key} ({kind:?}) has no samples: write some here"),
        },
    }
}

#[test]
fn every_attribute_goes_round_as_number_text_and_default() {
    for a in TABLE {
        for sample in samples(a.key) {
            let stored = taken(a.key, &sample);
            assert_eq!((a.check)(&stored).as_ref(), Ok(&stored), "{} is stored in normal form", a.key);
            let shown = VolumeSpec::shown(&[(a.key.to_string(), stored.clone())].into());
            let value = &shown.0[a.key];
            let fits = match a.kind {
                Kind::Bytes | Kind::Count | Kind::Percent => value.is_u64(),
                Kind::Seconds => value.is_number(),
                Kind::Flag => value.is_boolean(),
                Kind::Word(_) | Kind::Names => value.is_string(),
            };
            assert!(fits, "{}: {sample} is shown as {value}", a.key);
            assert_eq!(taken(a.key, value), stored, "{}: {sample} is shown as {value}", a.key);
            if sample.is_number() {
                assert_eq!(value.as_f64(), sample.as_f64(), "{}", a.key);
            }
        }
        assert_eq!(taken(a.key, &json!(DEFAULT)), DEFAULT);
    }
    // To the microsecond, and what is less is not taken for 0, which means never.
    let stored = AttrMap::from([("replica_timeout".to_string(), "1500500us".to_string())]);
    assert_eq!(VolumeSpec::shown(&stored).attrs().unwrap(), stored);
    assert_eq!(one("scrub_interval", json!(1e-9)).attrs().unwrap_err().code, Code::Invalid);
    assert_eq!(taken("scrub_interval", &json!(0.0)), "0");
}

#[test]
fn the_effective_policy_has_every_attribute_as_it_is_followed() {
    let attrs = one("size", json!("1GiB")).attrs().unwrap();
    let all = VolumeSpec::effective(&attrs);
    assert_eq!(
        all.0.keys().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        TABLE.iter().map(|a| a.key).collect()
    );
    assert_eq!(Policy::from_attrs(&all.attrs().unwrap()), Policy::from_attrs(&attrs));
    assert_eq!(all.0["min_replicas"], 2);
    let one_copy = VolumeSpec([("size".to_string(), json!(4096)), ("replicas".to_string(), json!(1))].into());
    assert_eq!(VolumeSpec::effective(&one_copy.attrs().unwrap()).0["min_replicas"], 1);
}

#[test]
fn what_no_attribute_may_be_is_refused_with_its_place() {
    let wrong = [
        json!(null),
        json!([]),
        json!(["n1"]),
        json!({}),
        json!({"a": 1}),
        json!(-1),
        json!(-0.5),
        json!(1e300),
        json!("\u{0}"),
        json!("a\u{7}b"),
        json!(9007199254740993u64),
        json!(u64::MAX),
        json!(i64::MIN),
    ];
    for a in TABLE {
        for value in &wrong {
            let e = one(a.key, value.clone()).attrs().expect_err(&format!("{}={value}", a.key));
            assert_eq!((e.code, e.status), (Code::Invalid, 400), "{e}");
            assert_eq!(e.subject, Some(format!("/spec/{}", a.key)), "{e}");
            assert!(e.detail.contains(a.key), "{e}");
        }
    }
    let e = one("size", json!(9007199254740993u64)).attrs().unwrap_err();
    assert!(e.why.contains("2^53") && e.why.contains("text"), "{e}");
    for (key, value) in
        [("replicas", json!(2.5)), ("size", json!(4096.5)), ("queue_depth", json!(1.0)), ("replicas", json!(6))]
    {
        assert_eq!(one(key, value).attrs().unwrap_err().code, Code::Invalid, "{key}");
    }
    // Digits that a JSON number loses are taken as text.
    assert_eq!(taken("size", &json!((1u64 << 50).to_string())), (1u64 << 50).to_string());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_and_labels_are_free() {
    for (key, near) in [("replica", "replicas"), ("siz", "size"), ("read-only", "read_only"), ("Size", "size")] {
        let e = one(key, json!(1)).attrs().unwrap_err();
        assert_eq!((e.code, e.next), (Code::UnknownAttribute, format!("use {near}")), "{key}");
        assert_eq!(e.subject, Some(format!("/spec/{key}")));
    }
    let e = one("a/b~c", json!(1)).attrs().unwrap_err();
    assert_eq!(e.subject.as_deref(), Some("/spec/a~1b~0c"), "a JSON pointer");
    for key in ["frobnicate", "", "label", "ＳＩＺＥ", "size\0"] {
        assert_eq!(one(key, json!(1)).attrs().unwrap_err().code, Code::UnknownAttribute, "{key:?}");
    }
    let e = one(&"x".repeat(1 << 20), json!(1)).attrs().unwrap_err();
    assert!(e.code == Code::UnknownAttribute && e.detail.len() < 200, "an error is not as long as what is wrong");
    let text = "x".repeat(255);
    for (key, value) in
        [("label.app", "shop"), ("label.a/b.c-d_E", ""), ("label.t", "ü ~/"), ("label.l", text.as_str())]
    {
        assert_eq!(taken(key, &json!(value)), value);
    }
    assert_eq!(taken("label.n", &json!(5)), "5");
    for (key, value) in [
        ("label.", json!("x")),
        ("label.a b", json!("x")),
        ("label.a\0", json!("x")),
        (format!("label.{}", "x".repeat(64)).as_str(), json!("x")),
        ("label.a", json!("x".repeat(256))),
        ("label.a", json!("a\nb")),
        ("label.a", json!(null)),
        ("label.a", json!(["x"])),
    ] {
        let e = one(key, value.clone()).attrs().unwrap_err();
        assert_eq!(e.code, Code::Invalid, "{key}={value}");
        assert!(e.subject.unwrap().starts_with("/spec/label."), "{key}");
    }
    let many = |n: usize| VolumeSpec((0..n).map(|i| (format!("label.k{i}"), json!("x"))).collect());
    assert_eq!(many(256).attrs().unwrap().len(), 256);
    let e = many(257).attrs().unwrap_err();
    assert!((e.code, e.status) == (Code::TooLarge, 413) && e.why.contains("256"), "{e}");
}

/// Does a value fit a schema, of the words that ours uses? An unknown word is an error of the test.
fn fits(schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(word, rule)| match word.as_str() {
        "description" | "x-unit" => rule.is_string(),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
            "number" => value.is_number(),
            other => panic!("type {other}"),
        },
        "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|v| v <= rule.as_f64().unwrap()),
        "multipleOf" => value.as_u64().is_none_or(|v| v % rule.as_u64().unwrap() == 0),
        "maxLength" => value.as_str().is_none_or(|s| s.chars().count() as u64 <= rule.as_u64().unwrap()),
        "enum" => {
            assert!(!rule.as_array().unwrap().is_empty(), "an enumeration of nothing");
            rule.as_array().unwrap().contains(value)
        }
        "pattern" => value.as_str().is_none_or(|s| matches(rule.as_str().unwrap(), s)),
        "anyOf" => rule.as_array().unwrap().iter().any(|s| fits(s, value)),
        "properties" | "patternProperties" | "additionalProperties" => {
            value.as_object().is_none_or(|o| members(schema, o))
        }
        other => panic!("the schema says {other}"),
    })
}

fn members(schema: &Value, o: &serde_json::Map<String, Value>) -> bool {
    o.iter().all(|(key, value)| {
        let row = schema["properties"].get(key);
        let labels = schema["patternProperties"].as_object().unwrap().iter();
        let rules: Vec<&Value> =
            row.into_iter().chain(labels.filter(|(p, _)| matches(p, key)).map(|(_, s)| s)).collect();
        assert_eq!(schema["additionalProperties"], false);
        !rules.is_empty() && rules.into_iter().all(|s| fits(s, value))
    })
}

/// Matches `^…$` with classes, groups of alternatives, `?` and `{m,n}`: all that our patterns use.
fn matches(pattern: &str, text: &str) -> bool {
    let p: Vec<char> = pattern.strip_prefix('^').and_then(|p| p.strip_suffix('$')).unwrap().chars().collect();
    rests(&p, &text.chars().collect::<Vec<_>>()).contains(&0)
}

/// How much of the text may be left when the pattern has matched its beginning.
fn rests(p: &[char], t: &[char]) -> std::collections::BTreeSet<usize> {
    let Some((atom, tail)) = split(p) else { return [t.len()].into() };
    let (least, most, tail) = times(tail);
    let mut now = std::collections::BTreeSet::from([t.len()]);
    let mut all = std::collections::BTreeSet::new();
    for n in 0..=most {
        if n >= least {
            all.extend(now.iter().flat_map(|left| rests(tail, &t[t.len() - left..])));
        }
        now = now.iter().flat_map(|left| once(atom, &t[t.len() - left..])).collect();
        if now.is_empty() {
            break;
        }
    }
    all
}

fn split(p: &[char]) -> Option<(&[char], &[char])> {
    let end = match p.first()? {
        '[' => p.iter().position(|c| *c == ']').unwrap() + 1,
        '(' => {
            let mut depth = 0;
            let closes = |c: &char| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth == 0
            };
            p.iter().position(closes).unwrap() + 1
        }
        '\\' => 2,
        _ => 1,
    };
    Some(p.split_at(end))
}

fn times(p: &[char]) -> (usize, usize, &[char]) {
    match p.first() {
        Some('?') => (0, 1, &p[1..]),
        Some('*') => (0, 10_000, &p[1..]),
        Some('{') => {
            let end = p.iter().position(|c| *c == '}').unwrap();
            let text: String = p[1..end].iter().collect();
            let (a, b) = text.split_once(',').unwrap();
            (a.parse().unwrap(), b.parse().unwrap(), &p[end + 1..])
        }
        _ => (1, 1, p),
    }
}

fn once(atom: &[char], t: &[char]) -> Vec<usize> {
    let one = |is: bool| if is { vec![t.len() - 1] } else { vec![] };
    match (atom, t.first()) {
        (['(', inner @ .., ')'], _) => {
            let mut depth = 0;
            let between = |c: &char| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth == 0 && *c == '|'
            };
            inner.split(between).flat_map(|way| rests(way, t)).collect()
        }
        (_, None) => vec![],
        (['[', class @ .., ']'], Some(c)) => {
            let mut is = false;
            let mut i = 0;
            while i < class.len() {
                if class.get(i + 1) == Some(&'-') && i + 2 < class.len() {
                    is |= (class[i]..=class[i + 2]).contains(c);
                    i += 3;
                } else {
                    is |= class[i] == *c;
                    i += 1;
                }
            }
            one(is)
        }
        (['\\', x], Some(c)) | ([x], Some(c)) => one(x == c),
        _ => panic!("{atom:?}"),
    }
}

#[test]
fn the_schema_takes_what_the_api_takes_and_no_other_keys() {
    let schema = spec_schema();
    assert_eq!(schema["properties"].as_object().unwrap().len(), TABLE.len());
    let in_both = |key: &str, value: Value| {
        let spec = one(key, value);
        let text = serde_json::to_value(&spec).unwrap();
        assert_eq!(fits(&schema, &text), spec.attrs().is_ok(), "{text}: {:?}", spec.attrs());
    };
    for a in TABLE {
        samples(a.key).into_iter().for_each(|v| in_both(a.key, v));
        in_both(a.key, json!(DEFAULT));
        for wrong in [json!(null), json!([]), json!({}), json!(-1), json!("nonsense"), json!("a b"), json!(1e300)] {
            in_both(a.key, wrong);
        }
        let row = &schema["properties"][a.key];
        assert!(row["description"].as_str().unwrap().contains(a.help) && row["anyOf"].is_array());
        let default = match a.default {
            Fallback::Required => continue,
            Fallback::Text(t) => t.to_string(),
            Fallback::Computed { text, .. } => text(&AttrMap::new()),
        };
        let shown = VolumeSpec::shown(&[(a.key.to_string(), default)].into());
        in_both(a.key, shown.0[a.key].clone());
    }
    for (key, value) in [
        ("replicas", json!(0)),
        ("replicas", json!(6)),
        ("queue_depth", json!(1025)),
        ("size", json!(4095)),
        ("size", json!(4097)),
        ("size", json!((1u64 << 50) + 4096)),
        ("rebuild_after", json!(4)),
        ("rebuild_after", json!(2592001)),
        ("replica_timeout", json!(0.1)),
        ("replica_timeout", json!(61)),
        ("scrub_interval", json!(1)),
        ("scrub_interval", json!(59.9)),
        ("rebuild_impact", json!(101)),
        ("block_size", json!(1024)),
        ("block_size", json!("4KiB")),
        ("nodes", json!("n1,,n2 x")),
        ("media", json!("tape")),
        ("relpicas", json!(3)),
        ("label", json!("x")),
        ("label.", json!("x")),
        ("label.app", json!("shop")),
        ("label.a/b", json!("")),
        ("label.a b", json!("x")),
        ("label.a", json!("x".repeat(256))),
        ("label.a", json!("a\tb")),
    ] {
        in_both(key, value);
    }
    assert!(!fits(&schema, &json!([])) && fits(&schema, &json!({})));
}

/// How many kinds of refusals there are.
const KINDS: usize = 14;

/// A number for each kind of refusal. A new kind does not compile here: it needs a row below, too.
fn number(r: &Refusal) -> usize {
    match r {
        Refusal::EpochMismatch { .. } => 0,
        Refusal::StaleTerm { .. } => 1,
        Refusal::LastReplica => 2,
        Refusal::Attached { .. } => 3,
        Refusal::NotAttached => 4,
        Refusal::NotReady(_) => 5,
        Refusal::Exists { .. } => 6,
        Refusal::NotFound { .. } => 7,
        Refusal::Sticky(_) => 8,
        Refusal::State(_) => 9,
        Refusal::Busy(_) => 10,
        Refusal::Invalid(_) => 11,
        Refusal::Unplaceable(_) => 12,
        Refusal::NoSpace(_) => KINDS - 1,
    }
}

#[test]
fn every_refusal_has_a_code_and_a_sentence() {
    let name = || "web".to_string();
    let all = [
        (Refusal::EpochMismatch { now: 3 }, Code::Busy, None),
        (Refusal::StaleTerm { now: 3 }, Code::State, None),
        (Refusal::LastReplica, Code::LastReplica, None),
        (Refusal::Attached { volume: name(), node: "n1".into() }, Code::Attached, Some("volume/web")),
        (Refusal::NotAttached, Code::State, None),
        (Refusal::NotReady(name()), Code::NotReady, Some("volume/web")),
        (Refusal::Exists { kind: "node".into(), name: "n1".into() }, Code::Exists, Some("node/n1")),
        (Refusal::NotFound { kind: "disk".into(), name: "7".into() }, Code::NotFound, Some("disk/7")),
        (Refusal::Sticky(name()), Code::Sticky, Some("volume/web")),
        (Refusal::State("it is so".into()), Code::State, None),
        (Refusal::Busy("too many".into()), Code::Busy, None),
        (Refusal::Invalid("it is wrong".into()), Code::Invalid, None),
        (Refusal::Unplaceable("no disk".into()), Code::Unplaceable, None),
        (Refusal::NoSpace("full".into()), Code::NoSpace, None),
    ];
    let kinds: std::collections::BTreeSet<usize> = all.iter().map(|(r, ..)| number(r)).collect();
    assert_eq!(kinds.len(), KINDS);
    for (refusal, code, subject) in all {
        let text = refusal.to_string();
        let p = Problem::from(refusal.clone());
        assert_eq!((p.code, p.subject.as_deref()), (code, subject), "{text}");
        assert_eq!((p.detail.as_str(), p.what.as_str()), (text.as_str(), text.as_str()));
        // What may be asked again says when; what is refused for good does not.
        use hf_policy::{Fate, HasFate};
        let again = refusal.fate() == Fate::Retry;
        assert_eq!(p.retry_after_seconds.is_some(), again, "{text}");
        let back: Problem = serde_json::from_str(&serde_json::to_string(&p).unwrap()).unwrap();
        assert_eq!(back, p);
    }
}

#[test]
fn errors_of_attributes_have_their_codes() {
    let key = || "size".to_string();
    for (e, code) in [
        (AttrError::Unknown { key: "siz".into(), nearest: Some(key()) }, Code::UnknownAttribute),
        (AttrError::Unknown { key: "x".into(), nearest: None }, Code::UnknownAttribute),
        (AttrError::Value { key: key(), why: "it is odd".into() }, Code::Invalid),
        (AttrError::Twice(key()), Code::Invalid),
        (AttrError::Missing("size"), Code::Invalid),
        (AttrError::NotOnline { key: key(), to: "1".into(), why: "it grows only" }, Code::State),
    ] {
        let p = Problem::from(&e);
        assert_eq!((p.code, p.what), (code, e.to_string()));
    }
    assert!(TABLE.iter().any(|a| a.online == Online::No));
}
