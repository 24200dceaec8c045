//! Products: preparing their input, sharing a launch, and what is computed along with them.

use super::{Input, Lowering, QUANTIZE_ELEMENTS, at, buffer, format_name, input_of, line, matrix, vector};
use crate::backend::BackendError;
use crate::backend::hip::program::{Arg, Dim, Extent, GEMV_MAX, Mode, Target};
use crate::plan::Weight;
use crate::plan::op::{Activation, BufId, Op, Projection, WeightId};

/// Matrices of one launch.
const TOGETHER: usize = 3;
/// A matrix with fewer blocks than this for each compute unit does not fill the card: the teams of
/// a block then share rows.
const BLOCKS_A_UNIT: u32 = 4;
/// Shortest rows that are worth sharing.
const SHARED_ROW_MIN: u32 = 1024;

/// Where a product goes, and what is added to it.
#[derive(Clone, Copy)]
struct Product {
    weight: WeightId,
    bias: Option<WeightId>,
    residual: Option<BufId>,
    out: BufId,
}

impl Lowering<'_> {
    /// A linear op, together with a `Glu` or `Add` right after it where one launch does both;
    /// returns how many ops that were.
    pub(super) fn linear(&mut self, x: BufId, projections: &[Projection]) -> Result<usize, BackendError> {
        self.check_rows(projections)?;
        self.prepare(x, projections)?;
        if let Some(done) = self.glu(x, projections)? {
            return Ok(done);
        }
        let mut products: Vec<Product> = projections
            .iter()
            .map(|p| Product { weight: p.weight, bias: p.bias, residual: None, out: p.out })
            .collect();
        let sum = self.sum(x, projections);
        if let Some((residual, out)) = sum {
            products[0] = Product { residual: Some(residual), out, ..products[0] };
        }
        match self.mode {
            Mode::Few { columns } => self.few(x, &products, columns, None)?,
            Mode::Many => {
                let (exact, packed): (Vec<Product>, Vec<Product>) =
                    products.iter().partition(|p| self.input(p.weight) == Input::F32);
                self.few(x, &exact, GEMV_MAX, Some(GEMV_MAX))?;
                for product in packed {
                    self.many(x, product)?;
                }
            }
        }
        Ok(if sum.is_some() { 2 } else { 1 })
    }

    fn input(&self, weight: WeightId) -> Input {
        input_of(self.plan.weight(weight), self.mode)
    }

    /// Rows of codes must be whole groups of 32; all formats' blocks are.
    fn check_rows(&self, projections: &[Projection]) -> Result<(), BackendError> {
        for weight in projections.iter().map(|p| self.plan.weight(p.weight)) {
            if input_of(weight, self.mode) == Input::Q8 && !weight.n_cols.is_multiple_of(32) {
                let what = format!("tensor `{}`: rows of {} are no multiple of 32", weight.name, weight.n_cols);
                return Err(BackendError::Unsupported(what));
            }
        }
        Ok(())
    }

    /// Quantizes `x` for the products that need it, unless it already is.
    fn prepare(&mut self, x: BufId, projections: &[Projection]) -> Result<(), BackendError> {
        let Some(wanted) = projections.iter().map(|p| self.input(p.weight)).find(|i| *i != Input::F32) else {
            return Ok(());
        };
        if self.ready == Some((x, wanted)) {
            return Ok(());
        }
        if wanted == Input::Q8 {
            self.quantize(x, Dim::Rows)?;
        } else {
            let args = vec![buffer(x), at(Target::F16Values), at(Target::F16Scales), Arg::U32(self.width(x))];
            self.push("quantize_f16", line(Extent::each(Dim::Rows)), 256, args)?;
        }
        self.ready = Some((x, wanted));
        Ok(())
    }

    /// Makes codes of so many rows of `x`.
    pub(super) fn quantize(&mut self, x: BufId, rows: Dim) -> Result<(), BackendError> {
        let k = self.width(x);
        let args = vec![buffer(x), at(Target::Q8Codes), at(Target::Q8Scales), Arg::U32(k)];
        let grid = [Extent::each(rows), Extent::Fixed(k.div_ceil(QUANTIZE_ELEMENTS)), Extent::Fixed(1)];
        self.push("quantize_q8", grid, 256, args)
    }

    /// If the op is one product whose only use is a sum right after it: (other summand, result).
    fn sum(&self, x: BufId, projections: &[Projection]) -> Option<(BufId, BufId)> {
        let ([p], Some(Op::Add { a, b, out })) = (projections, self.next()) else { return None };
        let other = match (*a == p.out, *b == p.out) {
            (false, true) => *a,
            (true, false) => *b,
            _ => return None,
        };
        let read_once = self.uses.readers(self.op, p.out) == [self.op + 1];
        // The product itself is not stored, unless the sum takes its place.
        let gone = read_once || (*out == p.out);
        // The kernel still reads x while it writes the sum.
        (gone && !self.uses.share(*out, x)).then_some((other, *out))
    }

    /// Gate and up with their activation in one launch; the ops that this does.
    fn glu(&mut self, x: BufId, projections: &[Projection]) -> Result<Option<usize>, BackendError> {
        let (Mode::Few { columns }, [a, b], Some(Op::Glu { gate, up, act, out })) =
            (self.mode, projections, self.next())
        else {
            return Ok(None);
        };
        let (a, b) = if a.out == *gate { (a, b) } else { (b, a) };
        let (weight, other) = (self.plan.weight(a.weight), self.plan.weight(b.weight));
        let plain = a.bias.is_none() && b.bias.is_none() && weight.ty == other.ty;
        if (a.out, b.out) != (*gate, *up) || !plain || self.uses.share(*out, x) {
            return Ok(None);
        }
        let unused = |id| id == *out || self.uses.readers(self.op, id) == [self.op + 1];
        if !unused(*gate) || !unused(*up) {
            return Ok(None);
        }
        let Ok(kernel) = self.for_columns("gemv_glu", weight, columns) else { return Ok(None) };
        let n = self.width(*out);
        let (values, scales) = self.few_input(x, a.weight);
        let act = match act {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
        };
        let args = vec![
            matrix(a.weight),
            matrix(b.weight),
            buffer(*out),
            Arg::U32(n),
            Arg::U32(self.width(x)),
            values,
            scales,
            Arg::Count(Dim::Rows, 1),
            Arg::U32(act),
        ];
        self.push(kernel, line(Extent::Fixed(n.div_ceil(4))), 128, args)?;
        Ok(Some(2))
    }

    fn few_input(&self, x: BufId, weight: WeightId) -> (Arg, Arg) {
        match self.input(weight) {
            Input::Q8 => (at(Target::Q8Codes), at(Target::Q8Scales)),
            _ => (buffer(x), at(Target::Null)),
        }
    }

    /// The types that one launch can do all of `products` in: one, and another of a last matrix.
    fn two_types(&self, products: &[Product], columns: u32) -> Option<String> {
        let ty = |p: &Product| self.plan.weight(p.weight).ty;
        let ([others @ .., last], 2..=TOGETHER) = (products, products.len()) else { return None };
        let first = ty(&others[0]);
        let same_input = self.input(others[0].weight) == self.input(last.weight);
        if others.iter().any(|p| ty(p) != first) || ty(last) == first || !same_input {
            return None;
        }
        let name = format!("gemv_{}_{}_c{columns}", format_name(first)?, format_name(ty(last))?);
        (self.chip.has)(&name).then_some(name)
    }

    /// The kernel for so many columns; where there is none, one for more computes them as well.
    fn for_columns(&self, prefix: &str, weight: &Weight, columns: u32) -> Result<String, BackendError> {
        let of = |columns: u32| self.kernel(prefix, weight, &format!("_c{columns}"));
        let mut more = Mode::ALL.iter().filter_map(|mode| match mode {
            Mode::Few { columns: more } if *more > columns => of(*more).ok(),
            _ => None,
        });
        of(columns).or_else(|missing| more.next().ok_or(missing))
    }

    /// Products with a few rows, up to three matrices in a launch, of one type or of two for which there
    /// is a kernel.
    fn few(&mut self, x: BufId, products: &[Product], columns: u32, chunk: Option<u32>) -> Result<(), BackendError> {
        if let Some(kernel) = self.two_types(products, columns) {
            let last = products.len() - 1;
            let matrices = [products.first(), products[..last].get(1), products.get(last)];
            let blocks = matrices[..2].iter().flatten().map(|p| self.width(p.out)).sum::<u32>().div_ceil(4)
                + self.width(products[last].out).div_ceil(4);
            return self.few_together(x, kernel, matrices.map(Option::<&Product>::copied), blocks, chunk);
        }
        let mut left: Vec<Product> = products.to_vec();
        while let Some(first) = left.first() {
            let ty = self.plan.weight(first.weight).ty;
            let mut together = Vec::new();
            left.retain(|p| {
                let fits = together.len() < TOGETHER && self.plan.weight(p.weight).ty == ty;
                if fits {
                    together.push(*p);
                }
                !fits
            });
            let kernel = self.for_columns("gemv", self.plan.weight(together[0].weight), columns)?;
            let rows = together.iter().map(|p| self.width(p.out)).sum::<u32>();
            let matrices = [0, 1, 2].map(|i| together.get(i).copied());
            self.few_together(x, kernel, matrices, rows.div_ceil(4), chunk)?;
        }
        Ok(())
    }

    /// One launch of `kernel` for up to three matrices, by `blocks` blocks, or a block a row if those do
    /// not fill the card.
    fn few_together(
        &mut self,
        x: BufId,
        kernel: String,
        matrices: [Option<Product>; TOGETHER],
        blocks: u32,
        chunk: Option<u32>,
    ) -> Result<(), BackendError> {
        let [Some(first), ..] = matrices else { return Ok(()) };
        let k = self.width(x);
        let small = blocks < BLOCKS_A_UNIT * self.chip.units && k >= SHARED_ROW_MIN;
        let shared = Some(format!("{kernel}_k4")).filter(|name| small && (self.chip.has)(name));
        let row = |id: BufId, width: u32| match chunk {
            Some(_) => Arg::AtRow(Target::Buffer(id), 4 * width),
            None => buffer(id),
        };
        let mut args = Vec::with_capacity(17);
        args.extend(matrices.map(|p| p.map_or(at(Target::Null), |p| matrix(p.weight))));
        args.extend(matrices.map(|p| p.map_or(at(Target::Null), |p| row(p.out, self.width(p.out)))));
        args.extend(matrices.map(|p| vector(p.and_then(|p| p.bias))));
        args.push(first.residual.map_or(at(Target::Null), |r| row(r, self.width(first.out))));
        let rows = matrices.map(|p| p.map_or(0, |p| self.width(p.out)));
        args.extend(rows.map(Arg::U32));
        let (values, scales) = match chunk {
            Some(_) => (row(x, k), at(Target::Null)),
            None => self.few_input(x, first.weight),
        };
        let n_cols = if chunk.is_some() { Dim::Chunk } else { Dim::Rows };
        args.extend([Arg::U32(k), values, scales, Arg::Count(n_cols, 1)]);
        let (kernel, blocks) = shared.map_or((kernel, blocks), |shared| (shared, rows.iter().sum()));
        self.push_chunked(kernel, line(Extent::Fixed(blocks)), 128, args, chunk)
    }

    /// A product with many rows.
    fn many(&mut self, x: BufId, p: Product) -> Result<(), BackendError> {
        let kernel = self.kernel("gemm", self.plan.weight(p.weight), "")?;
        let n = self.width(p.out);
        let args = vec![
            matrix(p.weight),
            buffer(p.out),
            vector(p.bias),
            p.residual.map_or(at(Target::Null), buffer),
            Arg::U32(n),
            Arg::U32(self.width(x)),
            at(Target::F16Values),
            at(Target::F16Scales),
            Arg::Count(Dim::Rows, 1),
        ];
        let grid = [Extent::Fixed(n.div_ceil(128)), Extent::Ceil(Dim::Rows, 1, 64), Extent::Fixed(1)];
        self.push(kernel, grid, 256, args)
    }
}
