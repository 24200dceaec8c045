//! A program with addresses: arguments ready in memory, and where the numbers of a step go.

use std::ops::Range;
use std::sync::Arc;

use super::launch::{self, BadLaunch, Value};
use super::module::{Function, Kernels};
use super::program::{Arg, Dim, Extent, Launch, Mode, Numbers, Program, Target};
use super::stream::Stream;
use super::sys::HipError;
use crate::backend::BackendError;
use crate::plan::op::Rows;

/// What changes from step to step, or from chunk to chunk.
#[derive(Clone, Copy, Debug)]
enum Open {
    /// A number of the step times a constant.
    Count(Dim, u32),
    /// The address of a chunk's first row: of the first row of all, and bytes of a row.
    Row(u64, u32),
}

struct Patch {
    /// Where in the call's arguments.
    offset: u32,
    open: Open,
}

struct Call {
    function: Arc<Function>,
    grid: [Extent; 3],
    block: u32,
    chunk: Option<u32>,
    kernarg: Range<usize>,
    patches: Range<usize>,
}

struct Segment {
    rows: Rows,
    modes: [Vec<Call>; 5],
}

/// A program on a device.
pub struct Bound {
    segments: Vec<Segment>,
    kernargs: Vec<u8>,
    patches: Vec<Patch>,
}

impl Bound {
    /// Lays out the arguments of all launches; `address` tells where targets lie.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] if a kernel takes other arguments.
    pub fn new(
        program: &Program,
        kernels: &Kernels,
        address: &dyn Fn(Target) -> Option<u64>,
    ) -> Result<Self, BackendError> {
        let mut bound =
            Self { segments: Vec::with_capacity(program.segments.len()), kernargs: Vec::new(), patches: Vec::new() };
        for segment in &program.segments {
            let mut modes: [Vec<Call>; 5] = Default::default();
            for (calls, launches) in modes.iter_mut().zip(&segment.modes) {
                for launch in launches {
                    calls.push(bound.call(launch, kernels, address)?);
                }
            }
            bound.segments.push(Segment { rows: segment.rows, modes });
        }
        Ok(bound)
    }

    fn call(
        &mut self,
        launch: &Launch,
        kernels: &Kernels,
        address: &dyn Fn(Target) -> Option<u64>,
    ) -> Result<Call, BackendError> {
        let missing = |what: String| BackendError::Unsupported(format!("op {}: {what}", launch.op));
        let find = |target: Target| match target {
            Target::Null => Ok(0),
            _ => address(target).ok_or_else(|| missing(format!("nothing lies at {target:?}"))),
        };
        let function = kernels.get(&launch.kernel).ok_or_else(|| missing(format!("no kernel {}", launch.kernel)))?;
        let mut values = Vec::with_capacity(launch.args.len());
        let mut open = Vec::new();
        for (i, arg) in launch.args.iter().enumerate() {
            values.push(match *arg {
                Arg::At(target) => Value::Address(find(target)?),
                Arg::U32(n) => Value::U32(n),
                Arg::F32(x) => Value::F32(x),
                Arg::Count(dim, times) => {
                    open.push((i, Open::Count(dim, times)));
                    Value::U32(0)
                }
                Arg::AtRow(target, bytes) => {
                    let start = find(target)?;
                    open.push((i, Open::Row(start, bytes)));
                    Value::Address(start)
                }
            });
        }
        let (start, first) = (self.kernargs.len(), self.patches.len());
        let offsets = launch::pack(&function.info, launch.block, &values, &mut self.kernargs);
        let offsets = offsets.map_err(|e: BadLaunch| missing(e.to_string()))?;
        self.patches.extend(open.into_iter().map(|(i, open)| Patch { offset: offsets[i], open }));
        Ok(Call {
            function: Arc::clone(function),
            grid: launch.grid,
            block: launch.block,
            chunk: launch.chunk,
            kernarg: start..self.kernargs.len(),
            patches: first..self.patches.len(),
        })
    }

    /// Puts all launches of a step into `stream`. Allocates nothing.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn run(&mut self, stream: &Stream, numbers: &Numbers<'_>) -> Result<(), HipError> {
        let Self { segments, kernargs, patches } = self;
        for segment in segments {
            let rows = numbers.rows(segment.rows);
            if rows == 0 {
                continue;
            }
            for call in &segment.modes[Mode::of(rows)] {
                let kernarg = &mut kernargs[call.kernarg.clone()];
                let step = call.chunk.unwrap_or(rows);
                for start in (0..rows).step_by(step as usize) {
                    let chunk = step.min(rows - start);
                    let grid = call.grid.map(|extent| numbers.extent(extent, rows, chunk));
                    if grid.contains(&0) {
                        continue;
                    }
                    for patch in &patches[call.patches.clone()] {
                        let value = match patch.open {
                            Open::Count(dim, times) => Value::U32(numbers.value(dim, rows, chunk) * times),
                            Open::Row(first, bytes) => Value::Address(first + u64::from(start) * u64::from(bytes)),
                        };
                        launch::put(kernarg, patch.offset, value);
                    }
                    stream.launch(&call.function, grid, call.block, kernarg)?;
                }
            }
        }
        Ok(())
    }
}
