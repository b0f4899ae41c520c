//! The description of the API: `/openapi.json`, a readable page made from it at `/docs`, and every error code at
//! `/docs/errors`.

#[cfg(test)]
mod compat;

use super::reply::Answer;
use crate::node::Node;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use hf_control::error::CODES;
use serde_json::Value;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

/// The OpenAPI document.
pub fn document() -> Value {
    let (_, mut api) = super::v1().split_for_parts();
    api.info.title = "Holdfast".into();
    api.info.version = "1".into();
    api.info.description = Some(
        "Volumes, disks, nodes and jobs of a Holdfast cluster. Numbers of bytes end in _bytes, seconds in _seconds; \
         times are RFC 3339 in UTC. Version 1 only gains fields and words; unknown input is refused."
            .into(),
    );
    api.info.license = None;
    api.info.contact = None;
    let mut doc = serde_json::to_value(&api).unwrap_or(Value::Null);
    hf_control::model::patch_schemas(&mut doc["components"]["schemas"]);
    for op in doc["paths"].as_object_mut().into_iter().flatten().flat_map(|(_, m)| m.as_object_mut()).flatten() {
        // Handlers of several resources share a name; an identity is unique.
        let name = format!("{}_{}", text(&op.1["tags"][0]), text(&op.1["operationId"]));
        op.1["operationId"] = name.into();
    }
    doc
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| serde_json::to_string_pretty(&document()).unwrap_or_default());
static PAGE: LazyLock<String> = LazyLock::new(|| page(&document()));

/// The paths of this module.
pub fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/openapi.json", get(|| async { Answer::json(StatusCode::OK, DOCUMENT.clone(), 0) }))
        .route("/docs", get(|| async { html(PAGE.clone()) }))
        .route("/docs/errors", get(|| async { html(errors()) }))
}

/// A page that may load nothing and run nothing.
fn html(text: String) -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'")], Html(text))
}

const STYLE: &str = "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}\
code{font-family:ui-monospace,monospace}td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}h2{margin-top:2rem}</style>";

fn escaped(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn errors() -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><title>Holdfast: errors</title>{STYLE}<h1>Errors</h1><table><tr><th>Code<th>HTTP<th>Exit<th>Means"
    );
    for m in CODES {
        let _ = write!(
            out,
            "<tr id={0}><td><code>{0}</code><td>{1}<td>{2}<td>{3}",
            m.word,
            m.status,
            m.exit,
            escaped(m.means)
        );
    }
    out + "</table></html>"
}

/// A readable page of the whole API.
fn page(doc: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><title>Holdfast: API</title>{STYLE}<h1>Holdfast API</h1><p>{}<p>The whole description: <a href=/openapi.json>/openapi.json</a>. Errors: <a href=/docs/errors>/docs/errors</a>.",
        escaped(doc["info"]["description"].as_str().unwrap_or_default())
    );
    for (path, methods) in doc["paths"].as_object().into_iter().flatten() {
        for (method, op) in methods.as_object().into_iter().flatten() {
            let text = |k: &str| escaped(op[k].as_str().unwrap_or_default());
            let _ =
                write!(out, "<h2><code>{} {}</code></h2><p>{}", method.to_uppercase(), escaped(path), text("summary"));
            parameters(&mut out, op);
            if let Some(name) = reference(&op["requestBody"]["content"]["application/json"]["schema"]) {
                let _ = write!(out, "<p>Body: <a href=#{name}>{name}</a>");
            }
            for (status, r) in op["responses"].as_object().into_iter().flatten() {
                let schema = r["content"].as_object().and_then(|c| c.values().next()).map(|c| &c["schema"]);
                let name = schema.and_then(reference).map(|n| format!(": <a href=#{n}>{n}</a>")).unwrap_or_default();
                let _ = write!(out, "<p>{status} {}{name}", escaped(r["description"].as_str().unwrap_or_default()));
            }
        }
    }
    out += "<h1>Types</h1>";
    for (name, schema) in doc["components"]["schemas"].as_object().into_iter().flatten() {
        let _ =
            write!(out, "<h2 id={name}>{name}</h2><p>{}", escaped(schema["description"].as_str().unwrap_or_default()));
        fields(&mut out, schema);
    }
    out + "</html>"
}

fn parameters(out: &mut String, op: &Value) {
    let all = op["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        return;
    }
    *out += "<table>";
    for p in all {
        let text = |k: &str| escaped(p[k].as_str().unwrap_or_default());
        let must = if p["required"] == true { ", required" } else { "" };
        let _ = write!(out, "<tr><td><code>{}</code><td>{}{must}<td>{}", text("name"), text("in"), text("description"));
    }
    *out += "</table>";
}

fn fields(out: &mut String, schema: &Value) {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(|w| w.as_str()).map(|w| format!("<code>{w}</code>")).collect();
        let _ = write!(out, "<p>One of {}", words.join(", "));
    }
    *out += "<table>";
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let kind = reference(field).map(|n| format!("<a href=#{n}>{n}</a>"));
        let items = reference(&field["items"]).map(|n| format!("list of <a href=#{n}>{n}</a>"));
        let kind = kind.or(items).unwrap_or_else(|| escaped(&field["type"].to_string().replace('"', "")));
        let _ = write!(
            out,
            "<tr><td><code>{name}</code><td>{kind}<td>{}",
            escaped(field["description"].as_str().unwrap_or_default())
        );
    }
    *out += "</table>";
}

/// The name of the type that a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// The description in docs/ is this one, and clients of it are served as before. `UPDATE=1` writes it anew, unless
    /// the change would break them.
    #[test]
    fn the_description_is_the_golden_one_and_breaks_no_client() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api/openapi.json");
        let new = document();
        let text = serde_json::to_string_pretty(&new).unwrap() + "\n";
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        if let Ok(old) = serde_json::from_str::<Value>(&golden) {
            assert_eq!(compat::breaks(&old, &new), Vec::<String>::new(), "version 1 only gains fields and words");
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            return std::fs::write(path, text).unwrap();
        }
        assert!(golden == text, "docs/api/openapi.json is not what is served; write it anew with UPDATE=1");
    }

    #[test]
    fn every_path_and_type_is_on_the_page() {
        let page = page(&document());
        for (path, _) in document()["paths"].as_object().unwrap() {
            assert!(page.contains(&escaped(path)), "{path}");
        }
        assert!(page.contains("id=Volume>") && errors().contains("not_in_time"));
        assert!(!page.contains("<script"));
    }
}
