//! A launch of the self-test: its memory as one image, its arguments, and what must come of it.

use std::ops::Range;

use half::f16;

use super::data::Random;
use crate::backend::hip::launch::Value;

/// Pieces of memory start at multiples of this, as the backend's do.
const ALIGNMENT: usize = 256;
/// Bytes behind each piece that nobody may write.
const GUARD: usize = 64;
/// What memory holds that nobody has written: NaN in f32 and in f16.
const POISON: u8 = 0xff;

/// A type of numbers in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// A code.
    I8,
}

impl Number {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Number::F32 => 4,
            Number::F16 => 2,
            Number::I8 => 1,
        }
    }

    /// All numbers in `bytes`.
    pub fn read(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Number::F32 => {
                bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            Number::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            Number::I8 => bytes.iter().map(|b| f64::from(b.cast_signed())).collect(),
        }
    }

    /// Numbers as bytes, rounded.
    pub fn write(self, numbers: &[f64]) -> Vec<u8> {
        match self {
            Number::F32 => numbers.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
            Number::F16 => numbers.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
            Number::I8 => numbers.iter().flat_map(|x| (*x as i8).to_le_bytes()).collect(),
        }
    }

    /// Numbers as this type holds them.
    pub fn rounded(self, numbers: &[f64]) -> Vec<f64> {
        self.read(&self.write(numbers))
    }
}

/// A piece of a case's memory.
#[derive(Clone, Debug)]
pub struct Piece(pub Range<usize>);

impl Piece {
    /// The `bytes` bytes from `offset`.
    pub fn part(&self, offset: usize, bytes: usize) -> Self {
        Self(self.0.start + offset..self.0.start + offset + bytes)
    }
}

/// What a piece of memory must hold.
#[derive(Clone, Debug)]
pub struct Want {
    /// What the numbers are, for messages.
    pub name: &'static str,
    /// Where.
    pub piece: Piece,
    /// What lies there.
    pub ty: Number,
    /// The numbers.
    pub numbers: Vec<f64>,
    /// How far each may be off.
    pub within: Vec<f64>,
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Case {
    /// The kernel.
    pub kernel: String,
    /// What is special about this launch.
    pub what: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Arguments.
    pub args: Vec<Value>,
    /// All memory before the launch. What is not wanted otherwise must be the same after it.
    pub image: Vec<u8>,
    /// What must come of it.
    pub wants: Vec<Want>,
    /// Its numbers.
    pub random: Random,
    /// Device address of the image.
    base: u64,
}

impl Case {
    /// A case of `kernel` whose image lies at `base`.
    pub fn new(base: u64, kernel: &str, what: &'static str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            what,
            grid: [1; 3],
            block: 1,
            args: Vec::new(),
            image: Vec::new(),
            wants: Vec::new(),
            random: Random::new(kernel),
            base,
        }
    }

    /// The launch's size.
    pub fn launch(&mut self, grid: [usize; 3], block: u32) -> &mut Self {
        (self.grid, self.block) = (grid.map(|n| n as u32), block);
        self
    }

    /// A piece with these bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Piece {
        self.image.resize(self.image.len().next_multiple_of(ALIGNMENT), POISON);
        let start = self.image.len();
        self.image.extend_from_slice(bytes);
        let end = self.image.len();
        self.image.resize(end + GUARD, POISON);
        Piece(start..end)
    }

    /// A piece with these numbers.
    pub fn numbers(&mut self, ty: Number, numbers: &[f64]) -> Piece {
        self.bytes(&ty.write(numbers))
    }

    /// A piece with these words.
    pub fn words(&mut self, words: &[u32]) -> Piece {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A piece with the addresses of others; 0 stands for none.
    pub fn addresses(&mut self, of: &[Option<Piece>]) -> Piece {
        let address = |p: &Option<Piece>| p.as_ref().map_or(0, |p| self.base + p.0.start as u64);
        let bytes: Vec<u8> = of.iter().flat_map(|p| address(p).to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// A piece that nobody has written.
    pub fn room(&mut self, bytes: usize) -> Piece {
        self.bytes(&vec![POISON; bytes])
    }

    /// Room for what the kernel keeps between its blocks.
    pub fn scratch(&mut self, bytes: usize) -> Piece {
        let piece = self.room(bytes);
        self.want("scratch", piece.clone(), Number::I8, Vec::new(), Vec::new());
        piece
    }

    /// Room for numbers that must come out.
    pub fn result(&mut self, name: &'static str, ty: Number, numbers: Vec<f64>, within: Vec<f64>) -> Piece {
        let piece = self.room(ty.bytes() * numbers.len());
        self.want(name, piece.clone(), ty, numbers, within);
        piece
    }

    /// Says what a piece must hold.
    pub fn want(&mut self, name: &'static str, piece: Piece, ty: Number, numbers: Vec<f64>, within: Vec<f64>) {
        self.wants.push(Want { name, piece, ty, numbers, within });
    }

    /// An address argument.
    pub fn at(&mut self, piece: &Piece) -> &mut Self {
        self.args.push(Value::Address(self.base + piece.0.start as u64));
        self
    }

    /// An operand that is absent.
    pub fn absent(&mut self) -> &mut Self {
        self.args.push(Value::Address(0));
        self
    }

    /// Numbers as arguments.
    pub fn sizes(&mut self, sizes: &[usize]) -> &mut Self {
        self.args.extend(sizes.iter().map(|n| Value::U32(*n as u32)));
        self
    }

    /// A number as argument.
    pub fn float(&mut self, x: f32) -> &mut Self {
        self.args.push(Value::F32(x));
        self
    }
}

/// For each number the part `of` the largest of its row of `width`.
pub fn of_row(numbers: &[f64], width: usize, of: f64) -> Vec<f64> {
    let largest = |row: &[f64]| row.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    numbers.chunks(width).flat_map(|row| vec![of * largest(row); row.len()]).collect()
}

/// For each number the part `of` itself, and a little.
pub fn of_each(numbers: &[f64], of: f64) -> Vec<f64> {
    numbers.iter().map(|x| of * x.abs() + 1e-7).collect()
}
