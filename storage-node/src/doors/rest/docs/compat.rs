//! Compares two descriptions of the API: what a client of the old one could no longer rely on.

use serde_json::Value;
use std::collections::BTreeSet;

/// Everything in `new` that breaks a client of `old`, in words; empty if nothing does.
pub fn breaks(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let inputs = inputs(old);
    for (path, methods) in object(&old["paths"]) {
        for (method, op) in object(methods) {
            let at = format!("{} {path}", method.to_uppercase());
            match &new["paths"][path][method] {
                Value::Null => found.push(format!("{at} is gone")),
                now => operation(&at, op, now, &mut found),
            }
        }
    }
    for (name, schema) in object(&old["components"]["schemas"]) {
        match &new["components"]["schemas"][name] {
            Value::Null => found.push(format!("type {name} is gone")),
            now => compare(name, schema, now, inputs.contains(name.as_str()), &mut found),
        }
    }
    found
}

fn object(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
    v.as_object().into_iter().flatten()
}

/// Types that requests carry, by name.
fn inputs(doc: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let bodies = object(&doc["paths"]).flat_map(|(_, m)| object(m)).map(|(_, op)| &op["requestBody"]);
    let mut left: Vec<&Value> = bodies.collect();
    while let Some(v) = left.pop() {
        if let Some(name) = v["$ref"].as_str().and_then(|r| r.rsplit('/').next())
            && found.insert(name.to_string())
        {
            left.push(&doc["components"]["schemas"][name]);
        }
        match v {
            Value::Object(o) => left.extend(o.values()),
            Value::Array(a) => left.extend(a),
            _ => {}
        }
    }
    found
}

fn operation(at: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let parameters = |op: &Value| op["parameters"].as_array().cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| a["name"] == b["name"] && a["in"] == b["in"];
    let (before, now) = (parameters(old), parameters(new));
    for p in &before {
        let name = p["name"].as_str().unwrap_or_default();
        match now.iter().find(|n| same(p, n)) {
            None => found.push(format!("{at} does not take {name} any more")),
            Some(n) => compare(&format!("{at} {name}"), &p["schema"], &n["schema"], true, found),
        }
    }
    for n in now.iter().filter(|n| n["required"] == true) {
        if !before.iter().any(|p| same(p, n) && p["required"] == true) {
            found.push(format!("{at} requires {} now", n["name"]));
        }
    }
    for (status, r) in object(&old["responses"]) {
        if new["responses"][status].is_null() {
            found.push(format!("{at} does not answer {status} any more"));
        } else if r["content"] != new["responses"][status]["content"] {
            found.push(format!("{at} answers {status} with something else"));
        }
    }
    if old["requestBody"]["content"] != new["requestBody"]["content"] {
        found.push(format!("{at} takes another body"));
    }
}

fn strings(v: &Value) -> BTreeSet<&str> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Compares two schemas; `input`: of what clients send, which may only widen.
fn compare(at: &str, old: &Value, new: &Value, input: bool, found: &mut Vec<String>) {
    for key in ["type", "$ref", "format"] {
        if old[key] != new[key] {
            found.push(format!("{at}: {key} was {}, is {}", old[key], new[key]));
        }
    }
    for word in strings(&old["enum"]).difference(&strings(&new["enum"])) {
        found.push(format!("{at}: the word {word} is gone"));
    }
    let (before, now) = (strings(&old["required"]), strings(&new["required"]));
    let narrower = if input { now.difference(&before) } else { before.difference(&now) };
    for field in narrower {
        found.push(format!("{at}.{field} {}", if input { "is required now" } else { "may be absent now" }));
    }
    for (name, field) in object(&old["properties"]) {
        match &new["properties"][name] {
            Value::Null => found.push(format!("{at}.{name} is gone")),
            now => compare(&format!("{at}.{name}"), field, now, input, found),
        }
    }
    if !old["items"].is_null() {
        compare(&format!("{at}[]"), &old["items"], &new["items"], input, found);
    }
    let forms = |v: &Value| v["anyOf"].as_array().or(v["oneOf"].as_array()).cloned().unwrap_or_default();
    for form in forms(old) {
        if !forms(new).contains(&form) {
            found.push(format!("{at}: the form {form} is gone or narrower"));
        }
    }
    if !input {
        return;
    }
    for (key, up) in [
        ("minimum", false),
        ("minLength", false),
        ("minItems", false),
        ("maximum", true),
        ("maxLength", true),
        ("maxItems", true),
    ] {
        let (a, b) = (old[key].as_f64(), new[key].as_f64());
        let narrower = match (a, b) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(a), Some(b)) => {
                if up {
                    b < a
                } else {
                    b > a
                }
            }
        };
        if narrower {
            found.push(format!("{at}: {key} was {}, is {}", old[key], new[key]));
        }
    }
    if !new["pattern"].is_null() && old["pattern"] != new["pattern"] {
        found.push(format!("{at}: the pattern is another one"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use serde_json::json;

    fn doc() -> Value {
        json!({
            "paths": {"/v": {"post": {
                "parameters": [{"name": "limit", "in": "query", "required": false, "schema": {"type": "integer", "maximum": 10}}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/In"}}}},
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Out"}}}}},
            }}},
            "components": {"schemas": {
                "In": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "string", "enum": ["x", "y"]}}},
                "Out": {"type": "object", "required": ["c"], "properties": {"c": {"type": "integer"}, "w": {"type": "string", "enum": ["p"]}}},
            }},
        })
    }

    #[test]
    fn growth_is_welcome_and_every_narrowing_is_refused() {
        let old = doc();
        let mut new = doc();
        new["paths"]["/w"] = json!({"get": {}});
        new["components"]["schemas"]["Out"]["properties"]["d"] = json!({"type": "string"});
        new["components"]["schemas"]["Out"]["properties"]["w"]["enum"] = json!(["p", "q"]);
        new["components"]["schemas"]["In"]["properties"]["c"] = json!({"type": "string"});
        new["paths"]["/v"]["post"]["parameters"][0]["schema"]["maximum"] = json!(20);
        assert_eq!(breaks(&old, &new), Vec::<String>::new());
        let changes: &[(&str, Value)] = &[
            ("/paths/~1v/post", Value::Null),
            ("/paths/~1v/post/parameters/0/schema/maximum", json!(5)),
            ("/paths/~1v/post/parameters/0/required", json!(true)),
            ("/paths/~1v/post/responses/200", Value::Null),
            ("/components/schemas/In/required", json!(["a", "b"])),
            ("/components/schemas/In/properties/b", Value::Null),
            ("/components/schemas/In/properties/b/enum", json!(["x"])),
            ("/components/schemas/Out/required", json!([])),
            ("/components/schemas/Out/properties/c/type", json!("string")),
            ("/components/schemas/Out/properties/c", Value::Null),
        ];
        for (pointer, value) in changes {
            let mut new = doc();
            *new.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(breaks(&old, &new).len(), 1, "{pointer}: {:?}", breaks(&old, &new));
        }
    }
}
