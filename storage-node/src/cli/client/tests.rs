//! The client against real HTTP servers on loopback and on a Unix socket: endpoints that are gone or frozen, nodes
//! that refuse for now, streams that break.
#![allow(clippy::unwrap_used)]

use super::*;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response as Reply};
use axum::routing::any;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Requests as a server saw them: method and path, idempotency key, last event id.
type Seen = Arc<Mutex<Vec<[String; 3]>>>;

/// What a server answers to its first request, its second and so on; the last answer is repeated.
#[derive(Clone)]
struct Server {
    seen: Seen,
    answers: Arc<Vec<(u16, &'static str, String)>>,
}

async fn answer(State(s): State<Server>, request: axum::extract::Request) -> Reply {
    let header = |h: &HeaderMap, name: &str| h.get(name).map_or("", |v| v.to_str().unwrap()).to_string();
    if request.uri().path() == "/livez" {
        return "ok".into_response();
    }
    let line = format!("{} {}", request.method(), request.uri());
    let h = request.headers();
    if request.method() != "GET" {
        assert_eq!((header(h, "holdfast-csrf"), header(h, "content-type")), ("1".into(), "application/json".into()));
    }
    let mut seen = s.seen.lock().unwrap();
    seen.push([line, header(h, "idempotency-key"), header(h, "last-event-id")]);
    let (status, kind, body) = s.answers[(seen.len() - 1).min(s.answers.len() - 1)].clone();
    (StatusCode::from_u16(status).unwrap(), [("content-type", kind)], body).into_response()
}

fn app(answers: Vec<(u16, &'static str, String)>) -> (axum::Router, Seen) {
    let seen = Seen::default();
    let server = Server { seen: seen.clone(), answers: Arc::new(answers) };
    (axum::Router::new().fallback(any(answer)).with_state(server), seen)
}

/// A server on loopback with these answers.
async fn server(answers: Vec<(u16, &'static str, String)>) -> (Endpoint, Seen) {
    let (app, seen) = app(answers);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (endpoint, seen)
}

fn ok(body: Value) -> (u16, &'static str, String) {
    (200, "application/json", body.to_string())
}

fn problem(status: u16, fate: &str) -> (u16, &'static str, String) {
    let body = json!({"status": status, "code": "c", "fate": fate, "what": "w", "retry_after_seconds": 0.05});
    (status, "application/problem+json", body.to_string())
}

/// An endpoint where nobody listens.
async fn nobody_there() -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    Endpoint::Tcp(listener.local_addr().unwrap().to_string())
}

fn client(endpoints: &[&Endpoint], patience_ms: u64) -> Client {
    Client::new(endpoints.iter().map(|e| (*e).clone()).collect(), Duration::from_millis(patience_ms), false)
}

#[tokio::test]
async fn a_change_is_repeated_with_its_key_until_a_node_answers_for_good() {
    let (busy, at_busy) = server(vec![problem(503, "retry")]).await;
    let (slow, at_slow) = server(vec![problem(504, "unknown"), problem(429, "retry"), ok(json!({"done": true}))]).await;
    let c = client(&[&nobody_there().await, &busy, &slow], 20_000);
    let a = c.change(Method::POST, "/v1/x?wait=1", &json!({"a": 1})).await.unwrap();
    assert_eq!((a.status, &a.body["done"]), (200, &json!(true)));
    let (at_busy, at_slow) = (at_busy.lock().unwrap().clone(), at_slow.lock().unwrap().clone());
    assert_eq!((at_busy.len(), at_slow.len()), (3, 3));
    let all: Vec<&[String; 3]> = at_busy.iter().chain(at_slow.iter()).collect();
    assert!(all.iter().all(|r| r[0] == "POST /v1/x?wait=1" && r[1] == all[0][1]), "{all:?}");
    assert_eq!(all[0][1].len(), 32);
    // Another change has another key.
    let (other, at_other) = server(vec![ok(json!({}))]).await;
    let mut c = client(&[&other], 5_000);
    c.dry_run = true;
    c.change(Method::DELETE, "/v1/y", &json!({})).await.unwrap();
    c.change(Method::DELETE, "/v1/y?id=7", &json!({})).await.unwrap();
    let seen = at_other.lock().unwrap();
    assert_eq!(
        (seen[0][0].as_str(), seen[1][0].as_str()),
        ("DELETE /v1/y?dry_run=true", "DELETE /v1/y?id=7&dry_run=true")
    );
    assert_ne!(seen[0][1], seen[1][1]);
}

#[tokio::test]
async fn what_a_node_refuses_for_good_is_not_sent_elsewhere() {
    for (status, code) in [(409, 4), (404, 3), (400, 2), (403, 7), (500, 1)] {
        let (first, _) = server(vec![problem(status, "refuse")]).await;
        let (second, at_second) = server(vec![ok(json!({}))]).await;
        let e = client(&[&first, &second], 5_000).change(Method::POST, "/v1/x", &json!({})).await.unwrap_err();
        assert_eq!((e.code, e.problem.unwrap().what.as_str()), (code, "w"));
        assert!(at_second.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn patience_ends() {
    let (busy, seen) = server(vec![problem(503, "retry")]).await;
    let began = Instant::now();
    let e = client(&[&busy], 400).change(Method::POST, "/v1/x", &json!({})).await.unwrap_err();
    assert_eq!(e.code, 5);
    assert!(began.elapsed() < Duration::from_secs(5) && seen.lock().unwrap().len() > 2);
    // A read is not repeated where it was refused.
    let before = seen.lock().unwrap().len();
    assert_eq!(client(&[&busy], 400).get("/v1/x").await.unwrap_err().code, 5);
    assert_eq!(seen.lock().unwrap().len(), before + 1);
    let (unknown, _) = server(vec![problem(504, "unknown")]).await;
    assert_eq!(client(&[&unknown], 300).change(Method::POST, "/v1/x", &json!({})).await.unwrap_err().code, 6);
}

#[tokio::test]
async fn a_frozen_node_is_asked_last_and_one_that_is_gone_is_passed_over() {
    // It accepts connections, as a stopped process does, and says nothing.
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frozen_at = Endpoint::Tcp(frozen.local_addr().unwrap().to_string());
    let (lively, _) = server(vec![ok(json!({"x": 1}))]).await;
    let gone = nobody_there().await;
    let began = Instant::now();
    let a = client(&[&frozen_at, &gone, &lively], 30_000).get("/v1/x").await.unwrap();
    assert_eq!(a.body["x"], 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let e = client(&[&frozen_at], 300).get("/v1/x").await.unwrap_err();
    let said = e.said(crate::cli::out::Format::Text).unwrap();
    assert!(e.code == 5 && said.contains("no answer within 300.0ms") && said.contains("HOLDFAST_ENDPOINT"), "{said}");
    assert_eq!(client(&[&gone], 300).get("/v1/x").await.unwrap_err().code, 5);
    assert_eq!(client(&[], 300).get("/v1/x").await.unwrap_err().code, 5);
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (app, seen) = app(vec![ok(json!({"x": 1})), (204, "text/plain", String::new())]);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let c = client(&[&Endpoint::Unix(path)], 5_000);
    assert_eq!(c.get("/v1/x").await.unwrap().body["x"], 1);
    assert_eq!(c.change(Method::POST, "/v1/x", &json!({})).await.unwrap().body, Value::Null);
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_no_holdfast_says_is_named() {
    let (strange_one, _) =
        server(vec![(200, "text/html", "<html>".into()), (502, "text/plain", "bad gateway".into())]).await;
    let c = client(&[&strange_one], 5_000);
    let said = c.get("/v1/x").await.unwrap_err().said(crate::cli::out::Format::Text).unwrap();
    assert!(said.contains("is not JSON") && said.contains("http address"), "{said}");
    let e = c.get("/v1/x").await.unwrap_err();
    let said = e.said(crate::cli::out::Format::Text).unwrap();
    assert!(e.code == 1 && said.contains("HTTP status 502: bad gateway"), "{said}");
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_cut_off() {
    const SSE: &str = "text/event-stream";
    let (node, seen) = server(vec![
        (200, SSE, "event: put\nid: 7\ndata: {}\n\n".into()),
        problem(503, "retry"),
        (200, SSE, "event: bookmark\ndata: {}\n\nevent: gone\nid: 9\ndata: {}\n\n".into()),
        problem(410, "begin_anew"),
    ])
    .await;
    let c = client(&[&node], 5_000);
    let mut w = c.watch("/v1/watch?kinds=volume&after=3");
    let mut kinds = Vec::new();
    let end = loop {
        match w.next().await {
            Ok(e) => kinds.push(e.event),
            Err(e) => break e,
        }
    };
    assert_eq!(kinds, ["put", "bookmark", "gone"]);
    assert_eq!(end.problem.unwrap().status, Some(410));
    let last: Vec<String> = seen.lock().unwrap().iter().map(|r| r[2].clone()).collect();
    assert_eq!(last, ["", "7", "7", "9"]);
    // Who never connected is told at once.
    assert_eq!(client(&[&nobody_there().await], 60_000).watch("/v1/watch").next().await.unwrap_err().code, 5);
}
