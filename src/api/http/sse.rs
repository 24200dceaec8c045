//! Server-sent events: frames, and a body that does its own work while it is read.
//!
//! The work is a future inside the body: when the client leaves, hyper drops the body, and with
//! it the future and everything it holds (an engine's events: the request is cancelled).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use futures_util::Stream;
use tokio::sync::mpsc;

/// Frames that may wait for the connection. A slow client stops the work here; the engine's own
/// bound then decides when it counts as gone.
const FRAMES_AHEAD: usize = 16;

/// Where the work of a stream puts its frames.
#[derive(Clone, Debug)]
pub struct Frames(mpsc::Sender<Bytes>);

impl Frames {
    /// `data: …`: one JSON text, which has no line breaks outside of strings' escapes.
    pub async fn data(&self, json: &str) {
        debug_assert!(!json.contains('\n'), "a frame's data is one line");
        self.send(format!("data: {json}\n\n")).await;
    }

    /// `: …`, which clients skip: it keeps proxies and people from giving up.
    pub async fn comment(&self, text: &str) {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.send(format!(": {line}\n\n")).await;
    }

    /// The end that OpenAI's clients wait for.
    pub async fn done(&self) {
        self.send("data: [DONE]\n\n".to_owned()).await;
    }

    async fn send(&self, frame: String) {
        // An error means that the body is gone; the work is about to be dropped with it.
        self.0.send(Bytes::from(frame)).await.ok();
    }
}

/// A body whose bytes are what `work` sends; it ends when the work does.
pub fn body<F>(work: impl FnOnce(Frames) -> F) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let (tx, frames) = mpsc::channel(FRAMES_AHEAD);
    Body::from_stream(Working { work: Some(Box::pin(work(Frames(tx)))), frames })
}

struct Working {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    frames: mpsc::Receiver<Bytes>,
}

impl Stream for Working {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(frame) = self.frames.poll_recv(cx) {
            return Poll::Ready(frame.map(Ok));
        }
        if let Some(work) = &mut self.work
            && work.as_mut().poll(cx).is_ready()
        {
            // Dropping it drops the sender: the receiver ends after what it still has.
            self.work = None;
        }
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::*;

    struct OnDrop(Arc<AtomicBool>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn frames_are_byte_exact() {
        let body = body(|f| async move {
            f.comment("loading 43% eta 6s\r\nx").await;
            for i in 0..FRAMES_AHEAD * 3 {
                f.data(&format!("{{\"i\":{i}}}")).await;
            }
            f.done().await;
        });
        let bytes = body.collect().await.expect("infallible").to_bytes();
        let data: String = (0..FRAMES_AHEAD * 3).map(|i| format!("data: {{\"i\":{i}}}\n\n")).collect();
        assert_eq!(&bytes[..], format!(": loading 43% eta 6s  x\n\n{data}data: [DONE]\n\n").as_bytes());
    }

    #[tokio::test]
    async fn dropping_the_body_drops_the_work() {
        let dropped = Arc::new(AtomicBool::new(false));
        let guard = OnDrop(Arc::clone(&dropped));
        let mut body = body(|f| async move {
            let _guard = guard;
            f.comment("x").await;
            std::future::pending::<()>().await;
        });
        assert!(body.frame().await.is_some());
        assert!(!dropped.load(Ordering::SeqCst));
        drop(body);
        assert!(dropped.load(Ordering::SeqCst));
    }
}
