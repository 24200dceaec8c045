//! Walks several rows of a weight matrix at once: the loop of every dot kernel.
//!
//! Memory delivers more when several streams are read side by side, and independent sums hide
//! the latency of each other's additions: four rows, a quarter of the given ones apart, advance
//! together. What a step needs of the activation is prepared once for the four.

use super::x86::prefetch;

/// Rows that advance together.
const STREAMS: usize = 4;

/// How far ahead of its use a row's data is asked for, in bytes.
const AHEAD: usize = 2048;

/// Declares the walk for one tier.
macro_rules! walk {
    ($(#[$doc:meta])* $name:ident, $streams:ident, $features:literal) => {
        $(#[$doc])*
        ///
        /// `rows` holds `out.len()` rows, taken in steps of `BYTES` bytes. For step `i`,
        /// `prepare(i)` makes what the step needs of the activation; `step(bytes, prepared, sum)`
        /// adds to a row's sum, which starts as `zero`; `finish` makes its result. A last step
        /// that is not whole sees its bytes followed by zeros.
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name<const BYTES: usize, P, S: Copy>(
            rows: &[u8],
            out: &mut [f32],
            zero: S,
            prepare: impl Fn(usize) -> P,
            step: impl Fn(&[u8; BYTES], &P, S) -> S,
            finish: impl Fn(S) -> f32,
        ) {
            if out.is_empty() {
                return;
            }
            let row_bytes = rows.len() / out.len();
            let row = |i: usize| &rows[i * row_bytes..][..row_bytes];
            let quarter = out.len() / STREAMS;
            for i in 0..quarter {
                let streams: [&[u8]; STREAMS] = std::array::from_fn(|j| row(i + j * quarter));
                let sums = $streams(streams, zero, &prepare, &step);
                for (j, sum) in sums.into_iter().enumerate() {
                    out[i + j * quarter] = finish(sum);
                }
            }
            for i in quarter * STREAMS..out.len() {
                let [sum] = $streams([row(i)], zero, &prepare, &step);
                out[i] = finish(sum);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn $streams<const N: usize, const BYTES: usize, P, S: Copy>(
            rows: [&[u8]; N],
            zero: S,
            prepare: &impl Fn(usize) -> P,
            step: &impl Fn(&[u8; BYTES], &P, S) -> S,
        ) -> [S; N] {
            let steps = rows[0].len() / BYTES;
            let blocks: [&[[u8; BYTES]]; N] = rows.map(|row| &row.as_chunks().0[..steps]);
            let mut sums = [zero; N];
            for i in 0..steps {
                let prepared = prepare(i);
                for j in 0..N {
                    let block = &blocks[j][i];
                    prefetch(block, AHEAD, BYTES);
                    sums[j] = step(block, &prepared, sums[j]);
                }
            }
            if steps * BYTES < rows[0].len() {
                let prepared = prepare(steps);
                for j in 0..N {
                    let rest = &rows[j][steps * BYTES..];
                    let mut block = [0; BYTES];
                    block[..rest.len()].copy_from_slice(rest);
                    sums[j] = step(&block, &prepared, sums[j]);
                }
            }
            sums
        }
    };
}

walk!(
    /// The walk of the AVX-512 tier.
    walk_avx512, streams_avx512, "avx512dq,avx512vl,avx512vbmi,avx512vnni");
walk!(
    /// The walk of the AVX2 tier.
    walk_avx2, streams_avx2, "avx2,fma,f16c");
