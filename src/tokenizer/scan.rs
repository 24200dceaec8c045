//! Hand scanners for the two patterns that nearly all byte-level vocabularies split words with,
//! and the classes of characters they need.
//!
//! Each scanner is the pattern in its comment, read by eye once instead of by an automaton for
//! every text; both agree with llama.cpp's own hand scanners, whose Unicode version (15.1) the
//! class table has.

use super::unicode::RUNS;
use std::sync::LazyLock;

/// Letter (`\p{L}`).
pub(super) const L: u8 = 1;
/// Number (`\p{N}`).
pub(super) const N: u8 = 2;
/// Mark (`\p{M}`).
pub(super) const M: u8 = 4;
/// White space (`\s`).
const WS: u8 = 32;
/// No character: the end of the text.
const END: u8 = 128;

/// Class of every code point in two stages: pages of 256, equal pages shared.
struct Classes {
    page: Vec<u16>,
    pages: Vec<[u8; 256]>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut page = Vec::with_capacity(0x1100);
    let mut pages: Vec<[u8; 256]> = Vec::new();
    let mut run = 0;
    for start in (0..0x11_0000u32).step_by(256) {
        let mut classes = [0; 256];
        for (i, class) in classes.iter_mut().enumerate() {
            let point = start + i as u32;
            while RUNS.get(run + 1).is_some_and(|next| next >> 8 <= point) {
                run += 1;
            }
            *class = RUNS[run] as u8;
            if char::from_u32(point).is_some_and(char::is_whitespace) {
                *class |= WS;
            }
        }
        // Most pages equal the one before: ideographs, syllables, nothing assigned.
        let known = pages.iter().rposition(|p| *p == classes);
        page.push(known.unwrap_or_else(|| {
            pages.push(classes);
            pages.len() - 1
        }) as u16);
    }
    Classes { page, pages }
});

/// Class of the character at byte `at` of `text`, and its length in bytes.
#[inline]
fn class(classes: &Classes, text: &str, at: usize) -> (u8, usize) {
    match text.as_bytes().get(at) {
        None => (END, 0),
        Some(&b) if b < 128 => (classes.pages[0][b as usize], 1),
        Some(_) => {
            let c = text[at..].chars().next().unwrap_or('\0');
            let point = c as usize;
            (classes.pages[classes.page[point >> 8] as usize][point & 255], c.len_utf8())
        }
    }
}

/// Length of an apostrophe and a contraction (`'s 't 'm 'd 're 've 'll`) at byte `at`; 0 if there is none.
#[inline]
fn contraction(text: &[u8], at: usize, any_case: bool) -> usize {
    let lower = |i: usize| match text.get(at + i) {
        Some(b) if any_case => b.to_ascii_lowercase(),
        Some(b) => *b,
        None => 0,
    };
    match (lower(1), lower(2)) {
        (b's' | b't' | b'm' | b'd', _) => 2,
        (b'r' | b'v', b'e') | (b'l', b'l') => 3,
        _ => 0,
    }
}

/// End of the run of characters of `text` from `at` whose class `keep` accepts.
#[inline]
fn run(classes: &Classes, text: &str, mut at: usize, keep: impl Fn(u8) -> bool) -> usize {
    loop {
        let (c, len) = class(classes, text, at);
        if c == END || !keep(c) {
            return at;
        }
        at += len;
    }
}

/// A run of white space from `at`: its end, the end of its last `\r` or `\n`, and the start of its
/// last character.
#[inline]
fn blanks(classes: &Classes, text: &str, mut at: usize) -> (usize, Option<usize>, usize) {
    let (mut newline, mut last) = (None, at);
    loop {
        let (c, len) = class(classes, text, at);
        if c == END || c & WS == 0 {
            return (at, newline, last);
        }
        last = at;
        if matches!(text.as_bytes()[at], b'\r' | b'\n') {
            newline = Some(at + 1);
        }
        at += len;
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
pub(super) fn gpt2(text: &str, emit: &mut dyn FnMut(&str)) {
    let classes = &*CLASSES;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let short = if bytes[at] == b'\'' { contraction(bytes, at, false) } else { 0 };
        let start = at + usize::from(bytes[at] == b' ');
        let (first, _) = class(classes, text, start);
        let end = if short > 0 {
            at + short
        } else if first & L != 0 {
            run(classes, text, start, |c| c & L != 0)
        } else if first & N != 0 {
            run(classes, text, start, |c| c & N != 0)
        } else if first & (WS | END) == 0 {
            run(classes, text, start, |c| c & (WS | L | N) == 0)
        } else {
            let (end, _, last) = blanks(classes, text, at);
            if end < bytes.len() && last > at { last } else { end }
        };
        emit(&text[at..end]);
        at = end;
    }
}

/// What differs between the patterns of the cl100k family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cl100k {
    /// Digits of one piece: `\p{N}{1,digits}`.
    pub digits: u8,
    /// Whether marks go with letters: `[\p{L}\p{M}]+`, and not with punctuation.
    pub marks: bool,
    /// Whether contractions are pieces of their own.
    pub contractions: bool,
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
pub(super) fn cl100k(form: Cl100k, text: &str, emit: &mut dyn FnMut(&str)) {
    let classes = &*CLASSES;
    let bytes = text.as_bytes();
    let letter = if form.marks { L | M } else { L };
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let short = if byte == b'\'' && form.contractions { contraction(bytes, at, true) } else { 0 };
        let (first, len) = class(classes, text, at);
        let (second, _) = if first & letter != 0 { (0, 0) } else { class(classes, text, at + len) };
        let after_space = if byte == b' ' { second } else { first };
        let end = if short > 0 {
            at + short
        } else if first & N == 0 && byte != b'\r' && byte != b'\n' && (first | second) & letter != 0 {
            run(classes, text, at + len, |c| c & letter != 0)
        } else if first & N != 0 {
            let mut end = at + len;
            for _ in 1..form.digits {
                let (next, len) = class(classes, text, end);
                if next & N != 0 {
                    end += len;
                }
            }
            end
        } else if after_space & (WS | END | letter | N) == 0 {
            let mut end = run(classes, text, at + len, |c| c & (WS | letter | N) == 0);
            while matches!(bytes.get(end), Some(b'\r' | b'\n')) {
                end += 1;
            }
            end
        } else {
            match blanks(classes, text, at) {
                (_, Some(newline), _) => newline,
                (end, None, last) if end < bytes.len() && last > at => last,
                (end, ..) => end,
            }
        };
        emit(&text[at..end]);
        at = end;
    }
}

/// Runs of digits in groups of three from the right. What stands before a run stays with its first
/// group, as in llama.cpp (patterns `afmoe` and `tiny_aya`).
pub(super) fn digits_from_right(text: &str, emit: &mut dyn FnMut(&str)) {
    let classes = &*CLASSES;
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        let (c, len) = class(classes, text, at);
        if c & N == 0 {
            at += len;
            continue;
        }
        let end = run(classes, text, at, |c| c & N != 0);
        let mut left = text[at..end].chars().count();
        for c in text[at..end].chars() {
            at += c.len_utf8();
            left -= 1;
            if left.is_multiple_of(3) {
                emit(&text[from..at]);
                from = at;
            }
        }
    }
    if from < text.len() {
        emit(&text[from..]);
    }
}

/// `(?=(\d{3})+(?!\d))`: ASCII digits cut before every group of three from the right.
pub(super) fn ascii_groups(text: &str, emit: &mut dyn FnMut(&str)) {
    let bytes = text.as_bytes();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 && digits.is_multiple_of(3) && at > from {
            emit(&text[from..at]);
            from = at;
        }
        at += match digits {
            0 => 1,
            n if n.is_multiple_of(3) => 3,
            n => n % 3,
        };
    }
    if from < text.len() {
        emit(&text[from..]);
    }
}

/// `[^\n]+|[\n]+`
pub(super) fn lines(text: &str, emit: &mut dyn FnMut(&str)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let end = if bytes[at] == b'\n' {
            at + bytes[at..].iter().take_while(|b| **b == b'\n').count()
        } else {
            memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n)
        };
        emit(&text[at..end]);
        at = end;
    }
}

/// Ranges of the characters whose class has `bit`, as the inside of a regex class.
pub(super) fn ranges(bit: u8) -> String {
    let mut out = String::new();
    for (i, run) in RUNS.iter().enumerate() {
        if *run as u8 & bit != 0 {
            let end = RUNS.get(i + 1).map_or(0x11_0000, |next| next >> 8);
            out.push_str(&format!("\\x{{{:X}}}-\\x{{{:X}}}", run >> 8, end - 1));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(scan: impl Fn(&str, &mut dyn FnMut(&str)), text: &str) -> Vec<String> {
        let mut out = Vec::new();
        scan(text, &mut |p| out.push(p.to_owned()));
        assert_eq!(out.concat(), text, "a scanner must not lose text");
        out
    }

    #[test]
    fn classes_are_those_of_unicode() {
        let c = |c: char| class(&CLASSES, &c.to_string(), 0).0;
        assert_eq!(c('a'), L);
        assert_eq!(c('é'), L);
        assert_eq!(c('五'), L);
        assert_eq!(c('\u{2EE5D}'), L); // last ideograph of Unicode 15.1
        assert_eq!(c('\u{2EE5E}'), 0);
        assert_eq!(c('½'), N);
        assert_eq!(c('\u{301}'), M);
        assert_eq!(c('\u{3000}'), WS);
        assert_eq!(c('\u{85}'), WS);
        assert_eq!(c('\u{200D}'), 0);
        assert_eq!(c('+') | c('!'), 24);
    }

    #[test]
    fn gpt2_gives_back_the_last_blank() {
        assert_eq!(
            pieces(gpt2, "I'm  don't\n\n x1 !? "),
            ["I", "'m", " ", " don", "'t", "\n\n", " x", "1", " !?", " "]
        );
        assert_eq!(pieces(gpt2, "a\u{3000}\u{3000}b"), ["a", "\u{3000}", "\u{3000}", "b"]);
    }

    #[test]
    fn cl100k_splits_digits_and_newlines() {
        let llama = Cl100k { digits: 3, marks: false, contractions: true };
        let scan = |t: &str, e: &mut dyn FnMut(&str)| cl100k(llama, t, e);
        assert_eq!(
            pieces(scan, "12345 I'LL\t(x) \n\n  y;\r\nz"),
            ["123", "45", " I", "'LL", "\t", "(x", ")", " \n\n", " ", " y", ";\r\n", "z"]
        );
        let marks = Cl100k { digits: 1, marks: true, contractions: false };
        let scan = |t: &str, e: &mut dyn FnMut(&str)| cl100k(marks, t, e);
        assert_eq!(pieces(scan, "e\u{301}a's 12"), ["e\u{301}a", "'s", " ", "1", "2"]);
    }

    #[test]
    fn digits_group_from_the_right() {
        assert_eq!(pieces(digits_from_right, "a1234 567x"), ["a1", "234", " 567", "x"]);
        assert_eq!(pieces(ascii_groups, "a1234 567x"), ["a1", "234 ", "567x"]);
        assert_eq!(pieces(lines, "\n\na\nb"), ["\n\n", "a", "\n", "b"]);
    }
}
