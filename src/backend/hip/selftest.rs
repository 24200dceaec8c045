//! The golden self-test: each kernel on small data against plain arithmetic on the CPU.
//!
//! A kernel that disagrees is left out of [`Kernels`], so that another one takes its place or the model
//! goes to the CPU. The data is the same at every run; a case checks the whole result, and that nothing
//! else was written. Launches go the way of the backend's own, arguments checked.

mod attention;
mod cache;
mod case;
mod check;
mod data;
mod paged;
mod products;
mod rows;

use std::time::{Duration, Instant};

use self::case::Case;
pub use self::check::Failure;
use self::rows::{gelu, silu};
use super::device::Device;
use super::launch;
use super::memory::{Arena, Pinned, Region};
use super::module::{Function, Kernels};
use super::places::Places;
use super::stream::Stream;
use crate::backend::BackendError;

/// Memory of the largest case.
const IMAGE_BYTES: usize = 4 << 20;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kernels that were tested.
    pub kernels: u32,
    /// Those that disagree, each with the first case in which it does.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// Tests all `kernels` of `device`, which must be this thread's. `next` is told each kernel before it
/// runs: one that never comes back is known by that.
///
/// # Errors
/// [`BackendError`] of a device that cannot be used at all.
pub fn run(device: &Device, kernels: &Kernels, next: &mut dyn FnMut(&str)) -> Result<Report, BackendError> {
    let begin = Instant::now();
    let mut bench = Bench::new(device)?;
    let mut report = Report::default();
    for (name, function) in kernels.all() {
        next(name);
        report.kernels += 1;
        let failure =
            cases(name, bench.region.address()).iter().find_map(|case| bench.test(case, function).transpose());
        report.failures.extend(failure.transpose()?);
    }
    report.took = begin.elapsed();
    Ok(report)
}

/// The launches that test a kernel, with memory at `base`; none for one that is not known.
fn cases(kernel: &str, base: u64) -> Vec<Case> {
    let add = |a, b| a + b;
    let one = |case: Option<Case>| case.into_iter().collect();
    match kernel {
        "select_rows" => return vec![rows::select(base, kernel)],
        "add_rows" => return vec![rows::pairs(base, kernel, add)],
        "glu_silu" => return vec![rows::pairs(base, kernel, |a, b| silu(a) * b)],
        "glu_gelu" => return vec![rows::pairs(base, kernel, |a, b| gelu(a) * b)],
        "scale_rows" => return vec![rows::in_place(base, kernel, 0.37, |x, by| x * by)],
        "softcap_rows" => return vec![rows::in_place(base, kernel, 30.0, |x, cap| cap * (x / cap).tanh())],
        "norm_rms" | "norm_layer" | "norm_rms_team" | "norm_layer_team" => return rows::norms(base, kernel),
        "norm_rms_q8" | "norm_rms_f16" => return rows::norm_and_quantize(base, kernel),
        "quantize_q8" | "quantize_f16" => return vec![rows::quantize(base, kernel)],
        "rope" => return cache::rope(base, kernel),
        "rope_store_f16" | "rope_store_f32" | "rope_store_q8_0" => {
            return cache::rope_store(base, kernel).unwrap_or_default();
        }
        "store_f16" | "store_f32" | "store_q8_0" => return one(cache::store(base, kernel)),
        _ => {}
    }
    let rest = |prefix: &str| kernel.strip_prefix(prefix);
    if let Some(rest) = rest("embed_") {
        one(rows::embed(base, kernel, rest))
    } else if let Some(rest) = rest("gemv_glu_") {
        products::glu(base, kernel, rest).unwrap_or_default()
    } else if let Some(rest) = rest("gemv_") {
        products::gemv(base, kernel, rest).unwrap_or_default()
    } else if let Some(rest) = rest("gemm_") {
        one(products::gemm(base, kernel, rest))
    } else if let Some(rest) = rest("attend_split_") {
        attention::split(base, kernel, rest).unwrap_or_default()
    } else if let Some(rest) = rest("attend_tile_") {
        attention::tile_named(base, kernel, rest).unwrap_or_default()
    } else if let Some(rest) = rest("attend_mma_") {
        attention::mma(base, kernel, rest).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Where cases run, one after the other.
struct Bench {
    device: Device,
    stream: Stream,
    region: Region,
    before: Pinned,
    after: Pinned,
    kernarg: Vec<u8>,
    _arena: Arena,
}

impl Bench {
    fn new(device: &Device) -> Result<Self, BackendError> {
        device.select()?;
        let mut places = Places::default();
        let place = places.add(IMAGE_BYTES as u64);
        let arena = Arena::new(device, &places, "the self-test")?;
        Ok(Self {
            stream: Stream::new(device).map_err(|e| device.error(e, 0, "a queue"))?,
            region: arena.region(place),
            before: Pinned::new(device, IMAGE_BYTES, "the self-test")?,
            after: Pinned::new(device, IMAGE_BYTES, "the self-test")?,
            kernarg: Vec::new(),
            device: device.clone(),
            _arena: arena,
        })
    }

    /// Runs a case; what is wrong with the kernel.
    fn test(&mut self, case: &Case, function: &Function) -> Result<Option<Failure>, BackendError> {
        let n = case.image.len();
        let refused = |why: String| {
            Ok(Some(Failure {
                kernel: case.kernel.clone(),
                case: case.what.to_owned(),
                got: why,
                ..Failure::default()
            }))
        };
        self.kernarg.clear();
        if let Err(e) = launch::pack(&function.info, case.block, &case.args, &mut self.kernarg) {
            return refused(e.to_string());
        }
        let failed = |e| self.device.error(e, 0, &format!("the self-test of kernel {}", case.kernel));
        self.before.bytes_mut()[..n].copy_from_slice(&case.image);
        self.stream.upload(self.region, &mut self.before, n).map_err(failed)?;
        let launched = self.stream.launch(function, case.grid, case.block, &self.kernarg);
        self.stream.download(&mut self.after, self.region, n).map_err(failed)?;
        let done = self.stream.synchronize().map_err(failed)?;
        self.before.take_back(done);
        self.after.take_back(done);
        match launched {
            Err(e) => refused(e.to_string()),
            Ok(()) => Ok(check::compare(case, &self.after.bytes()[..n])),
        }
    }
}

#[cfg(test)]
mod tests;
