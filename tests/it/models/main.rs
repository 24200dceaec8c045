//! Models against goldens of independent implementations: the plan by a naive executor, then the CPU backend.

mod backend;
mod eval;
mod goldens;
mod real;
mod reference;

use goldens::{best, max_difference, tiny};
use reference::Reference;

/// Plans are right: executed naively on dequantized weights they give the goldens' logits.
#[test]
fn plans_agree_with_goldens() {
    for golden in tiny() {
        let plan = golden.plan();
        let mut reference = Reference::new(&plan);
        let logits: Vec<f32> = golden.tokens.iter().flat_map(|t| reference.push(*t)).collect();
        let difference = max_difference(&logits, &golden.logits());
        println!("{}: {difference}", golden.name);
        assert!(difference <= 1e-4, "{}: logits differ by {difference}", golden.name);
        let mut next = best(&logits[logits.len() - golden.n_vocab..]);
        for (i, id) in golden.greedy.iter().enumerate() {
            assert_eq!(next, *id, "{}: token {i} of the continuation", golden.name);
            next = best(&reference.push(next));
        }
    }
}
