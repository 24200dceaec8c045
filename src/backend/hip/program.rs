//! What a plan becomes on a GPU: launches as data, with numbers of the step left open.
//!
//! A plan is cut into segments of ops that work on the same kind of rows (all tokens, or only the
//! outputs). Each segment is lowered once for each [`Mode`], and a step takes the one that suits
//! its number of rows. Nothing here needs a device.

use crate::plan::op::{BufId, RopeId, Rows, WeightId};

/// Columns of the largest matrix-times-few-rows kernel: up to so many rows a step decodes.
pub const GEMV_MAX: u32 = 8;
/// Queries of a tile of `attend_tile` and `attend_mma`.
pub const TILE_QUERIES: u32 = 16;

/// How a segment's products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `gemv_*_c<columns>`: weights times a few rows, bound by memory.
    Few {
        /// Columns of the kernel: 1, 2, 4 or 8.
        columns: u32,
    },
    /// `gemm_*`: bound by arithmetic.
    Many,
}

impl Mode {
    /// All of them; [`Mode::of`] gives an index.
    pub const ALL: [Self; 5] = [
        Self::Few { columns: 1 },
        Self::Few { columns: 2 },
        Self::Few { columns: 4 },
        Self::Few { columns: 8 },
        Self::Many,
    ];

    /// Index of the mode for so many rows.
    pub fn of(rows: u32) -> usize {
        match rows {
            0..=1 => 0,
            2 => 1,
            3..=4 => 2,
            5..=GEMV_MAX => 3,
            _ => 4,
        }
    }
}

/// Where an argument points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: an operand that is absent.
    Null,
    /// A buffer of the plan.
    Buffer(BufId),
    /// A matrix as it lies in the file.
    Matrix(WeightId),
    /// A vector in f32.
    Vector(WeightId),
    /// A rotation's turns a position.
    Turns(RopeId),
    /// The quantized input of a product: codes.
    Q8Codes,
    /// Its scales and sums.
    Q8Scales,
    /// The input of a product in f16.
    F16Values,
    /// Its scales.
    F16Scales,
    /// Partial results of attention.
    Parts,
    /// How many blocks have left theirs: zeros between launches.
    Ended,
    /// Tokens of the step.
    Tokens,
    /// Their positions.
    Positions,
    /// Rows whose logits are wanted.
    Outputs,
    /// Spans with the tables of a cache group.
    Spans(u32),
    /// Block tables of all groups.
    Tables,
    /// Block of each token in a cache group.
    Slots(u32),
    /// Tiles of attention.
    Tiles,
}

/// A number of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Rows of the segment: tokens or outputs.
    Rows,
    /// Spans of one token at the batch's start.
    Decodes,
    /// Tiles of the other spans.
    Tiles,
    /// Parts into which a cache group's keys are split.
    Splits(u32),
    /// Rows of the segment if there are tiles, else none.
    Mixed,
    /// Rows of this chunk, see [`Launch::chunk`].
    Chunk,
}

/// An argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// An address.
    At(Target),
    /// The address of the chunk's first row of so many bytes, see [`Launch::chunk`].
    AtRow(Target, u32),
    /// A number of the step, times a constant.
    Count(Dim, u32),
    /// A constant.
    U32(u32),
    /// A constant.
    F32(f32),
}

/// Blocks in one direction of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always so many.
    Fixed(u32),
    /// A number of the step, times a constant, divided by a constant and rounded up.
    Ceil(Dim, u32, u32),
}

impl Extent {
    /// One block a `dim`.
    pub const fn each(dim: Dim) -> Self {
        Self::Ceil(dim, 1, 1)
    }
}

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [Extent; 3],
    /// Threads of a block.
    pub block: u32,
    /// Arguments in order.
    pub args: Vec<Arg>,
    /// Launched once for each so many rows of the segment. Float weights in f32 have no exact GEMM
    /// and go through the small kernel, piece by piece.
    pub chunk: Option<u32>,
    /// First op that it belongs to.
    pub op: usize,
}

/// Neighbouring ops on the same kind of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// What its rows belong to.
    pub rows: Rows,
    /// Launches for each of [`Mode::ALL`].
    pub modes: [Vec<Launch>; 5],
}

/// A lowered plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// In order.
    pub segments: Vec<Segment>,
}

/// The open numbers of a step.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// Tokens.
    pub tokens: u32,
    /// Outputs.
    pub outputs: u32,
    /// Spans of one token at the batch's start.
    pub decodes: u32,
    /// Tiles of the other spans.
    pub tiles: u32,
    /// Parts for each cache group.
    pub splits: &'a [u32],
}

impl Numbers<'_> {
    /// Rows of this kind.
    pub fn rows(&self, rows: Rows) -> u32 {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Outputs => self.outputs,
        }
    }

    /// The value of `dim` in a segment of `rows` rows, in a chunk of `chunk`.
    pub fn value(&self, dim: Dim, rows: u32, chunk: u32) -> u32 {
        match dim {
            Dim::Rows => rows,
            Dim::Decodes => self.decodes,
            Dim::Tiles => self.tiles,
            Dim::Splits(group) => self.splits[group as usize],
            Dim::Mixed if self.tiles > 0 => rows,
            Dim::Mixed => 0,
            Dim::Chunk => chunk,
        }
    }

    /// The number of blocks.
    pub fn extent(&self, extent: Extent, rows: u32, chunk: u32) -> u32 {
        match extent {
            Extent::Fixed(n) => n,
            Extent::Ceil(dim, times, by) => (self.value(dim, rows, chunk) * times).div_ceil(by),
        }
    }
}
