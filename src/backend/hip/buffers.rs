//! Memory of a step on the device: activations, quantized inputs, partial results, arrays.

use super::Options;
use super::device::Device;
use super::inputs::Inputs;
use super::lower::{attention_blocks, attention_capacity};
use super::memory::{Arena, Region};
use super::places::{Place, Places};
use super::program::{GEMV_MAX, Target};
use super::stream::Stream;
use crate::backend::BackendError;
use crate::base::limits::GPU_SPLITS_MAX;
use crate::plan::Plan;
use crate::plan::memory::Layout as Slots;
use crate::plan::op::{BufId, Op, Rows};
use crate::quant::{Format, GgmlType};

/// Where a step's memory lies.
#[derive(Clone, Debug)]
pub struct Layout {
    slots: Vec<Place>,
    slot_of: Vec<usize>,
    codes: Place,
    scales: Place,
    halves: Place,
    half_scales: Place,
    parts: Place,
    ended: Place,
    arrays: Place,
    places: Places,
}

impl Layout {
    /// Memory for steps of `plan` within `options` on a device of `units` compute units.
    pub fn new(plan: &Plan, options: &Options, inputs: &Inputs, units: u32) -> Self {
        let slots = Slots::new(plan);
        let mut places = Places::new(options.chunk_bytes);
        let rows = |rows| if rows == Rows::Tokens { options.max_tokens } else { options.max_outputs };
        let slot_places = slots.slots.iter().map(|s| places.add(4 * (s.width * rows(s.rows)) as u64)).collect();
        let few = (GEMV_MAX as usize).min(options.max_tokens.max(options.max_outputs));
        let (coded, packed) = widths(plan);
        let many = options.max_tokens.max(options.max_outputs);
        Self {
            slots: slot_places,
            slot_of: (0..plan.buffers.len()).map(|i| slots.slot(BufId(i as u32))).collect(),
            codes: places.add((few * coded) as u64),
            scales: places.add((few * coded / 32 * 8) as u64),
            halves: places.add((many * packed * 2) as u64),
            half_scales: places.add(4 * many as u64),
            parts: places.add(parts_bytes(plan, options.max_spans.min(options.max_tokens), units)),
            ended: places.add(ended_bytes(plan, options.max_spans.min(options.max_tokens))),
            arrays: places.add(inputs.bytes() as u64),
            places,
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.places.bytes()
    }

    fn place(&self, target: Target) -> Option<Place> {
        Some(match target {
            Target::Buffer(id) => self.slots[self.slot_of[id.0 as usize]],
            Target::Q8Codes => self.codes,
            Target::Q8Scales => self.scales,
            Target::F16Values => self.halves,
            Target::F16Scales => self.half_scales,
            Target::Parts => self.parts,
            Target::Ended => self.ended,
            _ => return None,
        })
    }
}

/// Widest input of products with codes (quantized to 8 bits for a few rows), and of those that
/// take f16 (many rows).
fn widths(plan: &Plan) -> (usize, usize) {
    let (mut coded, mut packed) = (0, 0);
    for op in &plan.ops {
        let Op::Linear { projections, .. } = op else { continue };
        for weight in projections.iter().map(|p| plan.weight(p.weight)) {
            if !weight.ty.format().is_some_and(Format::is_float) {
                coded = coded.max(weight.n_cols);
            }
            if weight.ty != GgmlType::F32 {
                packed = packed.max(weight.n_cols);
            }
        }
    }
    (coded, packed)
}

/// Bytes of the largest partial results of a step of up to `n_q` single tokens.
fn parts_bytes(plan: &Plan, n_q: usize, units: u32) -> u64 {
    let mut most = 0;
    for op in &plan.ops {
        let Op::Attention(a) = op else { continue };
        let group = &plan.caches[a.cache.0 as usize];
        let width = attention_capacity(group).map_or(0, |d| d + 2) * a.n_head * 4;
        for n_q in 1..=n_q as u32 {
            let splits = splits(u32::MAX, n_q, group.n_head_kv as u32, units);
            most = most.max(u64::from(n_q) * u64::from(splits) * width as u64);
        }
    }
    most
}

/// Bytes of the counters of a step of up to `n_q` single tokens.
fn ended_bytes(plan: &Plan, n_q: usize) -> u64 {
    let blocks = |op: &Op| match op {
        Op::Attention(a) => attention_blocks(a.n_head as u32, plan.caches[a.cache.0 as usize].n_head_kv as u32),
        _ => 0,
    };
    4 * n_q as u64 * u64::from(plan.ops.iter().map(blocks).max().unwrap_or(0))
}

/// Keys that one part has at least: fewer are not worth the second pass.
pub const PART_KEYS: u32 = 128;
/// Blocks for each compute unit that fill a device.
const BLOCKS_A_UNIT: u32 = 4;

/// Into how many parts the keys of `n_q` tokens are split, the longest of them with `keys` keys: a
/// power of two, so that recorded steps serve many lengths.
pub fn splits(keys: u32, n_q: u32, n_head_kv: u32, units: u32) -> u32 {
    let worth = keys.div_ceil(PART_KEYS);
    let fill = (units * BLOCKS_A_UNIT).div_ceil((n_q * n_head_kv).max(1));
    worth.min(fill).clamp(1, GPU_SPLITS_MAX).next_power_of_two()
}

/// A step's memory on the device.
pub struct Buffers {
    layout: Layout,
    arena: Arena,
}

impl Buffers {
    /// Allocates it.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub fn new(device: &Device, layout: Layout, stream: &mut Stream) -> Result<Self, BackendError> {
        let arena = Arena::new(device, &layout.places, "activations")?;
        // What kernels leave as zeros.
        stream.clear(arena.region(layout.ended)).map_err(|e| device.error(e, 0, "activations"))?;
        Ok(Self { layout, arena })
    }

    /// Where `target` lies; `None` if it is none of a step's.
    pub fn region(&self, target: Target) -> Option<Region> {
        self.layout.place(target).map(|place| self.arena.region(place))
    }

    /// The step's arrays.
    pub fn arrays(&self) -> Region {
        self.arena.region(self.layout.arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::tests::tiny_plan;

    #[test]
    fn keys_are_split_when_that_fills_the_device() {
        assert_eq!(splits(1, 1, 8, 48), 1);
        assert_eq!(splits(129, 1, 8, 48), 2);
        assert_eq!(splits(100_000, 1, 8, 48), 32);
        assert_eq!(splits(100_000, 16, 8, 48), 2);
        assert_eq!(splits(100_000, 64, 8, 48), 1);
        assert_eq!(splits(u32::MAX, 1, 1, 1000), GPU_SPLITS_MAX);
        assert_eq!(splits(0, 0, 8, 48), 1);
    }

    #[test]
    fn bytes_are_those_of_the_parts() {
        let plan = tiny_plan();
        let options = Options { max_tokens: 20, max_outputs: 4, max_spans: 3, table_entries: 8, ..Options::default() };
        let inputs = Inputs::new(&options, 1);
        let layout = Layout::new(&plan, &options, &inputs, 10);
        let slots = Slots::new(&plan).slots;
        let rows = |r| if r == Rows::Tokens { 20 } else { 4 };
        let mut places = Places::default();
        for s in &slots {
            places.add((4 * s.width * rows(s.rows)) as u64);
        }
        // All weights are F32: nothing is quantized, but each absent array has an address.
        let (parts, ended) = (64 * 2 * (64 + 2) * 4, 4 * 3);
        for bytes in [0, 0, 0, 4 * 20, parts, ended, inputs.bytes() as u64] {
            places.add(bytes);
        }
        assert_eq!(layout.bytes(), places.bytes());
    }
}
