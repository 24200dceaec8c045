//! Cases of the kernels that work row by row or element by element.

use super::case::{Case, Number, of_each, of_row};
use super::data::{coded, format, group_scale, row_scale};
use crate::backend::hip::lower::{BLOCK_ELEMENTS, EMBED_BLOCKS, QUANTIZE_ELEMENTS};

const EPS: f32 = 1e-5;
/// Elements of the kernels without rows: two blocks, the second with a tail.
const ELEMENTS: usize = 1501;

fn blocks(n: usize) -> [usize; 3] {
    [n.div_ceil(BLOCK_ELEMENTS as usize), 1, 1]
}

pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// `embed_<format>`
pub fn embed(base: u64, kernel: &str, name: &str) -> Option<Case> {
    let format = format(name)?;
    let (k, tokens, scale) = (format.ty.block_elements() * if format.is_float() { 301 } else { 3 }, [4, 0, 2], 2.5);
    let mut case = Case::new(base, kernel, "3 rows of 5");
    let table = case.random.matrix(format, 5, k, 1.0);
    let want: Vec<f64> =
        tokens.iter().flat_map(|t| &table.weights[*t as usize * k..][..k]).map(|w| w * f64::from(scale)).collect();
    let within = of_row(&want, want.len(), 2e-6);
    let table = case.bytes(&table.bytes);
    let tokens = case.words(&tokens);
    let out = case.result("elements", Number::F32, want, within);
    case.launch([3, EMBED_BLOCKS as usize, 1], 128).at(&table).at(&tokens).at(&out).sizes(&[k]).float(scale);
    Some(case)
}

/// `select_rows`
pub fn select(base: u64, kernel: &str) -> Case {
    let (width, rows) = (77, [4, 0, 2]);
    let mut case = Case::new(base, kernel, "3 rows of 5");
    let x = case.random.normal(5 * width, 1.0);
    let want: Vec<f64> = rows.iter().flat_map(|r| x[*r as usize * width..][..width].to_vec()).collect();
    let (x, rows) = (case.numbers(Number::F32, &x), case.words(&rows));
    let within = vec![0.0; want.len()];
    let out = case.result("elements", Number::F32, want, within);
    case.launch([3, 1, 1], 256).at(&x).at(&rows).at(&out).sizes(&[width]);
    case
}

/// `add_rows`, `glu_silu` and `glu_gelu`: two inputs, one output.
pub fn pairs(base: u64, kernel: &str, of: fn(f64, f64) -> f64) -> Case {
    let mut case = Case::new(base, kernel, "1501 elements");
    let (a, b) = (case.random.normal(ELEMENTS, 4.0), case.random.normal(ELEMENTS, 1.0));
    let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| of(*a, *b)).collect();
    let within = of_each(&want, 2e-5);
    let (a, b) = (case.numbers(Number::F32, &a), case.numbers(Number::F32, &b));
    let out = case.result("elements", Number::F32, want, within);
    case.launch(blocks(ELEMENTS), 256).at(&a).at(&b).at(&out).sizes(&[ELEMENTS]);
    case
}

/// `scale_rows` and `softcap_rows`: in place, with a number.
pub fn in_place(base: u64, kernel: &str, number: f32, of: fn(f64, f64) -> f64) -> Case {
    let mut case = Case::new(base, kernel, "1501 elements");
    let x = case.random.normal(ELEMENTS, 40.0);
    let want: Vec<f64> = x.iter().map(|x| of(*x, f64::from(number))).collect();
    let within = of_each(&want, 8e-6);
    let x = case.numbers(Number::F32, &x);
    case.want("elements", x.clone(), Number::F32, want, within);
    case.launch(blocks(ELEMENTS), 256).at(&x).float(number).sizes(&[ELEMENTS]);
    case
}

/// Root mean square or layer norm of groups.
fn normed(x: &[f64], group: usize, layer: bool, w: &[f64], b: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let n = group as f64;
        let mean = if layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let by = (square + f64::from(EPS)).sqrt();
        x.iter().enumerate().map(|(i, x)| (x - mean) / by * w[i] + b[i]).collect()
    };
    x.chunks_exact(group).flat_map(row).collect()
}

/// `norm_rms`, `norm_layer` and their forms for teams.
pub fn norms(base: u64, kernel: &str) -> Vec<Case> {
    let (team, layer) = (kernel.ends_with("_team"), kernel.starts_with("norm_layer"));
    let group = if team { 77 } else { 1301 };
    // Five groups: teams are four to a block.
    let groups = 5;
    let with = |extras: bool| {
        let mut case = Case::new(base, kernel, if extras { "with weight and bias" } else { "plain, in place" });
        let x: Vec<f64> = case.random.normal(groups * group, 2.0).iter().map(|x| x + 1.0).collect();
        let x = Number::F32.rounded(&x);
        let (w, b) = match extras {
            true => (case.random.normal(group, 1.0), case.random.normal(group, 1.0)),
            false => (vec![1.0; group], vec![0.0; group]),
        };
        let want = normed(&x, group, layer, &w, &b);
        let within = of_row(&want, group, 1e-5);
        let x = case.numbers(Number::F32, &x);
        case.launch(if team { [groups.div_ceil(4), 1, 1] } else { [groups, 1, 1] }, if team { 128 } else { 256 });
        if extras {
            let (w, b) = (case.numbers(Number::F32, &w), case.numbers(Number::F32, &b));
            let out = case.result("elements", Number::F32, want, within);
            case.at(&x).at(&w).at(&b).at(&out);
        } else {
            case.want("elements", x.clone(), Number::F32, want, within);
            case.at(&x).absent().absent().at(&x);
        }
        case.sizes(&[group, 1, groups]).float(EPS);
        case
    };
    vec![with(true), with(false)]
}

const ROWS: usize = 3;

/// Codes of rows of numbers, with scales and sums; the arguments that take them.
pub fn codes(case: &mut Case, x: &[f64], slack: f64) {
    let coded = coded(x);
    let (mut codes, mut within, mut off) = (Vec::new(), Vec::new(), Vec::new());
    for group in x.chunks(32) {
        let d = group_scale(group);
        codes.extend(group.iter().map(|x| x / d));
        within.extend(group.iter().map(|x| 0.505 + slack * (x / d).abs()));
        // The sum is that of the codes: one that lies between two may be rounded to either.
        off.extend([d * (1e-5 + slack), d * (1.01 + 127.0 * slack)]);
    }
    let codes = case.result("codes", Number::I8, codes, within);
    let scales = case.result("scales and sums", Number::F32, coded.scales, off);
    case.at(&codes).at(&scales);
}

/// Halves of rows of numbers, with the scale of each; the arguments that take them.
fn halves(case: &mut Case, x: &[f64], k: usize, slack: f64) {
    let scales: Vec<f64> = x.chunks(k).map(row_scale).collect();
    let halves: Vec<f64> = x.chunks(k).zip(&scales).flat_map(|(row, s)| row.iter().map(move |x| x / s)).collect();
    let within = of_each(&halves, 1.0 / 1024.0 + slack);
    let halves = case.result("halves", Number::F16, halves, within);
    let within = of_each(&scales, 1e-5 + slack);
    let scales = case.result("scales", Number::F32, scales, within);
    case.at(&halves).at(&scales);
}

/// `quantize_q8` and `quantize_f16`
pub fn quantize(base: u64, kernel: &str) -> Case {
    let q8 = kernel == "quantize_q8";
    // More than one round or block, with a tail.
    let k: usize = if q8 { 1056 } else { 1027 };
    let mut case = Case::new(base, kernel, "3 rows");
    let x = case.random.activations(ROWS * k);
    let piece = case.numbers(Number::F32, &x);
    case.at(&piece);
    if q8 {
        case.launch([ROWS, k.div_ceil(QUANTIZE_ELEMENTS as usize), 1], 256);
        codes(&mut case, &x, 0.0);
    } else {
        case.launch([ROWS, 1, 1], 256);
        halves(&mut case, &x, k, 0.0);
    }
    case.sizes(&[k]);
    case
}

/// `norm_rms_q8` and `norm_rms_f16`
pub fn norm_and_quantize(base: u64, kernel: &str) -> Vec<Case> {
    let q8 = kernel.ends_with("q8");
    let k = if q8 { 1056 } else { 1027 };
    let with = |numbers: bool| {
        let mut case = Case::new(base, kernel, if numbers { "3 rows, with their numbers" } else { "3 rows" });
        let (x, w) = (case.random.normal(ROWS * k, 3.0), case.random.normal(k, 1.0));
        let want = normed(&x, k, false, &w, &vec![0.0; k]);
        let (x, w) = (case.numbers(Number::F32, &x), case.numbers(Number::F32, &w));
        case.launch([ROWS, 1, 1], 256).at(&x).at(&w);
        if numbers {
            let within = of_row(&want, k, 1e-5);
            let out = case.result("elements", Number::F32, want.clone(), within);
            case.at(&out);
        } else {
            case.absent();
        }
        if q8 {
            codes(&mut case, &want, 1e-5);
        } else {
            halves(&mut case, &want, k, 1e-5);
        }
        case.sizes(&[k]).float(EPS);
        case
    };
    vec![with(true), with(false)]
}
