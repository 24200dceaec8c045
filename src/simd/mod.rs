//! What the CPU can do, and the vector primitives that kernels are written with.
//!
//! A kernel is an ordinary safe function marked `#[target_feature(enable = …)]` with the
//! features of its tier; value intrinsics and the functions of [`x86`] are safe inside it.
//! Outside, the only way in is [`enter!`] with the tier's token ([`Avx2`], [`Avx512`]), which
//! exists only on a CPU that has these features. So kernels need no `unsafe` of their own.
//!
//! Feature strings, the same everywhere (rustc adds what they imply):
//! - AVX2 tier: `avx2,fma,f16c`
//! - AVX-512 tier: `avx512dq,avx512vl,avx512vbmi,avx512vnni`
//! - bf16 arithmetic on top: `avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16`

pub mod amx;
pub mod convert;
#[cfg(target_arch = "x86_64")]
#[expect(clippy::missing_safety_doc, reason = "safe functions: the lint takes target_feature for unsafe")]
pub mod rows;
pub mod tiers;
#[cfg(target_arch = "x86_64")]
#[expect(clippy::missing_safety_doc, reason = "safe functions: the lint takes target_feature for unsafe")]
pub mod x86;

pub(crate) use tiers::enter;
pub use tiers::{Amx, Avx2, Avx512, Avx512Bf16, Tier, TierError};
