//! The tokens of a vocabulary: texts, kinds, bytes, and which of them are special.
//!
//! Source: llama.cpp's `llama-vocab.cpp` (defaults of absent keys, end-of-generation tokens by
//! their text, overrides of wrongly marked tokens).

use super::error::{TokenizerError, shown};
use super::table::{Blob, Texts};
use crate::base::limits::VOCAB_MAX;
use crate::gguf::meta::{Array, Meta, MetaError};

/// An ordinary token.
pub(super) const NORMAL: u8 = 1;
/// The token for what has none.
pub(super) const UNKNOWN: u8 = 2;
/// Steers the model; no text.
pub(super) const CONTROL: u8 = 4;
/// Added by a user: found in text before anything else.
pub(super) const USER: u8 = 8;
/// One byte, spelled `<0xAB>`.
pub(super) const BYTE: u8 = 16;
/// Swallows white space before it.
pub(super) const LSTRIP: u8 = 32;
/// Swallows white space after it.
pub(super) const RSTRIP: u8 = 64;

/// How token texts spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A character for each byte, as GPT-2 has it.
    ByteLevel,
    /// UTF-8 with U+2581 for a space.
    Utf8,
}

/// Tokens with a role. What a file does not have is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of a text.
    pub bos: Option<u32>,
    /// End of a text.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message.
    pub eom: Option<u32>,
    /// What has no token.
    pub unk: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Masked position.
    pub mask: Option<u32>,
    /// Fill-in-the-middle: before the prefix.
    pub fim_pre: Option<u32>,
    /// Fill-in-the-middle: before the suffix.
    pub fim_suf: Option<u32>,
    /// Fill-in-the-middle: before what is generated.
    pub fim_mid: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill-in-the-middle: name of the repository.
    pub fim_rep: Option<u32>,
    /// Fill-in-the-middle: separator of files.
    pub fim_sep: Option<u32>,
}

/// The tokens.
#[derive(Debug)]
pub(super) struct Vocab {
    texts: Blob,
    by_text: Texts,
    attrs: Vec<u8>,
    pieces: Blob,
    ids: SpecialIds,
    /// End-of-generation tokens, ascending.
    eog: Vec<u32>,
    bytes: [Option<u32>; 256],
    chars: [char; 256],
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

impl Vocab {
    /// Reads the tokens. `defaults` are the roles that hold where the file names none; `notes`
    /// collects what was passed over.
    ///
    /// # Errors
    /// [`TokenizerError`], naming the key.
    pub fn new(
        meta: &Meta,
        spelling: Spelling,
        defaults: SpecialIds,
        notes: &mut Vec<String>,
    ) -> Result<Self, TokenizerError> {
        let tokens = meta.strings(TOKENS)?.ok_or_else(|| MetaError::Missing(TOKENS.to_owned()))?;
        let n = tokens.len();
        if n == 0 || n > VOCAB_MAX {
            return Err(TokenizerError::Count { found: n, max: VOCAB_MAX });
        }
        let mut texts = Blob::with_capacity(n, tokens.iter().map(<[u8]>::len).sum());
        let mut by_text = Texts::with_capacity(n);
        for (id, token) in (0..n as u32).zip(tokens.iter()) {
            let fits = match token {
                [] => texts.push(format!("[EMPTY_{id}]").as_bytes()),
                token => texts.push(token),
            };
            if !fits {
                return Err(TokenizerError::Long);
            }
            if let Some(first) = by_text.insert(&texts, id) {
                return Err(TokenizerError::Duplicate { text: shown(token), first, second: id });
            }
        }
        let attrs = types(meta, n)?;
        let mut vocab = Self {
            texts,
            by_text,
            attrs,
            pieces: Blob::default(),
            ids: defaults,
            eog: Vec::new(),
            bytes: [None; 256],
            chars: byte_chars(),
        };
        for (b, id) in (0..=255u8).zip(0..256) {
            let spelled = format!("<0x{b:02X}>");
            vocab.bytes[id] = vocab.id(spelled.as_bytes()).or_else(|| vocab.id(&[b]));
        }
        vocab.read_ids(meta, notes)?;
        vocab.find_by_text();
        vocab.find_ends();
        vocab.strip(meta)?;
        vocab.spell(spelling);
        Ok(vocab)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.attrs.len()
    }

    /// Text of a token as the file has it; empty for no token.
    pub fn text(&self, id: u32) -> &[u8] {
        self.texts.get(id)
    }

    /// Bytes of a token; empty for no token.
    #[inline]
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }

    /// Kinds of a token; 0 for no token.
    #[inline]
    pub fn attr(&self, id: u32) -> u8 {
        self.attrs.get(id as usize).copied().unwrap_or(0)
    }

    /// The token with this text.
    #[inline]
    pub fn id(&self, text: &[u8]) -> Option<u32> {
        self.by_text.get(&self.texts, text)
    }

    /// The token whose text is `left` and then `right`.
    pub fn joined(&self, left: &[u8], right: &[u8]) -> Option<u32> {
        let mut short = [0; 128];
        match short.get_mut(..left.len() + right.len()) {
            Some(text) => {
                text[..left.len()].copy_from_slice(left);
                text[left.len()..].copy_from_slice(right);
                self.id(text)
            }
            None => self.id(&[left, right].concat()),
        }
    }

    /// The token of a byte (`<0xAB>`, or the byte itself).
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes[byte as usize]
    }

    /// The character that spells a byte in byte-level texts.
    #[inline]
    pub fn byte_char(&self, byte: u8) -> char {
        self.chars[byte as usize]
    }

    /// Tokens with a role.
    pub fn ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// End-of-generation tokens, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.eog
    }

    /// Ids by key; one that names no token is passed over.
    fn read_ids(&mut self, meta: &Meta, notes: &mut Vec<String>) -> Result<(), TokenizerError> {
        let n = self.len();
        let ids = &mut self.ids;
        let roles: [(&str, &mut Option<u32>); 14] = [
            ("bos", &mut ids.bos),
            ("eos", &mut ids.eos),
            ("eot", &mut ids.eot),
            ("eom", &mut ids.eom),
            ("unknown", &mut ids.unk),
            ("seperator", &mut ids.sep),
            ("padding", &mut ids.pad),
            ("mask", &mut ids.mask),
            ("fim_pre", &mut ids.fim_pre),
            ("fim_suf", &mut ids.fim_suf),
            ("fim_mid", &mut ids.fim_mid),
            ("fim_pad", &mut ids.fim_pad),
            ("fim_rep", &mut ids.fim_rep),
            ("fim_sep", &mut ids.fim_sep),
        ];
        for (role, slot) in roles {
            *slot = slot.filter(|id| (*id as usize) < n);
            // The older names of three keys count after the newer ones, as in llama.cpp.
            let old = match role {
                "fim_pre" => Some("prefix"),
                "fim_suf" => Some("suffix"),
                "fim_mid" => Some("middle"),
                _ => None,
            };
            for name in [Some(role), old].into_iter().flatten() {
                let key = format!("tokenizer.ggml.{name}_token_id");
                match meta.u32(&key) {
                    Ok(None) => {}
                    Ok(Some(id)) if (id as usize) < n => *slot = Some(id),
                    Ok(Some(id)) => notes.push(format!("`{key}` is {id}, outside of the {n} tokens: ignored")),
                    Err(e @ MetaError::Value { .. }) => notes.push(format!("{e}: ignored")),
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Roles that the file does not name, by the texts that models use for them.
    fn find_by_text(&mut self) {
        let mut find = |slot: Option<u32>, texts: &[&str]| {
            if slot.is_some() {
                return slot;
            }
            let found = texts.iter().find_map(|text| self.by_text.get(&self.texts, text.as_bytes()))?;
            // Some files mark these as ordinary tokens, and the model would print them.
            self.attrs[found as usize] |= CONTROL;
            Some(found)
        };
        let ids = self.ids;
        let found = SpecialIds {
            eot: find(ids.eot, EOT),
            eom: find(ids.eom, &["<|eom_id|>"]),
            fim_pre: find(ids.fim_pre, FIM_PRE),
            fim_suf: find(ids.fim_suf, FIM_SUF),
            fim_mid: find(ids.fim_mid, FIM_MID),
            fim_pad: find(ids.fim_pad, FIM_PAD),
            fim_rep: find(ids.fim_rep, FIM_REP),
            fim_sep: find(ids.fim_sep, &["<|file_sep|>"]),
            ..ids
        };
        self.ids = found;
    }

    /// The end-of-generation set: wider than EOS, since files name one token and models use several.
    fn find_ends(&mut self) {
        let ids = self.ids;
        let mut eog: Vec<u32> = [ids.fim_pad, ids.fim_rep, ids.fim_sep].into_iter().flatten().collect();
        for text in EOG {
            if let Some(id) = self.id(text.as_bytes()) {
                eog.push(id);
                self.attrs[id as usize] |= CONTROL;
            }
        }
        // Harmony's channel markers are text that clients read.
        for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
            if let Some(id) = self.id(text.as_bytes()) {
                self.attrs[id as usize] = USER;
            }
        }
        eog.extend([ids.eos, ids.eot, ids.eom].into_iter().flatten());
        eog.sort_unstable();
        eog.dedup();
        let has = |text: &str| self.id(text.as_bytes()).filter(|id| eog.binary_search(id).is_ok());
        let call = has("<|call|>").or(has("<|calls|>"));
        // `<|end|>` ends a message and not the answer where these are; `</s>` is plain text there.
        let message_end = has("<|end|>").filter(|_| call.is_some() && has("<|return|>").or(has("<|flush|>")).is_some());
        let plain_s = has("</s>").filter(|_| has("<|tool_response>").or(has("<|plamo:eos|>")).is_some());
        if let Some(id) = message_end {
            self.attrs[id as usize] = USER;
        }
        if let Some(id) = plain_s {
            self.attrs[id as usize] = NORMAL;
        }
        eog.retain(|id| Some(*id) != message_end && Some(*id) != plain_s);
        self.eog = eog;
    }

    /// White space that special tokens swallow: no file says so, it is known of these models.
    fn strip(&mut self, meta: &Meta) -> Result<(), TokenizerError> {
        let name = meta.str("general.name")?.unwrap_or_default().to_ascii_lowercase();
        let pre = meta.str("tokenizer.ggml.pre")?.unwrap_or_default();
        let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|p| pre.contains(p));
        let phi3 = !jina && (name.contains("phi-3") || name.contains("phi3"));
        if phi3 {
            for attr in self.attrs.iter_mut().filter(|a| **a & (CONTROL | USER | UNKNOWN) != 0) {
                *attr |= RSTRIP;
            }
        }
        let mut set = |text: &str, bit: u8, on: bool| {
            if let Some(id) = self.by_text.get(&self.texts, text.as_bytes()) {
                let attr = &mut self.attrs[id as usize];
                *attr = if on { *attr | bit } else { *attr & !bit };
            }
        };
        if jina {
            set("<mask>", LSTRIP, true);
        } else if phi3 {
            set("</s>", RSTRIP, true);
            for text in ["<unk>", "<s>", "<|endoftext|>"] {
                set(text, RSTRIP, false);
            }
        } else if name.contains("modern-bert") {
            set("[MASK]", LSTRIP, true);
        }
        Ok(())
    }

    /// Builds the table of bytes.
    fn spell(&mut self, spelling: Spelling) {
        let mut bytes = [None; 0x200];
        for (b, c) in (0..=255u8).zip(self.chars) {
            bytes[c as usize] = Some(b);
        }
        let mut pieces = Blob::with_capacity(self.len(), self.texts.get(0).len() * self.len());
        let mut buffer = Vec::new();
        for id in 0..self.len() as u32 {
            let (text, attr) = (self.texts.get(id), self.attr(id));
            buffer.clear();
            if attr & (CONTROL | UNKNOWN | USER) != 0 {
                buffer.extend_from_slice(text);
            } else if attr & NORMAL != 0 && spelling == Spelling::Utf8 {
                let mut rest = text;
                while let Some((b, after)) = rest.split_first() {
                    // U+2581 in UTF-8.
                    match rest.strip_prefix(b"\xE2\x96\x81") {
                        Some(after) => {
                            buffer.push(b' ');
                            rest = after;
                        }
                        None => {
                            buffer.push(*b);
                            rest = after;
                        }
                    }
                }
            } else if attr & NORMAL != 0 {
                let spelled = std::str::from_utf8(text).ok().and_then(|text| {
                    buffer.extend(text.chars().map_while(|c| bytes.get(c as usize).copied().flatten()));
                    (buffer.len() == text.chars().count()).then_some(())
                });
                // A few vocabularies (command-r) have tokens that are no byte-level spelling: their
                // text is meant as it stands. llama.cpp prints `[UNK_BYTE_0x…]` for them.
                if spelled.is_none() {
                    buffer.clear();
                    buffer.extend_from_slice(text);
                }
            } else if attr & BYTE != 0 {
                let digits = text.get(3..5).and_then(|d| std::str::from_utf8(d).ok()).unwrap_or_default();
                buffer.push(u8::from_str_radix(digits, 16).unwrap_or(0));
            }
            // Never longer than the texts, which fit.
            pieces.push(&buffer);
        }
        self.pieces = pieces;
    }
}

/// Kinds of the tokens by `tokenizer.ggml.token_type`; all normal where it is absent.
fn types(meta: &Meta, n: usize) -> Result<Vec<u8>, TokenizerError> {
    let kind = |ty: i64| match ty {
        1 => NORMAL,
        2 => UNKNOWN,
        3 => CONTROL,
        4 => USER,
        6 => BYTE,
        // 5 is unused, 0 undefined: neither has text.
        _ => 0,
    };
    let mut attrs: Vec<u8> = match meta.array(TYPES)? {
        None => return Ok(vec![NORMAL; n]),
        Some(Array::I32(types)) => types.iter().map(|t| kind((*t).into())).collect(),
        Some(Array::U32(types)) => types.iter().map(|t| kind((*t).into())).collect(),
        Some(_) => {
            let (key, found, expected) = (TYPES.to_owned(), "an array of another type", "an array of i32");
            return Err(MetaError::Type { key, found, expected }.into());
        }
    };
    if attrs.len() < n {
        return Err(TokenizerError::Length { key: TYPES, found: attrs.len(), tokens: n });
    }
    attrs.truncate(n);
    Ok(attrs)
}

/// GPT-2's spelling of bytes: what prints stands for itself, the rest are characters from U+0100 on.
fn byte_chars() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|b| {
        let point = match b {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => b as u32,
            _ => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(point).unwrap_or('\0')
    })
}

const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const FIM_PRE: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUF: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MID: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REP: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const EOG: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
