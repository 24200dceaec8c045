//! The ops of a plan on the CPU, one file each, over slices of f32.
//!
//! Every op is a function of a [`Team`] and its operands; small ones run on the calling thread,
//! where waking the others would cost more than it saves. What a row of a result is does not
//! depend on the other rows of the batch, so that runs agree however they are batched.

pub mod activation;
pub mod add;
pub mod attention;
pub mod finite;
pub mod gather;
pub mod gemm;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod rope;
#[cfg(test)]
mod testing;
#[cfg(target_arch = "x86_64")]
mod transpose;

use super::workers::{DisjointTiles, Team};
use crate::base::limits::POOL_SERIAL_ELEMENTS;

/// Makes `name(tier, args)` of `body::<FUSED>(args)`: the body, plain Rust over small arrays, is
/// compiled once for each tier and vectorized by the compiler; `FUSED` says whether the tier has
/// fused multiply-add (see [`math::fma`]). The body must be `#[inline(always)]`.
macro_rules! tiered {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(tier: $crate::simd::Tier, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[inline(always)]
                fn fused($($arg: $ty),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                if let Some(token) = tier.avx512() {
                    return $crate::simd::enter!(Avx512, token => fused($($arg: $ty),*) $(-> $out)?);
                }
                if let Some(token) = tier.avx2() {
                    return $crate::simd::enter!(Avx2, token => fused($($arg: $ty),*) $(-> $out)?);
                }
            }
            let _ = tier;
            $body::<false>($($arg),*)
        }
    };
}
pub(super) use tiered;

/// Applies `body(first row, rows)` to `data`, rows of `width`, in pieces of a few rows on all
/// workers, or at once on this thread if there is little to do. `cost` is the work of an element
/// compared with an addition.
pub(super) fn for_rows(
    team: &mut Team<'_>,
    data: &mut [f32],
    width: usize,
    cost: usize,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    if team.threads() == 1 || data.len() * cost <= POOL_SERIAL_ELEMENTS {
        body(0, data);
        return;
    }
    let rows = data.len() / width;
    let piece = rows.div_ceil(team.threads() * 4).max(1);
    let tiles = DisjointTiles::new(data, width, piece, width);
    team.run(&|_| {
        while let Some(mut tile) = tiles.take() {
            body(tile.rows().start, tile.all());
        }
    });
}
