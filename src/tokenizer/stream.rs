//! Text out of generated tokens: bytes come in pieces that may end inside a character.

use std::str;

/// What stands for bytes that are no UTF-8, as in every other server of this API.
const REPLACEMENT: &str = "\u{FFFD}";

/// Collects bytes into whole characters. A character that is not complete is held back; bytes that
/// can never become one are given out as U+FFFD, as [`String::from_utf8_lossy`] would.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    tail: [u8; 4],
    len: usize,
}

impl Stream {
    /// Takes the bytes of a token and gives `out` what text is complete, in one or more pieces.
    pub fn push(&mut self, bytes: &[u8], out: &mut impl FnMut(&str)) {
        let mut bytes = bytes;
        while self.len > 0
            && let [first, rest @ ..] = bytes
        {
            self.tail[self.len] = *first;
            match str::from_utf8(&self.tail[..self.len + 1]) {
                Ok(whole) => {
                    out(whole);
                    self.len = 0;
                    bytes = rest;
                }
                Err(e) if e.error_len().is_none() => {
                    self.len += 1;
                    bytes = rest;
                }
                // The tail was a beginning, so it is the new byte that does not go on with it.
                Err(_) => {
                    out(REPLACEMENT);
                    self.len = 0;
                }
            }
        }
        while !bytes.is_empty() {
            let (valid, rest) = match str::from_utf8(bytes) {
                Ok(all) => return out(all),
                Err(e) => (e.valid_up_to(), e.error_len()),
            };
            if let Ok(text) = str::from_utf8(&bytes[..valid])
                && valid > 0
            {
                out(text);
            }
            bytes = &bytes[valid..];
            let Some(invalid) = rest else {
                self.tail[..bytes.len()].copy_from_slice(bytes);
                self.len = bytes.len();
                return;
            };
            out(REPLACEMENT);
            bytes = &bytes[invalid..];
        }
    }

    /// Bytes that wait for the rest of their character (0 to 3).
    pub fn held(&self) -> usize {
        self.len
    }

    /// Ends the text: a character that never became complete is given out as U+FFFD.
    pub fn finish(&mut self, out: &mut impl FnMut(&str)) {
        if self.len > 0 {
            out(REPLACEMENT);
            self.len = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(parts: &[&[u8]]) -> String {
        let (mut stream, mut text) = (Stream::default(), String::new());
        for part in parts {
            stream.push(part, &mut |s| text.push_str(s));
        }
        stream.finish(&mut |s| text.push_str(s));
        text
    }

    #[test]
    fn holds_back_what_is_not_whole() {
        let mut stream = Stream::default();
        let mut seen = Vec::new();
        for byte in "a😀é".bytes() {
            stream.push(&[byte], &mut |s| seen.push(s.to_owned()));
        }
        assert_eq!(seen, ["a", "😀", "é"]);
        assert_eq!(stream.held(), 0);
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(run(&[b"\xE2\x82", b"x"]), "\u{FFFD}x");
        assert_eq!(run(&[b"\xF0\x9F", b"\x98"]), "\u{FFFD}");
        assert_eq!(run(&[b"\x80\xFF", b"ok"]), "\u{FFFD}\u{FFFD}ok");
        assert_eq!(run(&[b"\xC3", b"\xC3\xA9"]), "\u{FFFD}é");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xE2), Just(0x82), Just(0xAC), Just(0xF0), Just(0x9F)], 0..60), cuts in prop::collection::vec(1usize..5, 0..60)) {
            let mut parts: Vec<&[u8]> = Vec::new();
            let mut rest: &[u8] = &bytes;
            for cut in cuts {
                let (a, b) = rest.split_at(cut.min(rest.len()));
                parts.push(a);
                rest = b;
            }
            parts.push(rest);
            prop_assert_eq!(run(&parts), String::from_utf8_lossy(&bytes));
        }
    }
}
