//! Whether the memory after a launch is what it must be.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::case::{Case, Want};

/// A kernel that does not compute what the CPU does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kernel.
    pub kernel: String,
    /// On what data, and where it is wrong.
    pub case: String,
    /// What the CPU says.
    pub expected: String,
    /// What the GPU says.
    pub got: String,
    /// How far it may be off.
    pub tolerance: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, case, expected, got, tolerance } = self;
        write!(f, "{kernel}, {case}: {got}")?;
        if expected.is_empty() { Ok(()) } else { write!(f, " instead of {expected} (within {tolerance})") }
    }
}

/// What is wrong with the memory `after` the launch of `case`.
pub fn compare(case: &Case, after: &[u8]) -> Option<Failure> {
    case.wants.iter().find_map(|want| differs(case, want, after)).or_else(|| strays(case, after))
}

fn differs(case: &Case, want: &Want, after: &[u8]) -> Option<Failure> {
    let got = want.ty.read(&after[want.piece.0.clone()]);
    // NaN is within no bounds.
    let right = |i: usize| (got[i] - want.numbers[i]).abs() <= want.within[i];
    let mut wrong = (0..want.numbers.len()).filter(|i| !right(*i));
    let first = wrong.next()?;
    let count = 1 + wrong.count();
    let (name, n, what) = (want.name, want.numbers.len(), case.what);
    Some(Failure {
        kernel: case.kernel.clone(),
        case: format!("{what}: {count} of {n} {name} are off, the first at {first}"),
        expected: format!("{:.6e}", want.numbers[first]),
        got: format!("{:.6e}", got[first]),
        tolerance: format!("{:.1e}", want.within[first]),
    })
}

/// A byte that changed though it is nobody's result.
fn strays(case: &Case, after: &[u8]) -> Option<Failure> {
    let wanted = |at: usize| case.wants.iter().any(|w| w.piece.0.contains(&at));
    let pairs = case.image.iter().zip(after).enumerate();
    let (at, _) = pairs.filter(|(_, (a, b))| a != b).find(|(at, _)| !wanted(*at))?;
    Some(Failure {
        kernel: case.kernel.clone(),
        case: format!("{}: it wrote to memory that is not its result, at {at}", case.what),
        expected: format!("{:#04x}", case.image[at]),
        got: format!("{:#04x}", after[at]),
        tolerance: "0".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::case::Number;
    use super::*;

    fn case() -> (Case, Vec<u8>) {
        let mut case = Case::new(0, "k", "small");
        case.numbers(Number::F32, &[5.0, 6.0]);
        let out = case.result("sums", Number::F32, vec![1.0, 2.0, 3.0], vec![0.1, 0.1, 0.0]);
        let mut after = case.image.clone();
        after[out.0].copy_from_slice(&Number::F32.write(&[1.05, 1.95, 3.0]));
        (case, after)
    }

    #[test]
    fn a_number_that_is_off_is_named() {
        let (case, mut after) = case();
        assert_eq!(compare(&case, &after), None);
        let at = case.wants[0].piece.0.start;
        after[at + 4..at + 8].copy_from_slice(&2.2f32.to_le_bytes());
        let failure = compare(&case, &after).expect("off");
        assert_eq!(
            failure.to_string(),
            "k, small: 1 of 3 sums are off, the first at 1: 2.200000e0 instead of 2.000000e0 (within 1.0e-1)"
        );
        after[at + 4..at + 8].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(compare(&case, &after).expect("no number").got, "NaN");
        // Nothing was written at all.
        assert!(compare(&case, &case.image).expect("off").case.contains("3 of 3"));
    }

    #[test]
    fn a_byte_that_is_no_result_may_not_change() {
        let (case, good) = case();
        for at in [0, 7, 8, case.wants[0].piece.0.end, good.len() - 1] {
            let mut after = good.clone();
            after[at] ^= 1;
            assert!(compare(&case, &after).expect("strays").case.contains(&format!("at {at}")));
        }
    }
}
