//! The input of one step: tokens of several sequences, their positions and block tables.
//!
//! A batch is filled anew for each step without allocating: its vectors keep their capacity.

/// Block table entry of a block that was given back (it lies before the window).
pub const NO_BLOCK: u32 = u32::MAX;

/// Neighbouring tokens of one sequence in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of its first token in [`Batch::tokens`].
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// Position of its first token: so many tokens of the sequence are in the cache already.
    pub pos: u32,
}

/// The input of one step.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids of all spans, one after the other.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// The sequences of the batch; a sequence occurs once.
    pub spans: Vec<Span>,
    /// Tokens (indices into `tokens`, ascending) whose logits are wanted.
    pub outputs: Vec<u32>,
    /// Blocks of all sequences, group after group, span after span: see [`Batch::table`].
    blocks: Vec<u32>,
    /// Start of each (group, span) in `blocks`.
    starts: Vec<usize>,
}

impl Batch {
    /// An empty batch that takes so much without allocating.
    pub fn with_capacity(tokens: usize, spans: usize, groups: usize, table_entries: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(tokens),
            positions: Vec::with_capacity(tokens),
            spans: Vec::with_capacity(spans),
            outputs: Vec::with_capacity(spans),
            blocks: Vec::with_capacity(table_entries),
            starts: Vec::with_capacity(groups * spans),
        }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
        self.outputs.clear();
        self.blocks.clear();
        self.starts.clear();
    }

    /// Adds tokens of one sequence from position `pos` on; `outputs` says which of them (indices
    /// into `tokens`, ascending) need logits.
    pub fn push(&mut self, tokens: &[u32], pos: u32, outputs: impl IntoIterator<Item = usize>) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((0..tokens.len() as u32).map(|i| pos + i));
        self.spans.push(Span { start, len: tokens.len(), pos });
        self.outputs.extend(outputs.into_iter().map(|i| (start + i) as u32));
    }

    /// Adds the block table of the next (group, span): to be called for each group in order, and
    /// in it for each span in order, after all spans were pushed. Entry `i` of a table holds
    /// positions `i * KV_BLOCK_TOKENS ..`; it covers all positions up to the span's last.
    pub fn push_table(&mut self, blocks: &[u32]) {
        self.starts.push(self.blocks.len());
        self.blocks.extend_from_slice(blocks);
    }

    /// The block table of span `span` in cache group `group`.
    pub fn table(&self, group: usize, span: usize) -> &[u32] {
        let i = group * self.spans.len() + span;
        let end = self.starts.get(i + 1).copied().unwrap_or(self.blocks.len());
        &self.blocks[self.starts[i]..end]
    }
}
