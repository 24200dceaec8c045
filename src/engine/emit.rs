//! From tokens to text that may be sent: whole UTF-8 characters, nothing of a stop string.
//!
//! Bytes of an incomplete character wait for the next token; bytes that cannot become UTF-8 turn
//! into U+FFFD. Of the text, only the longest end that could still become a stop string is held.

use memchr::memmem;

/// U+FFFD in UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Turns the tokens of one request into text.
#[derive(Debug)]
pub struct Emitter {
    stops: Vec<Box<[u8]>>,
    /// Text that was not sent: it may be the beginning of a stop string.
    held: Vec<u8>,
    /// Bytes that are not a whole character yet.
    raw: Vec<u8>,
}

impl Emitter {
    /// For a request's stop strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops: Vec<Box<[u8]>> = stops.iter().filter(|s| !s.is_empty()).map(|s| s.as_bytes().into()).collect();
        let longest = stops.iter().map(|s| s.len()).max().unwrap_or(0);
        // Pieces of a vocabulary are short; a longer one may allocate.
        Self { held: Vec::with_capacity(longest + 256), raw: Vec::with_capacity(256), stops }
    }

    /// Adds a token's bytes and appends to `out` what may be sent now. True if a stop string was
    /// completed: what came before it is in `out`, nothing comes after it.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> bool {
        self.raw.extend_from_slice(piece);
        self.take_characters();
        if self.stops.is_empty() {
            out.append(&mut self.held);
            return false;
        }
        let found = self.stops.iter().filter_map(|s| memmem::find(&self.held, s)).min();
        if let Some(at) = found {
            out.extend_from_slice(&self.held[..at]);
            self.held.clear();
            self.raw.clear();
            return true;
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let sent = self.held.len() - keep;
        out.extend_from_slice(&self.held[..sent]);
        self.held.drain(..sent);
        false
    }

    /// The text ends without a stop string: appends what was held to `out`.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.raw.is_empty() {
            self.held.extend_from_slice(REPLACEMENT);
            self.raw.clear();
        }
        out.append(&mut self.held);
    }

    /// Moves whole characters from `raw` to `held`.
    fn take_characters(&mut self) {
        let mut start = 0;
        while start < self.raw.len() {
            match std::str::from_utf8(&self.raw[start..]) {
                Ok(text) => {
                    self.held.extend_from_slice(text.as_bytes());
                    start = self.raw.len();
                }
                Err(e) => {
                    let valid = start + e.valid_up_to();
                    self.held.extend_from_slice(&self.raw[start..valid]);
                    start = valid;
                    let Some(bad) = e.error_len() else { break };
                    self.held.extend_from_slice(REPLACEMENT);
                    start += bad;
                }
            }
        }
        self.raw.drain(..start);
    }
}

/// Length of the longest end of `text` with which `stop` begins (but not all of it).
fn overlap(text: &[u8], stop: &[u8]) -> usize {
    let most = text.len().min(stop.len() - 1);
    (1..=most).rev().find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn emitter(stops: &[&str]) -> Emitter {
        Emitter::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    /// What each piece lets through, and whether it stopped.
    fn run(e: &mut Emitter, pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut texts = Vec::new();
        for piece in pieces {
            let mut out = Vec::new();
            let stopped = e.push(piece, &mut out);
            texts.push(String::from_utf8(out).expect("whole characters"));
            if stopped {
                return (texts, true);
            }
        }
        let mut out = Vec::new();
        e.finish(&mut out);
        texts.push(String::from_utf8(out).expect("whole characters"));
        (texts, false)
    }

    #[test]
    fn characters_stay_whole() {
        let crab = "🦀".as_bytes();
        let (texts, _) = run(&mut emitter(&[]), &[b"a", &crab[..1], &crab[1..3], &crab[3..], &crab[..2]]);
        assert_eq!(texts, ["a", "", "", "🦀", "", "\u{fffd}"]);
        let (texts, _) = run(&mut emitter(&[]), &[b"\xff", b"\xe2\x82", b"x"]);
        assert_eq!(texts, ["\u{fffd}", "", "\u{fffd}x", ""]);
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_not_shown() {
        let (texts, stopped) = run(&mut emitter(&["\n\nUser:"]), &[b"Hi", b"\n", b"\nUs", b"er", b": more"]);
        assert_eq!((texts.concat(), stopped), ("Hi".to_string(), true));
        // The earliest of several ends the text.
        let (texts, stopped) = run(&mut emitter(&["cd", "b"]), &[b"abcd"]);
        assert_eq!((texts, stopped), (vec!["a".to_string()], true));
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held() {
        let (texts, stopped) = run(&mut emitter(&["aab"]), &[b"xa", b"a", b"a", b"c", b"aa"]);
        assert_eq!((texts, stopped), (["x", "", "a", "aac", "", "aa"].map(String::from).to_vec(), false));
    }

    #[test]
    fn empty_stop_strings_stop_nothing() {
        let (texts, stopped) = run(&mut emitter(&[""]), &[b"a"]);
        assert_eq!((texts.concat(), stopped), ("a".to_string(), false));
    }

    proptest! {
        /// However a text is cut into tokens, what is sent is the text up to the first stop string.
        #[test]
        fn cuts_do_not_matter(
            text in "[abé🦀]{0,40}",
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
            cuts in prop::collection::vec(1usize..6, 1..20),
        ) {
            let mut e = Emitter::new(&stops);
            let (mut sent, mut rest, mut stopped) = (Vec::new(), text.as_bytes(), false);
            for &n in cuts.iter().cycle() {
                if rest.is_empty() || stopped {
                    break;
                }
                let (piece, after) = rest.split_at(n.min(rest.len()));
                stopped = e.push(piece, &mut sent);
                prop_assert!(std::str::from_utf8(&sent).is_ok());
                rest = after;
            }
            if !stopped {
                e.finish(&mut sent);
            }
            let sent = String::from_utf8(sent).expect("whole characters");
            // The first stop string to be complete ends the text.
            let end = (0..=text.len()).find_map(|n| {
                stops.iter().filter(|s| text.as_bytes()[..n].ends_with(s.as_bytes())).map(|s| n - s.len()).min()
            });
            if let Some(end) = end {
                prop_assert!(stopped);
                prop_assert!(text.starts_with(&sent) && sent.len() <= end, "{sent:?} of {text:?}");
            } else {
                prop_assert_eq!((sent, stopped), (text, false));
            }
        }
    }
}
