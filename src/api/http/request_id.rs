//! Ids of requests and of answers, and seeds: unpredictable enough not to collide.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderValue};

use crate::base::limits::REQUEST_ID_MAX;

/// Name of the header, in and out.
pub const HEADER: &str = "x-request-id";

/// 64 bits nobody guesses: SipHash with a key from the system's random source.
pub fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// `prefix` and 24 hexadecimal digits.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() >> 32)
}

/// The client's id if it is sane (it goes into logs and headers), else a fresh one.
pub fn of(headers: &HeaderMap) -> HeaderValue {
    let sane = |v: &&HeaderValue| {
        let b = v.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&b.len()) && b.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    };
    match headers.get(HEADER).filter(sane) {
        Some(v) => v.clone(),
        // Hexadecimal digits are a valid value.
        None => HeaderValue::from_str(&fresh("req-")).unwrap_or(HeaderValue::from_static("req")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken_over() {
        let of = |v: &[u8]| {
            let mut h = HeaderMap::new();
            h.insert(HEADER, HeaderValue::from_bytes(v).expect("a header"));
            of(&h).to_str().expect("ascii").to_owned()
        };
        assert_eq!(of(b"My_id-1.2"), "My_id-1.2");
        assert_eq!(of("x".repeat(64).as_bytes()).len(), 64);
        for bad in [&b""[..], b"a b", b"a\"b", b"\xff", "x".repeat(65).as_bytes()] {
            assert!(of(bad).starts_with("req-"), "{bad:?}");
        }
        assert_ne!(fresh("a"), fresh("a"));
        assert_eq!(fresh("req-").len(), 28);
    }
}
