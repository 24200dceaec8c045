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

#[cfg(test)]
mod tests {
    use super::super::testing::{each_team, random};
    use super::*;
    use crate::quant::GgmlType;

    #[test]
    fn rows_are_those_asked_for() {
        each_team(|team| {
            for width in [3, 700] {
                let values = random(1, 40 * width, 1.0);
                let table: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let format = GgmlType::F32.format().unwrap();
                let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 40).collect();
                let mut out = vec![0.0; tokens.len() * width];
                embed(team, format, &table, &tokens, 3.0, &mut out, width);
                for (out, &t) in out.chunks(width).zip(&tokens) {
                    assert!(out.iter().zip(&values[t as usize * width..]).all(|(o, v)| *o == v * 3.0));
                }
                let mut picked = vec![0.0; 2 * width];
                select(&out, &[29, 4], &mut picked, width);
                assert!(picked[..width] == out[29 * width..] && picked[width..] == out[4 * width..5 * width]);
            }
        });
    }
}
