//! Log-probabilities in OpenAI's two forms: objects for chat, parallel lists for completions.

use serde_json::{Map, Value, json};

use crate::engine::message::Candidate;

/// Least value reported: JSON has no infinity, and OpenAI uses this number for "impossible".
const FLOOR: f32 = -9999.0;

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `choices[].logprobs.content[]`.
    Chat,
    /// `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`.
    Legacy,
}

/// A token's bytes and log-probability.
type Scored = (Vec<u8>, f32);

/// The entries of one choice that are not sent yet.
///
/// A token whose text is held back (half a character, the beginning of a stop string) stays here
/// until its text is certain: what was cut off by a stop string gets no entry.
#[derive(Debug)]
pub struct Entries {
    form: Form,
    /// Each with its alternatives.
    waiting: Vec<(Scored, Vec<Scored>)>,
    /// Characters of the text before the first waiting token.
    offset: usize,
}

impl Entries {
    /// No entries; the text begins at character `offset` (an echoed prompt comes before it).
    pub fn new(form: Form, offset: usize) -> Self {
        Self { form, waiting: Vec::new(), offset }
    }

    /// Adds a token; `piece` gives a token's bytes.
    pub fn push(&mut self, chosen: &Candidate, top: &[Candidate], piece: impl Fn(u32) -> Vec<u8>) {
        let score = |c: &Candidate| (piece(c.token), finite(c.logprob));
        self.waiting.push((score(chosen), top.iter().map(score).collect()));
    }

    /// Forgets tokens whose text turned out to be no part of the answer.
    pub fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// The waiting entries as a `logprobs` member.
    pub fn take(&mut self) -> Value {
        let waiting = std::mem::take(&mut self.waiting);
        match self.form {
            Form::Chat => {
                let entry = |piece: &[u8], logprob: f32| json!({ "token": String::from_utf8_lossy(piece), "logprob": logprob, "bytes": piece });
                let content = waiting.iter().map(|((piece, logprob), top)| {
                    let mut e = entry(piece, *logprob);
                    e["top_logprobs"] = top.iter().map(|(p, l)| entry(p, *l)).collect();
                    e
                });
                json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
            }
            Form::Legacy => {
                let mut offsets = Vec::with_capacity(waiting.len());
                for ((piece, _), _) in &waiting {
                    offsets.push(self.offset);
                    self.offset += characters(piece);
                }
                // The chosen token is always among them, as OpenAI says: "up to logprobs+1".
                let top = waiting.iter().map(|((piece, logprob), top)| {
                    let mut map: Map<String, Value> = top.iter().map(|(p, l)| (name(p), json!(l))).collect();
                    map.entry(name(piece)).or_insert_with(|| json!(logprob));
                    Value::Object(map)
                });
                json!({
                    "tokens": waiting.iter().map(|((p, _), _)| name(p)).collect::<Vec<_>>(),
                    "token_logprobs": waiting.iter().map(|((_, l), _)| *l).collect::<Vec<_>>(),
                    "top_logprobs": top.collect::<Vec<_>>(),
                    "text_offset": offsets,
                })
            }
        }
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { FLOOR } else { logprob.clamp(FLOOR, 0.0) }
}

/// Characters that begin in `piece`: exact over a whole text even where tokens split characters.
fn characters(piece: &[u8]) -> usize {
    piece.iter().filter(|b| *b & 0xC0 != 0x80).count()
}

/// A token's text for the legacy form, where bytes that are no text look like OpenAI's.
fn name(piece: &[u8]) -> String {
    match std::str::from_utf8(piece) {
        Ok(s) => s.to_owned(),
        Err(_) => piece.iter().fold("bytes:".to_owned(), |s, b| s + &format!("\\x{b:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: u32) -> Vec<u8> {
        [b"He".to_vec(), b"llo".to_vec(), vec![0xC3], vec![0xA9], b"!".to_vec()][id as usize].clone()
    }

    fn c(token: u32, logprob: f32) -> Candidate {
        Candidate { token, logprob }
    }

    #[test]
    fn chat_entries_are_objects_with_bytes() {
        let mut e = Entries::new(Form::Chat, 0);
        e.push(&c(0, -0.5), &[c(0, -0.5), c(2, f32::NEG_INFINITY)], piece);
        assert_eq!(
            e.take(),
            json!({"content":[{"token":"He","logprob":-0.5,"bytes":[72,101],"top_logprobs":[
                {"token":"He","logprob":-0.5,"bytes":[72,101]},
                {"token":"\u{fffd}","logprob":-9999.0,"bytes":[195]}]}],"refusal":null})
        );
        assert_eq!(e.take(), json!({"content":[],"refusal":null}));
    }

    #[test]
    fn legacy_entries_are_lists_with_offsets_in_characters() {
        let mut e = Entries::new(Form::Legacy, 3);
        e.push(&c(0, -0.5), &[c(1, -0.25)], piece);
        e.push(&c(2, -1.0), &[], piece);
        e.push(&c(3, -1.0), &[], piece);
        let first = e.take();
        assert_eq!(first["tokens"], json!(["He", "bytes:\\xc3", "bytes:\\xa9"]));
        assert_eq!(first["top_logprobs"][0], json!({"llo": -0.25, "He": -0.5}));
        assert_eq!(first["text_offset"], json!([3, 5, 6]));
        e.push(&c(4, -1.0), &[], piece);
        e.drop_waiting();
        e.push(&c(4, f32::NAN), &[], piece);
        let second = e.take();
        assert_eq!((&second["text_offset"], &second["token_logprobs"]), (&json!([6]), &json!([-9999.0])));
    }
}
