//! Whether a batch fits a backend and its caches.

use super::BackendError;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::Plan;
use crate::plan::batch::Batch;

/// The largest step of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens.
    pub max_tokens: usize,
    /// Outputs.
    pub max_outputs: usize,
}

/// Checks sizes, ids and block tables of `batch`, and the length of `input`; `has(group, block)`
/// says whether a cache group has a block. Groups of other parts are not looked at.
///
/// # Errors
/// [`BackendError::Batch`] with the first thing that is wrong: a mistake of the engine.
pub fn check(
    batch: &Batch,
    input: &[f32],
    plan: &Plan,
    limits: Limits,
    has: impl Fn(usize, u32) -> bool,
) -> Result<(), BackendError> {
    let refuse = |what: String| Err(BackendError::Batch(what));
    let n = batch.tokens.len();
    if n > limits.max_tokens || batch.positions.len() != n {
        return refuse(format!("{n} tokens at {} positions, most {}", batch.positions.len(), limits.max_tokens));
    }
    let wanted = plan.input.map_or(0, |id| plan.buffer(id).width * n);
    if input.len() != wanted {
        return refuse(format!("an input of {} numbers, not {wanted}", input.len()));
    }
    if batch.outputs.len() > limits.max_outputs {
        return refuse(format!("{} outputs, most {}", batch.outputs.len(), limits.max_outputs));
    }
    if let Some(t) = batch.tokens.iter().find(|&&t| t as usize >= plan.n_vocab) {
        return refuse(format!("token {t} of a vocabulary of {}", plan.n_vocab));
    }
    if let Some(row) = batch.outputs.iter().find(|&&row| row as usize >= n) {
        return refuse(format!("output of token {row} of {n}"));
    }
    let mut next = 0;
    for (i, span) in batch.spans.iter().enumerate() {
        if span.start != next || span.len == 0 {
            return refuse(format!("span {i} starts at token {}, not {next}", span.start));
        }
        next += span.len;
        for (g, group) in plan.caches.iter().enumerate().filter(|(_, c)| c.part == plan.part) {
            let table = batch.table(g, i);
            let last = (span.pos as usize + span.len - 1) / KV_BLOCK_TOKENS;
            let window = group.window.unwrap_or(u32::MAX);
            let first = (span.pos + 1).saturating_sub(window) as usize / KV_BLOCK_TOKENS;
            match table.get(first..=last) {
                Some(blocks) if blocks.iter().all(|&b| has(g, b)) => {}
                _ => return refuse(format!("blocks {first} to {last} of span {i} in the {} cache", group.name)),
            }
        }
    }
    if next != n {
        return refuse(format!("spans of {next} tokens, {n} tokens"));
    }
    Ok(())
}
