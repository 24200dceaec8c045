//! A plan's weights on the device: matrices as they lie in the file, vectors and rotations in f32.

use std::f64::consts::TAU;
use std::ops::ControlFlow;

use super::StartError;
use super::device::Device;
use super::memory::{Arena, Pinned};
use super::places::{Place, Places};
use super::program::Target;
use super::stream::{Event, Stream};
use crate::backend::BackendError;
use crate::base::limits::{GPU_UPLOAD_BYTES, GPU_UPLOAD_THREADS};
use crate::plan::op::{Op, Rope, WeightId};
use crate::plan::{Plan, Weight};
use crate::simd::Tier;

/// What must lie on the device, and where.
#[derive(Clone, Debug)]
pub struct Layout {
    /// By weight: the matrix.
    matrices: Vec<Option<Place>>,
    /// By weight: the vector in f32.
    vectors: Vec<Option<Place>>,
    /// By rotation: turns a position.
    turns: Vec<Place>,
    places: Places,
}

impl Layout {
    /// Finds a place for all that the ops of `plan` name, in chunks of `chunk_bytes`.
    pub fn new(plan: &Plan, chunk_bytes: u64) -> Self {
        let mut places = Places::new(chunk_bytes);
        let n = plan.weights.len();
        let (mut matrices, mut vectors) = (vec![None; n], vec![None; n]);
        let mut matrix = |id: WeightId, places: &mut Places| {
            let bytes = plan.weight(id).data.len() as u64;
            matrices[id.0 as usize].get_or_insert_with(|| places.add(bytes));
        };
        let mut vector = |id: WeightId, places: &mut Places| {
            let bytes = 4 * plan.weight(id).n_cols as u64;
            vectors[id.0 as usize].get_or_insert_with(|| places.add(bytes));
        };
        for op in &plan.ops {
            match op {
                Op::Embed { table, .. } => matrix(*table, &mut places),
                Op::Linear { projections, .. } => {
                    for p in projections {
                        matrix(p.weight, &mut places);
                        p.bias.into_iter().for_each(|id| vector(id, &mut places));
                    }
                }
                Op::Norm { weight, bias, .. } => {
                    weight.iter().chain(bias).for_each(|id| vector(*id, &mut places));
                }
                _ => {}
            }
        }
        let turns = plan.ropes.iter().map(|r| places.add(8 * (r.n_rot / 2) as u64)).collect();
        Self { matrices, vectors, turns, places }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.places.bytes()
    }

    fn place(&self, target: Target) -> Option<Place> {
        match target {
            Target::Matrix(id) => self.matrices[id.0 as usize],
            Target::Vector(id) => self.vectors[id.0 as usize],
            Target::Turns(id) => Some(self.turns[id.0 as usize]),
            _ => None,
        }
    }
}

/// The weights on the device.
pub struct Weights {
    layout: Layout,
    arena: Arena,
}

impl Weights {
    /// Allocates and copies all that `layout` has of `plan`. `progress` is told (bytes done, bytes
    /// of all) after each copy and may stop it.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays on the device then.
    pub fn upload(
        device: &Device,
        plan: &Plan,
        layout: Layout,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self, StartError> {
        let arena = Arena::new(device, &layout.places, "the weights")?;
        let sizes = layout.matrices.iter().chain(&layout.vectors).flatten().chain(&layout.turns).map(|p| p.bytes);
        let mut upload = Upload::new(device, sizes.sum(), progress)?;
        for (i, weight) in plan.weights.iter().enumerate() {
            if let Some(place) = layout.matrices[i] {
                upload.put(&arena, place, weight.data.bytes())?;
            }
            if let Some(place) = layout.vectors[i] {
                upload.put(&arena, place, &bytes_of(&to_f32(weight)?))?;
            }
        }
        for (rope, place) in plan.ropes.iter().zip(&layout.turns) {
            let factors = rope.factors.map(|id| to_f32(plan.weight(id))).transpose()?;
            upload.put(&arena, *place, &bytes_of(&turns(rope, factors.as_deref())))?;
        }
        upload.finish()?;
        if plan.weights.iter().any(|w| w.data.poisoned()) {
            return Err(BackendError::Poisoned.into());
        }
        Ok(Self { layout, arena })
    }

    /// The address of a matrix, vector or rotation; `None` for other targets.
    pub fn address(&self, target: Target) -> Option<u64> {
        self.layout.place(target).map(|place| self.arena.region(place).address())
    }
}

/// A vector in f32.
fn to_f32(weight: &Weight) -> Result<Vec<f32>, BackendError> {
    let Some(format) = weight.ty.format() else {
        let what = format!("tensor `{}`: no kernels for {}", weight.name, weight.ty.name());
        return Err(BackendError::Unsupported(what));
    };
    let mut values = vec![0.0; weight.n_cols];
    format.to_f32(Tier::detect(), weight.data.bytes(), &mut values);
    Ok(values)
}

/// Turns a position of each pair, as an f32 and what it leaves out: both together are precise to
/// 48 bits, so that the fraction of a turn at position 100,000 is, too.
fn turns(rope: &Rope, factors: Option<&[f32]>) -> Vec<f32> {
    let split = |angle: f64| {
        let turns = angle / TAU;
        let high = turns as f32;
        [high, (turns - f64::from(high)) as f32]
    };
    rope.angles(factors).into_iter().flat_map(split).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A copy in progress: while one buffer goes to the device, the other is filled.
struct Upload<'a> {
    device: &'a Device,
    stream: Stream,
    buffers: [(Pinned, Event); 2],
    turn: usize,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

const UPLOAD: &str = "copying the weights";

/// Copies by several threads: one alone is slower than the bus, as it waits for each page of the file.
fn copy(to: &mut [u8], from: &[u8]) {
    let share = from.len().div_ceil(GPU_UPLOAD_THREADS).max(1 << 20);
    std::thread::scope(|scope| {
        let mut shares = to.chunks_mut(share).zip(from.chunks(share));
        let own = shares.next();
        for (to, from) in shares {
            scope.spawn(|| to.copy_from_slice(from));
        }
        if let Some((to, from)) = own {
            to.copy_from_slice(from);
        }
    });
}

impl<'a> Upload<'a> {
    fn new(
        device: &'a Device,
        total: u64,
        progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self, StartError> {
        let failed = |e| device.error(e, 0, UPLOAD);
        let size = GPU_UPLOAD_BYTES.min(usize::try_from(total).unwrap_or(usize::MAX));
        let buffer = || -> Result<(Pinned, Event), StartError> {
            Ok((Pinned::new(device, size, "a buffer for loading")?, Event::new(device).map_err(failed)?))
        };
        let stream = Stream::new(device).map_err(failed)?;
        Ok(Self { device, stream, buffers: [buffer()?, buffer()?], turn: 0, done: 0, total, progress })
    }

    fn put(&mut self, arena: &Arena, place: Place, bytes: &[u8]) -> Result<(), StartError> {
        let (region, size) = (arena.region(place), self.buffers[0].0.len());
        let mut at = 0;
        for piece in bytes.chunks(size) {
            let (buffer, event) = &mut self.buffers[self.turn];
            let failed = |e| self.device.error(e, piece.len() as u64, UPLOAD);
            copy(&mut buffer.bytes_mut()[..piece.len()], piece);
            self.stream.upload(region.part(at, piece.len() as u64), buffer, piece.len()).map_err(failed)?;
            self.stream.record(event).map_err(failed)?;
            at += piece.len() as u64;
            self.done += piece.len() as u64;
            self.turn = 1 - self.turn;
            self.wait(self.turn)?;
            if (self.progress)(self.done, self.total).is_break() {
                self.finish()?;
                return Err(StartError::Cancelled);
            }
        }
        Ok(())
    }

    /// Waits until buffer `turn` is free again.
    fn wait(&mut self, turn: usize) -> Result<(), StartError> {
        let (buffer, event) = &mut self.buffers[turn];
        while buffer.is_lent() {
            match event.query().map_err(|e| self.device.error(e, 0, UPLOAD))? {
                Some(done) => buffer.take_back(done),
                // A copy takes a millisecond.
                None => std::thread::sleep(std::time::Duration::from_micros(100)),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), StartError> {
        let done = self.stream.synchronize().map_err(|e| self.device.error(e, 0, UPLOAD))?;
        self.buffers.iter_mut().for_each(|(buffer, _)| buffer.take_back(done));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::op::RopeStyle;

    #[test]
    fn a_copy_by_many_is_whole() {
        for len in [0, 1, 5 << 20, (4 << 20) + 12_345] {
            let from: Vec<u8> = (0..len).map(|i: u32| ((i * 31) >> 3) as u8).collect();
            let mut to = vec![0; len as usize];
            copy(&mut to, &from);
            assert!(to == from, "{len} bytes");
        }
    }

    #[test]
    fn turns_are_precise_far_away() {
        let rope = Rope {
            style: RopeStyle::Halves,
            n_rot: 128,
            freq_base: 10_000.0,
            freq_scale: 1.0,
            factors: None,
            yarn: None,
            attn_factor: 1.0,
        };
        let turns = turns(&rope, None);
        for (pair, angle) in turns.as_chunks::<2>().0.iter().zip(rope.angles(None)) {
            let sum = f64::from(pair[0]) + f64::from(pair[1]);
            assert!((sum - angle / TAU).abs() * 1e6 < 1e-7, "{pair:?} for {angle}");
        }
    }
}
