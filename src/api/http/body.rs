//! Reading a request's body: JSON only, of bounded size, in bounded time, and all of them
//! together in bounded memory.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::ApiError;
use crate::base::limits::{HTTP_BODIES_MAX, HTTP_BODY_TIMEOUT};

/// Bytes of one permit of the semaphore.
const UNIT: u64 = 1024;
/// Bodies up to this size need no permit: as many as there are connections fit in the bound.
const SMALL: u64 = 64 * UNIT;

/// The bound for all bodies together.
#[derive(Debug)]
pub struct Bodies {
    room: Semaphore,
    limit: usize,
    patience: Duration,
}

/// A body, and its share of the bound.
#[derive(Debug)]
pub struct Read<'a> {
    /// What was sent.
    pub bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    /// Bodies of at most `limit` bytes each (`http.max_body`).
    pub fn new(limit: u64) -> Self {
        let limit = limit.min(HTTP_BODIES_MAX);
        let units = usize::try_from(HTTP_BODIES_MAX / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { room: Semaphore::new(units), limit, patience: HTTP_BODY_TIMEOUT }
    }

    /// Reads a body of JSON.
    ///
    /// # Errors
    /// 415 for another content type (a page in a browser can send plain text to localhost
    /// unasked, but not this), 413 beyond the limit (before reading, if it is announced), 408 if
    /// it takes too long, 429 if too many are being read, 400 if the connection breaks.
    pub async fn json(&self, headers: &HeaderMap, body: Body) -> Result<Read<'_>, ApiError> {
        let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !kind.is_some_and(is_json) {
            return Err(ApiError::media_type(kind));
        }
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let size = announced.unwrap_or(self.limit as u64);
        if size > self.limit as u64 {
            return Err(ApiError::too_large(self.limit));
        }
        let room = if size <= SMALL {
            None
        } else {
            let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX);
            match timeout(self.patience, self.room.acquire_many(units)).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(ApiError::queue_full("Too many large requests are being read.", 5)),
            }
        };
        match timeout(self.patience, Limited::new(body, self.limit).collect()).await {
            Ok(Ok(collected)) => Ok(Read { bytes: collected.to_bytes(), _room: room }),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(ApiError::too_large(self.limit)),
            Ok(Err(e)) => Err(ApiError::invalid(None, format!("The body could not be read: {e}."))),
            Err(_) => Err(ApiError::body_timeout(self.patience.as_secs())),
        }
    }
}

/// `application/json` or `application/…+json`, with any parameters.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_by_its_names() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["text/plain", "text/json", "application/x-www-form-urlencoded", "", "application/jsonp"] {
            assert!(!is_json(no), "{no}");
        }
    }

    #[tokio::test]
    async fn a_body_without_length_is_cut_at_the_limit() {
        let bodies = Bodies::new(10);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("valid"));
        let read = bodies.json(&headers, Body::from("0123456789")).await.expect("fits");
        assert_eq!(&read.bytes[..], b"0123456789");
        drop(read);
        let e = bodies.json(&headers, Body::from("0123456789a")).await.expect_err("is too large");
        assert_eq!(e.status(), 413);
        assert!(e.body()["error"]["message"].as_str().is_some_and(|m| m.contains("10 bytes")));
    }

    #[tokio::test]
    async fn large_bodies_share_one_bound() {
        let bodies = Bodies { patience: Duration::from_millis(50), ..Bodies::new(HTTP_BODIES_MAX / 2) };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().expect("valid"));
        let first = bodies.json(&headers, Body::from("{}")).await.expect("fits");
        let second = bodies.json(&headers, Body::from("{}")).await.expect("fits");
        let e = bodies.json(&headers, Body::from("{}")).await.expect_err("waits, then is refused");
        assert_eq!(e.status(), 429);
        headers.insert(CONTENT_LENGTH, "2".parse().expect("valid"));
        bodies.json(&headers, Body::from("{}")).await.expect("a small one needs no room");
        headers.remove(CONTENT_LENGTH);
        drop(first);
        bodies.json(&headers, Body::from("{}")).await.expect("fits again");
        drop(second);
    }
}
