//! Walks several rows of a weight matrix at once: the loop of every dot kernel.
//!
//! Memory delivers more when several streams are read side by side, and independent sums hide
//! the latency of each other's additions: four rows, a quarter of the given ones apart, advance
//! together. What a step needs of the activation is prepared once for the four.

use super::x86::{prefetch, sums256, sums512};
use std::arch::x86_64::{__m256, __m512};

/// Rows that advance together.
const STREAMS: usize = 4;

/// How far ahead of its use a row's data is asked for, in bytes.
const AHEAD: usize = 2048;

/// Declares the walk for one tier.
macro_rules! walk {
    ($(#[$doc:meta])* $name:ident, $features:literal, $vector:ident, $sums:ident) => {
        $(#[$doc])*
        ///
        /// `rows` holds `out.len()` rows, taken in steps of `BYTES` bytes. For step `i`,
        /// `prepare(i)` makes what the step needs of the activation; `begin(bytes, prepared)`
        /// makes what is slow to come by, the scales, for all streams, before
        /// `step(bytes, prepared, begun, sum)` adds to a row's sum, which starts as `zero`;
        /// `finish` makes a vector of it, whose sum is the result. A last step that is not whole sees its bytes followed by
        /// zeros.
        // `prepare` and `step` are called at one place each, so that they are inlined.
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name<const BYTES: usize, P, B, S: Copy>(
            rows: &[u8],
            out: &mut [f32],
            zero: S,
            prepare: impl Fn(usize) -> P,
            begin: impl Fn(&[u8; BYTES], &P) -> B,
            step: impl Fn(&[u8; BYTES], &P, B, S) -> S,
            finish: impl Fn(S) -> $vector,
        ) {
            let Some(last) = out.len().checked_sub(1) else { return };
            let row_bytes = rows.len() / out.len();
            let whole = row_bytes / BYTES;
            let apart = out.len().div_ceil(STREAMS);
            let mut padded = [[[0; BYTES]]; STREAMS];
            for first in 0..apart {
                // Past the end, a stream repeats the last row.
                let row = |stream: usize| &rows[(first + stream * apart).min(last) * row_bytes..][..row_bytes];
                let streams = [row(0), row(1), row(2), row(3)];
                let whole_of = |stream: usize| &streams[stream].as_chunks::<BYTES>().0[..whole];
                let mut blocks = [whole_of(0), whole_of(1), whole_of(2), whole_of(3)];
                let mut sums = [zero; STREAMS];
                let mut done = 0;
                loop {
                    let [a, b, c, d] = blocks;
                    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
                        // Past a stream's end comes its part of the rows that follow these.
                        let left = (apart - first) * row_bytes - done * BYTES;
                        let ahead = AHEAD + if left > AHEAD { 0 } else { rows.len() - apart * row_bytes };
                        let prepared = prepare(done);
                        let begun = [begin(a, &prepared), begin(b, &prepared), begin(c, &prepared), begin(d, &prepared)];
                        for ((block, begun), sum) in [a, b, c, d].into_iter().zip(begun).zip(&mut sums) {
                            prefetch(block, ahead, BYTES);
                            *sum = step(block, &prepared, begun, *sum);
                        }
                        done += 1;
                    }
                    if done * BYTES >= row_bytes {
                        break;
                    }
                    for (padded, row) in padded.iter_mut().zip(streams) {
                        padded[0][..row_bytes - whole * BYTES].copy_from_slice(&row[whole * BYTES..]);
                    }
                    blocks = [&padded[0], &padded[1], &padded[2], &padded[3]];
                }
                let [a, b, c, d] = sums;
                for (stream, sum) in $sums([finish(a), finish(b), finish(c), finish(d)]).into_iter().enumerate() {
                    out[(first + stream * apart).min(last)] = sum;
                }
            }
        }
    };
}

walk!(
    /// The walk of the AVX-512 tier.
    walk_avx512, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512, sums512);
walk!(
    /// The walk of the AVX2 tier.
    walk_avx2, "avx2,fma,f16c", __m256, sums256);
