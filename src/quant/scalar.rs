//! The scalar tier of every format with codes: what the vector tiers are measured against.

use super::{GROUP, Q8, SUB};
use half::f16;

/// The f16 at byte `at` of a block, as f32.
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A format's scalar `unpack_block`: block, codes, scales and mins.
pub(super) type UnpackBlock<const BYTES: usize, const ELEMENTS: usize> =
    fn(&[u8; BYTES], &mut [u8; ELEMENTS], &mut [f32], &mut [f32]);

/// Unpacks a row block by block with the format's `unpack_block`.
pub(super) fn unpack<const BYTES: usize, const ELEMENTS: usize>(
    row: &[u8],
    codes: &mut [u8],
    scales: &mut [f32],
    mins: &mut [f32],
    unpack_block: UnpackBlock<BYTES, ELEMENTS>,
) {
    let subs = ELEMENTS / SUB;
    let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<ELEMENTS>().0);
    for ((block, codes), (scales, mins)) in blocks.zip(scales.chunks_mut(subs).zip(mins.chunks_mut(subs))) {
        unpack_block(block, codes, scales, mins);
    }
}

/// Dots of rows with one activation row. Where all blocks share one `offset`, it is taken off
/// in integers (`mins` are not used); else the mins meet the activation's sums.
pub(super) fn dot<const BYTES: usize, const ELEMENTS: usize>(
    rows: &[u8],
    x: &Q8<'_>,
    out: &mut [f32],
    offset: i32,
    unpack_block: UnpackBlock<BYTES, ELEMENTS>,
) {
    let subs = ELEMENTS / SUB;
    let mut codes = [0; ELEMENTS];
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    let row_bytes = x.q.len() / ELEMENTS * BYTES;
    for (row, out) in rows.chunks(row_bytes).zip(out) {
        let mut total = 0.0;
        for (i, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            unpack_block(block, &mut codes, &mut scales[..subs], &mut mins[..subs]);
            for (j, codes) in codes.as_chunks::<SUB>().0.iter().enumerate() {
                let sub = i * subs + j;
                let q = &x.q[sub * SUB..][..SUB];
                let sum: i32 = codes.iter().zip(q).map(|(&c, &q)| (i32::from(c) - offset) * i32::from(q)).sum();
                total += scales[j] * x.d[sub * SUB / GROUP] * sum as f32;
                if offset == 0 {
                    total -= mins[j] * x.s[sub];
                }
            }
        }
        *out = total;
    }
}
