//! CPU tiers, chosen at run time, and the door from ordinary code into their kernels.
//!
//! Guarantees to safe callers: a value of [`Avx2`], [`Avx512`], [`Avx512Bf16`] or [`Amx`] exists
//! only if this CPU and kernel support every feature that [`enter!`] enables for it, because
//! the only constructors test exactly these features; [`enter!`] calls nothing but safe
//! functions whose features the compiler has checked to be among them.

use super::amx;
use thiserror::Error;

/// What a token holds.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proof;
/// What a token would hold, if one could exist on this processor.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {}

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(Proof);

/// Proof of AVX-512 F, BW, DQ, VL, VNNI and VBMI (Ice Lake, Zen 4 and later); whether AVX-512
/// BF16 is there too is asked with [`Avx512::bf16`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    proof: Proof,
    bf16: bool,
}

/// Proof of all of [`Avx512`] and AVX-512 BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Bf16(Proof);

/// Proof of all of [`Avx512`] with bf16, and of AMX tiles with bf16 and int8 that Linux lets us use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(Avx512);

/// Which kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Plain Rust: the reference of every other tier.
    Scalar,
    /// 256-bit vectors.
    Avx2(Avx2),
    /// 512-bit vectors with VNNI.
    Avx512(Avx512),
    /// AVX-512 and matrix tiles.
    Amx(Amx),
}

/// Why a tier's name cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TierError {
    /// No tier has this name.
    #[error("unknown CPU tier '{0}': use auto, scalar, avx2, avx512 or amx")]
    Unknown(String),
    /// The tier exists, but not on this CPU.
    #[error("CPU tier '{0}' is not supported by this CPU (best: {1})")]
    Unsupported(String, &'static str),
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The proof, if this CPU has the features.
    pub fn new() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Self(Proof))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The proof, if this CPU has the features (those of [`Avx2`] among them).
    pub fn new() -> Option<Self> {
        Avx2::new()?;
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi");
        has.then(|| Self { proof: Proof, bf16: is_x86_feature_detected!("avx512bf16") })
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx2 {
    /// Never: no x86-64.
    pub fn new() -> Option<Self> {
        None
    }

    /// What [`enter!`] becomes where no token can exist.
    pub(crate) fn impossible(self) -> ! {
        match self.0 {}
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512 {
    /// Never: no x86-64.
    pub fn new() -> Option<Self> {
        None
    }

    /// What [`enter!`] becomes where no token can exist.
    pub(crate) fn impossible(self) -> ! {
        match self.proof {}
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512Bf16 {
    /// What [`enter!`] becomes where no token can exist.
    pub(crate) fn impossible(self) -> ! {
        match self.0 {}
    }
}

impl Avx512 {
    /// The AVX2 part of the proof.
    pub fn avx2(self) -> Avx2 {
        Avx2(self.proof)
    }

    /// The proof of bf16 arithmetic (`vdpbf16ps`), if this CPU has it.
    pub fn bf16(self) -> Option<Avx512Bf16> {
        self.bf16.then_some(Avx512Bf16(self.proof))
    }
}

impl Amx {
    /// The proof, if this CPU has the features and Linux grants the tiles to this process.
    pub fn new() -> Option<Self> {
        // Every CPU with tiles has these: kernels around the tiles need not ask.
        let avx512 = Avx512::new().filter(|a| a.bf16)?;
        amx::usable().then_some(Self(avx512))
    }

    /// The AVX-512 part of the proof.
    pub fn avx512(self) -> Avx512 {
        self.0
    }

    /// The bf16 part of the proof.
    pub fn bf16(self) -> Avx512Bf16 {
        Avx512Bf16(self.0.proof)
    }
}

impl Tier {
    /// The best tier of this CPU.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Tier::Scalar)
    }

    /// Every tier of this CPU, from [`Tier::Scalar`] upwards.
    pub fn available() -> Vec<Self> {
        let mut tiers = vec![Tier::Scalar];
        tiers.extend(Avx2::new().map(Tier::Avx2));
        tiers.extend(Avx512::new().map(Tier::Avx512));
        tiers.extend(Amx::new().map(Tier::Amx));
        tiers
    }

    /// The tier called `name`; `auto` is the best one.
    ///
    /// # Errors
    /// [`TierError`] if the name is unknown or the CPU lacks the tier.
    pub fn parse(name: &str) -> Result<Self, TierError> {
        let best = || Self::detect().name();
        let tier = match name {
            "auto" => Some(Self::detect()),
            "scalar" => Some(Tier::Scalar),
            "avx2" => Avx2::new().map(Tier::Avx2),
            "avx512" => Avx512::new().map(Tier::Avx512),
            "amx" => Amx::new().map(Tier::Amx),
            _ => return Err(TierError::Unknown(name.to_owned())),
        };
        tier.ok_or_else(|| TierError::Unsupported(name.to_owned(), best()))
    }

    /// The name that [`Tier::parse`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Avx2(_) => "avx2",
            Tier::Avx512(_) => "avx512",
            Tier::Amx(_) => "amx",
        }
    }

    /// The token for AVX2 kernels, in every tier that may run them.
    pub fn avx2(self) -> Option<Avx2> {
        match self {
            Tier::Scalar => None,
            Tier::Avx2(token) => Some(token),
            Tier::Avx512(token) => Some(token.avx2()),
            Tier::Amx(token) => Some(token.avx512().avx2()),
        }
    }

    /// The token for matrix tiles.
    pub fn amx(self) -> Option<Amx> {
        match self {
            Tier::Amx(token) => Some(token),
            _ => None,
        }
    }

    /// The token for AVX-512 kernels, in every tier that may run them.
    pub fn avx512(self) -> Option<Avx512> {
        match self {
            Tier::Scalar | Tier::Avx2(_) => None,
            Tier::Avx512(token) => Some(token),
            Tier::Amx(token) => Some(token.avx512()),
        }
    }
}

/// Calls a kernel of a tier from ordinary code: `enter!(Avx512, token => path::kernel(a: A, b: B) -> R)`.
///
/// `kernel` is a safe function with (at most) the tier's features; `a` and `b` are variables
/// of the caller, passed with the types given. The compiler refuses an `unsafe` kernel and one
/// that needs more than the token proves.
#[cfg(target_arch = "x86_64")]
macro_rules! enter {
    (Avx2, $($rest:tt)*) => {
        $crate::simd::tiers::enter!(@"avx2,fma,f16c", Avx2, $($rest)*)
    };
    (Avx512, $($rest:tt)*) => {
        $crate::simd::tiers::enter!(@"avx512dq,avx512vl,avx512vbmi,avx512vnni", Avx512, $($rest)*)
    };
    (Avx512Bf16, $($rest:tt)*) => {
        $crate::simd::tiers::enter!(@"avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16", Avx512Bf16, $($rest)*)
    };
    (@$features:literal, $tier:ident, $token:expr => $($kernel:ident)::+ ($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)?) => {{
        #[target_feature(enable = $features)]
        #[allow(clippy::too_many_arguments)]
        fn inside($($arg: $ty),*) $(-> $out)? {
            $($kernel)::+($($arg),*)
        }
        let _: $crate::simd::tiers::$tier = $token;
        // SAFETY: the token proves that the CPU has all features `inside` enables, and
        // `inside` is a safe function.
        unsafe { inside($($arg),*) }
    }};
}
#[cfg(not(target_arch = "x86_64"))]
macro_rules! enter {
    ($tier:ident, $token:expr => $($rest:tt)*) => {
        $token.impossible()
    };
}
pub(crate) use enter;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for tier in Tier::available() {
            assert_eq!(Tier::parse(tier.name()), Ok(tier));
        }
        assert_eq!(Tier::parse("auto"), Ok(Tier::detect()));
        assert_eq!(Tier::parse("sse9"), Err(TierError::Unknown("sse9".into())));
    }

    #[test]
    fn tiers_rise() {
        let names: Vec<_> = Tier::available().iter().map(|t| t.name()).collect();
        let all = ["scalar", "avx2", "avx512", "amx"];
        assert_eq!(names[..], all[..names.len()]);
        for name in &all[names.len()..] {
            assert!(matches!(Tier::parse(name), Err(TierError::Unsupported(..))));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn enter_passes_arguments_and_result() {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn add(a: u32, b: &[u32]) -> u32 {
            a + b.iter().sum::<u32>()
        }
        if let Some(token) = Avx2::new() {
            let (a, b) = (1, &[2, 3][..]);
            assert_eq!(enter!(Avx2, token => add(a: u32, b: &[u32]) -> u32), 6);
        }
    }
}
