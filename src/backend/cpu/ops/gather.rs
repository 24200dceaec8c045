//! Rows picked from a table: embeddings of tokens, and outputs of a batch.

use super::add::scale_row;
use super::for_rows;
use crate::backend::cpu::workers::Team;
use crate::quant::Format;

/// `out[i] = scale * table[tokens[i]]`; the table's rows hold `width` weights of `format`.
///
/// # Panics
/// If a token is beyond the table: the backend has checked the batch.
pub fn embed(
    team: &mut Team<'_>,
    format: &'static Format,
    table: &[u8],
    tokens: &[u32],
    scale: f32,
    out: &mut [f32],
    width: usize,
) {
    let tier = team.tier();
    let bytes = format.row_bytes(width);
    for_rows(team, out, width, 8, |row, out| {
        for (out, &token) in out.chunks_exact_mut(width).zip(&tokens[row..]) {
            format.to_f32(tier, &table[token as usize * bytes..][..bytes], out);
            if scale != 1.0 {
                scale_row(tier, out, scale);
            }
        }
    });
}

/// `out[i] = x[rows[i]]`, rows of `width`.
pub fn select(x: &[f32], rows: &[u32], out: &mut [f32], width: usize) {
    for (out, &row) in out.chunks_exact_mut(width).zip(rows) {
        out.copy_from_slice(&x[row as usize * width..][..width]);
    }
}
