//! From a plan to a program: which kernels compute which ops, and what is fused.
//!
//! Fused are: a norm with the quantization of the product that follows it, up to three products of
//! one input, gate and up with their activation, and a product with the residual added to it. An
//! input is quantized once for all products that share it.

mod attention;
mod linear;
mod uses;

pub use self::attention::{blocks as attention_blocks, capacity as attention_capacity};
use self::uses::Uses;
use super::program::{Arg, Dim, Extent, Launch, Mode, Program, Segment, Target};
use crate::backend::BackendError;
use crate::plan::op::{Activation, BufId, NormKind, Op, Rope, RopeStyle, Rows, WeightId};
use crate::plan::{Plan, Weight};
use crate::quant::{Format, GgmlType};

/// Longest group that a norm computes with one team; longer ones take a block.
const TEAM_NORM_MAX: usize = 512;
/// Blocks that share a row of an embedding.
pub(super) const EMBED_BLOCKS: u32 = 8;
/// Elements of a row that a block of `quantize_q8` converts.
pub(super) const QUANTIZE_ELEMENTS: u32 = 1024;
/// Elements that a block of the element-wise kernels does.
pub(super) const BLOCK_ELEMENTS: u32 = 1024;

/// What lowering needs to know of a device.
pub struct Chip<'a> {
    /// Compute units as HIP counts them.
    pub units: u32,
    /// Whether there is a kernel of this name.
    pub has: &'a dyn Fn(&str) -> bool,
    /// Whether the self-test found the kernel of this name wrong, so that there is none any more.
    pub left_out: &'a dyn Fn(&str) -> bool,
}

impl Chip<'_> {
    /// Why there is no kernel of this name.
    fn missing(&self, name: &str) -> String {
        if (self.left_out)(name) {
            format!("GPU kernel {name} failed the self-test")
        } else {
            format!("there is no GPU kernel {name}")
        }
    }
}

/// Lowers `plan`, which must be sound.
///
/// # Errors
/// [`BackendError::Unsupported`] naming the tensor or op for which there is no kernel.
pub fn lower(plan: &Plan, chip: &Chip<'_>) -> Result<Program, BackendError> {
    let rows_of = |op: &Op| match op.writes().first() {
        Some(out) => plan.buffer(*out).rows,
        // Only `Store` writes no buffer, and it stores tokens.
        None => Rows::Tokens,
    };
    let uses = Uses::new(plan);
    let (mut segments, mut start) = (Vec::new(), 0);
    while let Some(first) = plan.ops.get(start) {
        let rows = rows_of(first);
        let len = plan.ops[start..].iter().take_while(|op| rows_of(op) == rows).count();
        let mut modes: [Vec<Launch>; 5] = Default::default();
        for (launches, mode) in modes.iter_mut().zip(Mode::ALL) {
            let end = start + len;
            let mut lowering = Lowering { plan, chip, uses: &uses, mode, end, op: start, ready: None, launches };
            lowering.run()?;
        }
        segments.push(Segment { rows, modes });
        start += len;
    }
    Ok(Program { segments })
}

/// A weight's type as kernels are named, if there are kernels of it.
fn format_name(ty: GgmlType) -> Option<String> {
    ty.format().map(|f| f.ty.name().to_lowercase())
}

/// How a product's input is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// As it is.
    F32,
    /// Codes of 8 bits.
    Q8,
    /// f16 with a scale a row.
    F16,
}

/// The input that products with `weight` take.
fn input_of(weight: &Weight, mode: Mode) -> Input {
    let float = weight.ty.format().is_some_and(Format::is_float);
    match mode {
        Mode::Few { .. } if float => Input::F32,
        Mode::Few { .. } => Input::Q8,
        Mode::Many if weight.ty == GgmlType::F32 => Input::F32,
        Mode::Many => Input::F16,
    }
}

/// One segment in one mode.
struct Lowering<'a> {
    plan: &'a Plan,
    chip: &'a Chip<'a>,
    uses: &'a Uses,
    mode: Mode,
    /// Where the segment ends.
    end: usize,
    /// The op at hand.
    op: usize,
    /// Which buffer has been quantized, and how; lost when the buffer changes.
    ready: Option<(BufId, Input)>,
    launches: &'a mut Vec<Launch>,
}

impl<'a> Lowering<'a> {
    fn run(&mut self) -> Result<(), BackendError> {
        let plan = self.plan;
        while self.op < self.end {
            let op = &plan.ops[self.op];
            let done = match op {
                Op::Linear { x, projections } => self.linear(*x, projections)?,
                Op::Norm { .. } => self.norm(op)?,
                Op::Rope { .. } => self.rope_and_store(op)?,
                _ => {
                    self.simple(op)?;
                    1
                }
            };
            for op in &plan.ops[self.op..self.op + done] {
                // What a fused norm or attention left quantized is of its output, new: kept.
                let fused = matches!(op, Op::Norm { .. } | Op::Attention(_));
                if !fused && op.writes().iter().any(|w| self.ready.is_some_and(|(b, _)| b == *w)) {
                    self.ready = None;
                }
            }
            self.op += done;
        }
        Ok(())
    }

    fn width(&self, id: BufId) -> u32 {
        self.plan.buffer(id).width as u32
    }

    /// The op after the one at hand, if it is in the segment.
    fn next(&self) -> Option<&'a Op> {
        self.after(self.op)
    }

    /// The op after `op`, if it is in the segment.
    fn after(&self, op: usize) -> Option<&'a Op> {
        let next = op + 1;
        if next < self.end { self.plan.ops.get(next) } else { None }
    }

    fn unsupported<T>(&self, what: &str) -> Result<T, BackendError> {
        let op = &self.plan.ops[self.op];
        Err(BackendError::Unsupported(format!("op {} ({}): {what}", self.op, op.name())))
    }

    /// The name of a kernel for `weight`: `{prefix}_{format}{suffix}`.
    fn kernel(&self, prefix: &str, weight: &Weight, suffix: &str) -> Result<String, BackendError> {
        let why = match format_name(weight.ty).map(|format| format!("{prefix}_{format}{suffix}")) {
            Some(name) if (self.chip.has)(&name) => return Ok(name),
            Some(name) => self.chip.missing(&name),
            None => format!("no GPU kernel {prefix} for {}", weight.ty.name()),
        };
        Err(BackendError::Unsupported(format!("tensor `{}`: {why}", weight.name)))
    }

    fn push(
        &mut self,
        kernel: impl Into<String>,
        grid: [Extent; 3],
        block: u32,
        args: Vec<Arg>,
    ) -> Result<(), BackendError> {
        self.push_chunked(kernel.into(), grid, block, args, None)
    }

    fn push_chunked(
        &mut self,
        kernel: String,
        grid: [Extent; 3],
        block: u32,
        args: Vec<Arg>,
        chunk: Option<u32>,
    ) -> Result<(), BackendError> {
        if !(self.chip.has)(&kernel) {
            return self.unsupported(&self.chip.missing(&kernel));
        }
        self.launches.push(Launch { kernel, grid, block, args, chunk, op: self.op });
        Ok(())
    }

    /// Ops that are one launch each.
    fn simple(&mut self, op: &Op) -> Result<(), BackendError> {
        let rows = Dim::Rows;
        match op {
            Op::Embed { table, scale, out } => {
                let kernel = self.kernel("embed", self.plan.weight(*table), "")?;
                let k = Arg::U32(self.width(*out));
                let args = vec![matrix(*table), at(Target::Tokens), buffer(*out), k, Arg::F32(*scale)];
                let grid = [Extent::each(rows), Extent::Fixed(EMBED_BLOCKS), Extent::Fixed(1)];
                self.push(kernel, grid, 128, args)
            }
            Op::Select { x, out } => {
                let args = vec![buffer(*x), at(Target::Outputs), buffer(*out), Arg::U32(self.width(*out))];
                self.push("select_rows", line(Extent::each(rows)), 256, args)
            }
            Op::Rope { x, head_dim, rope } => {
                let r = &self.plan.ropes[rope.0 as usize];
                let n_head = self.width(*x) / *head_dim as u32;
                let grid = [Extent::each(rows), Extent::Fixed(n_head), Extent::Fixed(1)];
                let args = vec![
                    buffer(*x),
                    at(Target::Positions),
                    at(Target::Turns(*rope)),
                    Arg::U32(*head_dim as u32),
                    Arg::U32(r.n_rot as u32),
                    Arg::U32(n_head),
                    Arg::U32(pairs(r)),
                    Arg::F32(r.magnitude() as f32),
                ];
                self.push("rope", grid, 64, args)
            }
            Op::Glu { gate, up, act, out } => {
                let n = self.width(*out);
                let args = vec![buffer(*gate), buffer(*up), buffer(*out), Arg::Count(rows, n)];
                let kernel = match act {
                    Activation::Silu => "glu_silu",
                    Activation::GeluTanh => "glu_gelu",
                };
                self.push(kernel, line(Extent::Ceil(rows, n, BLOCK_ELEMENTS)), 256, args)
            }
            Op::Add { a, b, out } => {
                let n = self.width(*out);
                let args = vec![buffer(*a), buffer(*b), buffer(*out), Arg::Count(rows, n)];
                self.push("add_rows", line(Extent::Ceil(rows, n, BLOCK_ELEMENTS)), 256, args)
            }
            Op::Scale { x, factor } => self.in_place("scale_rows", *x, *factor),
            Op::Softcap { x, cap } => self.in_place("softcap_rows", *x, *cap),
            Op::Store { cache, slot, k, v } => self.store(*cache, *slot, *k, *v),
            Op::Attention(a) => self.attention(self.op, a, None),
            Op::Norm { .. } | Op::Linear { .. } => Ok(()),
        }
    }

    fn in_place(&mut self, kernel: &str, x: BufId, number: f32) -> Result<(), BackendError> {
        let n = self.width(x);
        let args = vec![buffer(x), Arg::F32(number), Arg::Count(Dim::Rows, n)];
        self.push(kernel, line(Extent::Ceil(Dim::Rows, n, BLOCK_ELEMENTS)), 256, args)
    }

    /// A norm, with the quantization of what comes after it if that is a product; one op.
    fn norm(&mut self, op: &Op) -> Result<usize, BackendError> {
        let Op::Norm { kind, x, weight, bias, group, eps, out } = op else { return Ok(1) };
        if self.norm_and_quantize(op)? {
            return Ok(1);
        }
        self.ready = self.ready.filter(|(b, _)| b != out);
        let (group, width) = (*group as u32, self.width(*x));
        let groups = width / group;
        let name = match kind {
            NormKind::Rms => "norm_rms",
            NormKind::Layer => "norm_layer",
        };
        let args = vec![
            buffer(*x),
            vector(*weight),
            vector(*bias),
            buffer(*out),
            Arg::U32(group),
            Arg::U32(groups),
            Arg::Count(Dim::Rows, groups),
            Arg::F32(*eps),
        ];
        let team = format!("{name}_team");
        // A block computes short groups, too, if slowly.
        if group as usize > TEAM_NORM_MAX || (!(self.chip.has)(&team) && (self.chip.has)(name)) {
            self.push(name, line(Extent::Ceil(Dim::Rows, groups, 1)), 256, args)?;
        } else {
            self.push(team, line(Extent::Ceil(Dim::Rows, groups, 4)), 128, args)?;
        }
        Ok(1)
    }

    /// Whether the norm and the quantization of its output became one launch.
    fn norm_and_quantize(&mut self, op: &Op) -> Result<bool, BackendError> {
        let Op::Norm { kind: NormKind::Rms, x, weight: Some(weight), bias: None, group, eps, out } = op else {
            return Ok(false);
        };
        let Some(Op::Linear { x: input, projections }) = self.next() else { return Ok(false) };
        if input != out || *group != self.plan.buffer(*x).width {
            return Ok(false);
        }
        let inputs = || projections.iter().map(|p| input_of(self.plan.weight(p.weight), self.mode));
        let Some(wanted) = inputs().find(|i| *i != Input::F32) else { return Ok(false) };
        let (kernel, codes, scales) = match wanted {
            Input::Q8 => ("norm_rms_q8", Target::Q8Codes, Target::Q8Scales),
            _ => ("norm_rms_f16", Target::F16Values, Target::F16Scales),
        };
        if !(self.chip.has)(kernel) {
            return Ok(false);
        }
        // Nobody may want the numbers themselves.
        let only = self.uses.readers(self.op, *out) == [self.op + 1] && inputs().all(|i| i == wanted);
        let args = vec![
            buffer(*x),
            vector(Some(*weight)),
            if only { at(Target::Null) } else { buffer(*out) },
            at(codes),
            at(scales),
            Arg::U32(*group as u32),
            Arg::F32(*eps),
        ];
        self.push(kernel, line(Extent::each(Dim::Rows)), 256, args)?;
        self.ready = Some((*out, wanted));
        Ok(true)
    }
}

/// How `rope` pairs elements, as kernels are told.
fn pairs(rope: &Rope) -> u32 {
    match rope.style {
        RopeStyle::Halves => 0,
        RopeStyle::Pairs => 1,
    }
}

fn at(target: Target) -> Arg {
    Arg::At(target)
}

fn buffer(id: BufId) -> Arg {
    Arg::At(Target::Buffer(id))
}

fn matrix(id: WeightId) -> Arg {
    Arg::At(Target::Matrix(id))
}

fn vector(id: Option<WeightId>) -> Arg {
    Arg::At(id.map_or(Target::Null, Target::Vector))
}

/// A grid of one dimension.
fn line(x: Extent) -> [Extent; 3] {
    [x, Extent::Fixed(1), Extent::Fixed(1)]
}

#[cfg(test)]
mod tests;
