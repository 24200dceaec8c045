//! Cases of the products with weights of every format.

use super::case::{Case, Number, Piece};
use super::data::{Matrix, Sum, coded, format, halves};
use super::rows::{gelu, silu};
use crate::quant::Format;

/// Rows are so many that there are several blocks, whose teams may have up to four each.
const ROWS: usize = 19;

/// Length of a row: several rounds of a team, the last one not full.
fn length(format: &Format) -> usize {
    match format.ty.block_elements() {
        1 => 1043,
        32 => 1056,
        block => 5 * block,
    }
}

/// Rounding of sums in f32.
fn bound(sum: Sum) -> f64 {
    3e-5 * sum.magnitudes + 4e-6
}

/// Columns of activations as `gemv` takes them: what they stand for, the numbers, and scales of codes.
fn columns(case: &mut Case, format: &Format, n: usize, k: usize) -> (Vec<f64>, Piece, Option<Piece>) {
    let x = case.random.activations(n * k);
    if format.is_float() {
        let piece = case.numbers(Number::F32, &x);
        return (x, piece, None);
    }
    let coded = coded(&x);
    let (codes, scales) = (case.numbers(Number::I8, &coded.codes), case.numbers(Number::F32, &coded.scales));
    (coded.exact, codes, Some(scales))
}

/// `<format>_c<C>`
fn split(rest: &str) -> Option<(&'static Format, usize)> {
    let (name, columns) = rest.rsplit_once("_c")?;
    Some((format(name)?, columns.parse().ok()?))
}

/// `gemv_<format>_c<C>` and the form whose teams share a row.
pub fn gemv(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let shared = rest.ends_with("_k4");
    let rest = rest.strip_suffix("_k4").unwrap_or(rest);
    let (name, c) = rest.rsplit_once("_c")?;
    let c: usize = c.parse().ok()?;
    let (formats, few) = match (format(name), two(name)) {
        (Some(one), _) => ([one; 2], ("one matrix", [ROWS, 0, 0])),
        (None, two) => (two?, ("two matrices", [9, 0, 10])),
    };
    let three = case(base, kernel, formats, c, "three matrices, biases, a residual", [9, 5, 4], shared);
    // With a column less than the kernel has, unless that is none.
    let few = case(base, kernel, formats, c.max(2) - 1, few.0, few.1, shared);
    Some(vec![three, few])
}

/// `<format>_<format>`: the last matrix is of the second.
fn two(name: &str) -> Option<[&'static Format; 2]> {
    name.match_indices('_').find_map(|(at, _)| Some([format(&name[..at])?, format(&name[at + 1..])?]))
}

fn case(
    base: u64,
    kernel: &str,
    formats: [&Format; 2],
    n_cols: usize,
    what: &'static str,
    n: [usize; 3],
    shared: bool,
) -> Case {
    let k = length(formats[0]);
    let mut case = Case::new(base, kernel, what);
    let (x, values, scales) = columns(&mut case, formats[0], n_cols, k);
    let extras = n[1] > 0;
    let mut matrix = |(n, format): (&usize, &Format)| (*n > 0).then(|| case.random.matrix(format, *n, k, 1.0));
    let matrices: Vec<Option<Matrix>> = n.iter().zip([formats[0], formats[0], formats[1]]).map(&mut matrix).collect();
    let mut biases = [None, None, None];
    for i in [0, 2] {
        biases[i] = extras.then(|| case.random.normal(n[i], 1.0));
    }
    let residual = extras.then(|| case.random.normal(n_cols * n[0], 1.0));
    let weights: Vec<_> = matrices.iter().map(|m| m.as_ref().map(|m| case.bytes(&m.bytes))).collect();
    let mut outputs = Vec::new();
    for (i, matrix) in matrices.iter().enumerate() {
        let Some(matrix) = matrix else {
            outputs.push(None);
            continue;
        };
        let sums = matrix.times(&x);
        let added = |at: usize| {
            let bias = biases[i].as_ref().map_or(0.0, |b| b[at % n[i]]);
            bias + residual.as_ref().filter(|_| i == 0).map_or(0.0, |r| r[at])
        };
        let want = sums.iter().enumerate().map(|(at, s)| s.value + added(at)).collect();
        let within = sums.iter().map(|s| bound(*s)).collect();
        outputs.push(Some(case.result(
            ["first product", "second product", "third product"][i],
            Number::F32,
            want,
            within,
        )));
    }
    // The residual lies where the first product goes, as in a plan.
    if let (Some(residual), Some(first)) = (&residual, &outputs[0]) {
        case.image[first.0.clone()].copy_from_slice(&Number::F32.write(residual));
    }
    let biases: Vec<_> = biases.iter().map(|b| b.as_ref().map(|b| case.numbers(Number::F32, b))).collect();
    let residual = residual.and(outputs[0].clone());
    for operand in weights.iter().chain(&outputs).chain(&biases).chain([&residual]) {
        match operand {
            Some(piece) => case.at(piece),
            None => case.absent(),
        };
    }
    let rows: usize = n.iter().sum();
    // The last matrix has blocks of its own where it is of another format.
    let alike = formats[0].ty == formats[1].ty;
    let teams = if alike { rows.div_ceil(4) } else { (n[0] + n[1]).div_ceil(4) + n[2].div_ceil(4) };
    case.launch([if shared { rows } else { teams }, 1, 1], 128).sizes(&n).sizes(&[k]).at(&values);
    match &scales {
        Some(scales) => case.at(scales),
        None => case.absent(),
    };
    case.sizes(&[n_cols]);
    case
}

/// `gemv_glu_<format>_c<C>`
pub fn glu(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let (format, c) = split(rest)?;
    let with = |act: usize, what, of: fn(f64) -> f64| {
        let (k, n) = (length(format), ROWS);
        let mut case = Case::new(base, kernel, what);
        let (x, values, scales) = columns(&mut case, format, c, k);
        let (gate, up) = (case.random.matrix(format, n, k, 0.05), case.random.matrix(format, n, k, 1.0));
        let (want, within) = gate
            .times(&x)
            .into_iter()
            .zip(up.times(&x))
            .map(|(g, u)| {
                let (a, b) = (of(g.value), u.value);
                (a * b, 1.2 * bound(g) * b.abs() + bound(u) * a.abs() + 2e-5 * (a * b).abs() + 2e-6)
            })
            .unzip();
        let (gate, up) = (case.bytes(&gate.bytes), case.bytes(&up.bytes));
        let y = case.result("elements", Number::F32, want, within);
        case.launch([n.div_ceil(4), 1, 1], 128).at(&gate).at(&up).at(&y).sizes(&[n, k]).at(&values);
        match &scales {
            Some(scales) => case.at(scales),
            None => case.absent(),
        };
        case.sizes(&[c, act]);
        case
    };
    Some(vec![with(0, "silu", silu), with(1, "gelu", gelu)])
}

/// `gemm_<format>`: all of a tile of 128 rows and 64 columns, and the edges of the next ones.
pub fn gemm(base: u64, kernel: &str, name: &str) -> Option<Case> {
    let format = format(name)?;
    let (n, n_cols) = (131, 67);
    let k = if format.is_float() {
        75
    } else {
        format.ty.block_elements() * if format.ty.block_elements() == 32 { 3 } else { 1 }
    };
    let mut case = Case::new(base, kernel, "131 rows, 67 columns");
    let x = case.random.activations(n_cols * k);
    let (values, scales, exact) = halves(&x, k);
    let matrix = case.random.matrix(format, n, k, 1.0);
    let (bias, residual) = (case.random.normal(n, 1.0), case.random.normal(n_cols * n, 1.0));
    let sums = matrix.times(&exact);
    let want = sums.iter().enumerate().map(|(at, s)| s.value + bias[at % n] + residual[at]).collect();
    // Each weight is rounded to 11 bits, and its scale before that.
    let within = sums.iter().map(|s| s.squares.sqrt() / 256.0 + 4e-6 * s.magnitudes + 8e-6).collect();
    let weights = case.bytes(&matrix.bytes);
    let y = case.numbers(Number::F32, &residual);
    case.want("products", y.clone(), Number::F32, want, within);
    let (bias, values, scales) =
        (case.numbers(Number::F32, &bias), case.numbers(Number::F16, &values), case.numbers(Number::F32, &scales));
    case.launch([n.div_ceil(128), n_cols.div_ceil(64), 1], 256);
    case.at(&weights).at(&y).at(&bias).at(&y).sizes(&[n, k]).at(&values).at(&scales).sizes(&[n_cols]);
    Some(case)
}
