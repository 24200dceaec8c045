//! A client that leaves ends its request within a step.

use std::time::Duration;

use super::fixture::server;

async fn leaves(body: &str, n: usize) {
    let s = server().await;
    s.control.allow(3);
    let mut c = s.post("/v1/completions", body).await;
    if body.contains("stream") {
        assert_eq!(c.head().await.status, 200);
        c.chunk().await;
    }
    s.requests(n).await;
    drop(c);
    // The server notices without another step, and the engine with the next one.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = s.control.steps();
    s.control.free();
    s.requests(0).await;
    let more = s.control.steps() - before;
    assert!(more <= 1, "{more} steps after the client left");
}

#[tokio::test]
async fn a_stream() {
    leaves(r#"{"model":"m","prompt":"0","stream":true}"#, 1).await;
}

#[tokio::test]
async fn a_whole_answer() {
    leaves(r#"{"model":"m","prompt":"0"}"#, 1).await;
}

#[tokio::test]
async fn all_choices() {
    leaves(r#"{"model":"m","prompt":"0","n":3}"#, 3).await;
    leaves(r#"{"model":"m","prompt":["0","1"],"n":2,"stream":true}"#, 4).await;
}
