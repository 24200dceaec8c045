//! The memory that a model's engine and its worker share: one step's input and output.
//!
//! Both sides make the same [`Shape`] and so the same layout: a head, the step's arrays, block
//! tables, the rows of the part before (if there is one), logits. The doorbell (a socket) says whose turn it is: a byte to the worker hands the
//! memory over with a command in it, a byte back returns it with the outcome.
//!
//! Guarantees to safe callers: every access is inside the mapping and aligned. Both sides are this
//! program and keep their turns; a worker that did not could only spoil numbers, which are plain
//! words and floats of which every value is valid, and every length read is checked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use memmap2::{MmapMut, MmapOptions};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::backend::BackendError;
use crate::plan::batch::{Batch, Span};

/// Words of the head.
const HEAD: usize = 1024;
/// Where in the head the text of an error starts, as bytes, and how long it may be.
const TEXT: Range<usize> = 64..HEAD * 4;
/// Words of a span.
const SPAN: usize = 3;

// Words of the head.
const COMMAND: usize = 0;
const GROUP: usize = 1;
const BLOCK: usize = 2;
const FAILED: usize = 3;
const RESULT: usize = 4;
const TEXT_LEN: usize = 5;
const N_TOKENS: usize = 6;
const N_SPANS: usize = 7;
const N_OUTPUTS: usize = 8;
const N_TABLES: usize = 9;
const RESULT_HIGH: usize = 10;

/// The largest step that a mailbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Most tokens.
    pub max_tokens: usize,
    /// Most outputs.
    pub max_outputs: usize,
    /// Most sequences.
    pub max_spans: usize,
    /// Most block table entries of a cache group, all sequences together.
    pub table_entries: usize,
    /// Cache groups.
    pub groups: usize,
    /// Width of the rows that the part of the model before this one gives; 0 if there is none.
    pub input_width: usize,
    /// Width of the logits.
    pub n_vocab: usize,
}

impl Shape {
    /// Words of all tables: each with its length before it.
    fn table_words(&self) -> usize {
        self.groups * (self.max_spans + self.table_entries)
    }

    fn tokens(&self) -> Range<usize> {
        HEAD..HEAD + self.max_tokens
    }

    fn positions(&self) -> Range<usize> {
        let start = self.tokens().end;
        start..start + self.max_tokens
    }

    fn spans(&self) -> Range<usize> {
        let start = self.positions().end;
        start..start + SPAN * self.max_spans
    }

    fn outputs(&self) -> Range<usize> {
        let start = self.spans().end;
        start..start + self.max_outputs
    }

    fn tables(&self) -> Range<usize> {
        let start = self.outputs().end;
        start..start + self.table_words()
    }

    fn input(&self) -> Range<usize> {
        let start = self.tables().end;
        start..start + self.max_tokens * self.input_width
    }

    fn logits(&self) -> Range<usize> {
        let start = self.input().end;
        start..start + self.max_outputs * self.n_vocab
    }

    /// Bytes of the mailbox. Pages that no step reaches take no memory.
    pub fn bytes(&self) -> usize {
        4 * self.logits().end
    }
}

/// What the worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the step in the mailbox.
    Step,
    /// Give a cache group another slab; the result is its first block.
    AddSlab {
        /// The group.
        group: u32,
    },
    /// Take a slab back.
    RemoveSlab {
        /// The group.
        group: u32,
        /// Its first block.
        first: u32,
    },
    /// Give everything back; nothing comes after it.
    Close,
}

/// A model's shared memory.
pub struct Mailbox {
    map: MmapMut,
    shape: Shape,
}

impl Mailbox {
    /// A new one, and the descriptor that the other side opens it by.
    ///
    /// # Errors
    /// The system's.
    pub fn new(shape: Shape) -> io::Result<(Self, OwnedFd)> {
        let file = File::from(memfd_create(c"rocmforge step", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(shape.bytes() as u64)?;
        Ok((Self::open(&file, shape)?, file.into()))
    }

    /// The other side's.
    ///
    /// # Errors
    /// The system's; a file too small for the shape.
    pub fn open(file: &File, shape: Shape) -> io::Result<Self> {
        if file.metadata()?.len() < shape.bytes() as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the mailbox is smaller than its shape"));
        }
        // SAFETY: a file in memory that only the two sides have, both of this program; neither
        // shortens it. The module's comment says why their writes do no harm.
        let map = unsafe { MmapOptions::new().len(shape.bytes()).map_mut(file)? };
        Ok(Self { map, shape })
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    fn words(&self, at: Range<usize>) -> &[u32] {
        let bytes = &self.map[4 * at.start..4 * at.end];
        // SAFETY: a page-aligned start plus whole words; every value of four bytes is a u32.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), at.len()) }
    }

    fn words_mut(&mut self, at: Range<usize>) -> &mut [u32] {
        let bytes = &mut self.map[4 * at.start..4 * at.end];
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), at.len()) }
    }

    fn head(&self, word: usize) -> usize {
        self.words(0..HEAD)[word] as usize
    }

    /// Writes a command.
    pub fn set_command(&mut self, command: Command) {
        let (code, group, block) = match command {
            Command::Step => (0, 0, 0),
            Command::AddSlab { group } => (1, group, 0),
            Command::RemoveSlab { group, first } => (2, group, first),
            Command::Close => (3, 0, 0),
        };
        let head = self.words_mut(0..HEAD);
        (head[COMMAND], head[GROUP], head[BLOCK]) = (code, group, block);
    }

    /// Reads the command; `None` for one that is not known.
    pub fn command(&self) -> Option<Command> {
        let head = self.words(0..HEAD);
        let (group, first) = (head[GROUP], head[BLOCK]);
        match head[COMMAND] {
            0 => Some(Command::Step),
            1 => Some(Command::AddSlab { group }),
            2 => Some(Command::RemoveSlab { group, first }),
            3 => Some(Command::Close),
            _ => None,
        }
    }

    /// Writes the outcome of a command: a number (outputs of a step, first block of a slab, bytes
    /// given back), or what went wrong.
    pub fn set_outcome(&mut self, outcome: Result<u64, &BackendError>) {
        let text = outcome.as_ref().err().and_then(|e| serde_json::to_string(e).ok()).unwrap_or_default();
        let text = if text.len() <= TEXT.len() { text } else { String::new() };
        self.map[TEXT][..text.len()].copy_from_slice(text.as_bytes());
        let head = self.words_mut(0..HEAD);
        (head[FAILED], head[TEXT_LEN]) = (u32::from(outcome.is_err()), text.len() as u32);
        let number = outcome.unwrap_or(0);
        (head[RESULT], head[RESULT_HIGH]) = (number as u32, (number >> 32) as u32);
    }

    /// Reads the outcome.
    ///
    /// # Errors
    /// What went wrong.
    pub fn outcome(&self) -> Result<u64, BackendError> {
        if self.head(FAILED) == 0 {
            return Ok(self.head(RESULT) as u64 | (self.head(RESULT_HIGH) as u64) << 32);
        }
        let text = self.map[TEXT].get(..self.head(TEXT_LEN)).unwrap_or_default();
        Err(serde_json::from_slice(text).unwrap_or_else(|_| BackendError::Lost("an error without its text".to_owned())))
    }

    /// Writes a step's input.
    ///
    /// # Errors
    /// [`BackendError::Batch`] for a batch beyond the shape.
    pub fn put(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        let shape = self.shape;
        let (n, spans, outputs) = (batch.tokens.len(), batch.spans.len(), batch.outputs.len());
        if n > shape.max_tokens || spans > shape.max_spans || outputs > shape.max_outputs {
            let what = format!("{n} tokens of {spans} sequences, {outputs} outputs: more than {shape:?}");
            return Err(BackendError::Batch(what));
        }
        if input.len() != n * shape.input_width {
            return Err(BackendError::Batch(format!("an input of {} numbers for {n} tokens", input.len())));
        }
        set_floats(self.words_mut(shape.input()), input);
        self.words_mut(shape.tokens())[..n].copy_from_slice(&batch.tokens);
        self.words_mut(shape.positions())[..n].copy_from_slice(&batch.positions);
        self.words_mut(shape.outputs())[..outputs].copy_from_slice(&batch.outputs);
        for (to, span) in self.words_mut(shape.spans()).chunks_exact_mut(SPAN).zip(&batch.spans) {
            to.copy_from_slice(&[span.start as u32, span.len as u32, span.pos]);
        }
        let mut rest = self.words_mut(shape.tables());
        let room = rest.len();
        for group in 0..shape.groups {
            for span in 0..spans {
                let table = batch.table(group, span);
                let Some((to, after)) = rest.split_at_mut_checked(1 + table.len()) else {
                    return Err(BackendError::Batch(format!("block tables of more than {room} words")));
                };
                to[0] = table.len() as u32;
                to[1..].copy_from_slice(table);
                rest = after;
            }
        }
        let used = room - rest.len();
        let head = self.words_mut(0..HEAD);
        (head[N_TOKENS], head[N_SPANS], head[N_OUTPUTS], head[N_TABLES]) =
            (n as u32, spans as u32, outputs as u32, used as u32);
        Ok(())
    }

    /// Reads a step's input into `batch`, which keeps its memory.
    ///
    /// # Errors
    /// [`BackendError::Batch`] if the lengths contradict each other.
    pub fn take(&self, batch: &mut Batch) -> Result<(), BackendError> {
        let damaged = || BackendError::Batch("damaged on its way to the worker".to_owned());
        let shape = self.shape;
        let part = |all: Range<usize>, n: usize| self.words(all).get(..n).ok_or_else(damaged);
        let (n, spans) = (self.head(N_TOKENS), self.head(N_SPANS));
        batch.clear();
        batch.tokens.extend_from_slice(part(shape.tokens(), n)?);
        batch.positions.extend_from_slice(part(shape.positions(), n)?);
        batch.outputs.extend_from_slice(part(shape.outputs(), self.head(N_OUTPUTS))?);
        let words = part(shape.spans(), SPAN * spans)?.chunks_exact(SPAN);
        batch.spans.extend(words.map(|s| Span { start: s[0] as usize, len: s[1] as usize, pos: s[2] }));
        let mut rest = part(shape.tables(), self.head(N_TABLES))?;
        for _ in 0..shape.groups * spans {
            let (&len, after) = rest.split_first().ok_or_else(damaged)?;
            let (table, after) = after.split_at_checked(len as usize).ok_or_else(damaged)?;
            batch.push_table(table);
            rest = after;
        }
        Ok(())
    }

    /// What the part before this one gave for the first `n` tokens.
    ///
    /// # Panics
    /// If the mailbox has not so many.
    pub fn input(&self, n: usize) -> &[f32] {
        self.floats(self.shape.input(), n * self.shape.input_width)
    }

    /// Logits of the first `n` outputs.
    ///
    /// # Panics
    /// If the mailbox has not so many.
    pub fn logits(&self, n: usize) -> &[f32] {
        self.floats(self.shape.logits(), n * self.shape.n_vocab)
    }

    fn floats(&self, at: Range<usize>, n: usize) -> &[f32] {
        let words = &self.words(at)[..n];
        // SAFETY: words of the same size and alignment; every value of four bytes is an f32.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    /// Writes logits.
    ///
    /// # Panics
    /// If there are more than the mailbox takes.
    pub fn set_logits(&mut self, logits: &[f32]) {
        set_floats(self.words_mut(self.shape.logits()), logits);
    }
}

fn set_floats(to: &mut [u32], floats: &[f32]) {
    for (to, x) in to[..floats.len()].iter_mut().zip(floats) {
        *to = x.to_bits();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const SHAPE: Shape =
        Shape { max_tokens: 8, max_outputs: 2, max_spans: 3, table_entries: 6, groups: 2, input_width: 3, n_vocab: 5 };

    fn pair() -> (Mailbox, Mailbox) {
        let (ours, file) = Mailbox::new(SHAPE).expect("memory");
        let file = File::from(file.as_fd().try_clone_to_owned().expect("a copy"));
        (ours, Mailbox::open(&file, SHAPE).expect("opened"))
    }

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let (mut ours, theirs) = pair();
        let mut sent = Batch::default();
        sent.push(&[7, 8, 9], 40, [0, 2]);
        sent.push(&[1], 5, []);
        for table in [&[4, 5][..], &[6], &[u32::MAX, 1], &[]] {
            sent.push_table(table);
        }
        let input: Vec<f32> = (0..12).map(|i| i as f32).collect();
        ours.put(&sent, &input).expect("fits");
        assert_eq!(theirs.input(4), input);
        let mut got = Batch::default();
        for _ in 0..2 {
            theirs.take(&mut got).expect("whole");
        }
        assert_eq!((&got.tokens, &got.positions, &got.outputs), (&sent.tokens, &sent.positions, &sent.outputs));
        assert_eq!(got.spans, sent.spans);
        for group in 0..2 {
            for span in 0..2 {
                assert_eq!(got.table(group, span), sent.table(group, span));
            }
        }
    }

    #[test]
    fn what_is_too_large_or_damaged_is_refused() {
        let (mut ours, mut theirs) = pair();
        let mut batch = Batch::default();
        batch.push(&[0; 9], 0, []);
        assert!(matches!(ours.put(&batch, &[0.0; 27]), Err(BackendError::Batch(_))));
        batch.clear();
        batch.push(&[0], 0, []);
        batch.push_table(&[0; 20]);
        batch.push_table(&[]);
        assert!(matches!(ours.put(&batch, &[0.0; 3]), Err(BackendError::Batch(_))));
        assert!(matches!(ours.put(&batch, &[]), Err(BackendError::Batch(_))));
        for word in [N_TOKENS, N_SPANS, N_OUTPUTS, N_TABLES] {
            theirs.words_mut(0..HEAD)[word] = u32::MAX;
            assert!(matches!(ours.take(&mut batch), Err(BackendError::Batch(_))));
            theirs.words_mut(0..HEAD)[word] = 0;
        }
        let (_, small) = Mailbox::new(Shape { n_vocab: 4, ..SHAPE }).expect("memory");
        assert!(Mailbox::open(&File::from(small), SHAPE).is_err());
    }

    #[test]
    fn commands_outcomes_and_logits() {
        let (mut ours, mut theirs) = pair();
        for command in
            [Command::Step, Command::AddSlab { group: 1 }, Command::RemoveSlab { group: 1, first: 9 }, Command::Close]
        {
            ours.set_command(command);
            assert_eq!(theirs.command(), Some(command));
        }
        for number in [7, 5 << 32 | 9] {
            theirs.set_outcome(Ok(number));
            assert_eq!(ours.outcome().expect("good"), number);
        }
        let lost = BackendError::OutOfMemory { device: "gpu gfx1100".into(), bytes: 5, what: "a slab".into() };
        theirs.set_outcome(Err(&lost));
        assert_eq!(ours.outcome().expect_err("bad").to_string(), lost.to_string());
        theirs.set_outcome(Err(&BackendError::Lost("x".repeat(9000))));
        assert!(ours.outcome().is_err());
        theirs.set_logits(&[1.5; 10]);
        assert_eq!(ours.logits(2), [1.5; 10]);
    }
}
