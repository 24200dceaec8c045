//! The GEMM's stages for formats of codes: unsigned 8-bit codes times signed 8-bit activations
//! in exact integers, scaled in f32 for each 32 (or, where a format is finer, 16) weights.

use std::ops::Range;

use super::{CHUNK, LANES, Matrix, Sums, TOKENS};
use crate::quant::{GROUP, SUB};
use crate::simd::Tier;

/// [`GROUP`] quantized activations of each of [`TOKENS`] tokens.
#[derive(Clone, Copy, Default)]
pub struct ActBlock {
    /// Four codes of a token in each word, in memory order.
    q: [[i32; TOKENS]; GROUP / 4],
    /// Scales.
    d: [f32; TOKENS],
    /// Scale times sum of the codes of each half.
    half: [[f32; TOKENS]; 2],
    /// Scale times sum of all codes.
    whole: [f32; TOKENS],
}

/// Puts one quantized activation row into place `i` of a tile of tokens.
pub fn pack_token(blocks: &mut [ActBlock], i: usize, q: &[i8], d: &[f32], s: &[f32]) {
    let rows = q.as_chunks::<GROUP>().0.iter().zip(d).zip(s.as_chunks::<2>().0);
    for (block, ((q, &d), s)) in blocks.iter_mut().zip(rows) {
        for (word, four) in block.q.iter_mut().zip(q.as_chunks::<4>().0) {
            word[i] = i32::from_le_bytes(four.map(|x| x as u8));
        }
        block.d[i] = d;
        block.half[0][i] = s[0];
        block.half[1][i] = s[1];
        block.whole[i] = s[0] + s[1];
    }
}

/// [`GROUP`] weights of each of [`LANES`] rows.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block {
    /// Four codes of each row, then the next four.
    codes: [[u8; 4 * LANES]; GROUP / 4],
    /// Scales of the two halves.
    scales: [[f32; LANES]; 2],
    /// Mins of the two halves.
    mins: [[f32; LANES]; 2],
}

const EMPTY: Block = Block { codes: [[0; 64]; 8], scales: [[0.0; LANES]; 2], mins: [[0.0; LANES]; 2] };

/// A chunk of 32 rows, unpacked.
pub struct Panel {
    blocks: Vec<[Block; 2]>,
    /// Rows as the format unpacks them.
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
    /// Blocks in use.
    n: usize,
    /// The halves of some block have different scales or mins.
    fine: bool,
    /// Some code exceeds 127 (looked for where the kernels differ: below AVX-512).
    wide: bool,
}

impl Panel {
    /// Bytes that [`Panel::new`] allocates.
    pub const BYTES: usize = CHUNK / GROUP * size_of::<[Block; 2]>() + LANES * (CHUNK + CHUNK / SUB * 8);

    /// An empty panel.
    pub fn new() -> Self {
        Self {
            blocks: vec![[EMPTY; 2]; CHUNK / GROUP],
            codes: vec![0; LANES * CHUNK],
            scales: vec![0.0; LANES * CHUNK / SUB],
            mins: vec![0.0; LANES * CHUNK / SUB],
            n: 0,
            fine: false,
            wide: false,
        }
    }

    /// Unpacks weights `from .. from + len` of `rows` (at most 32; missing ones are zero).
    pub fn unpack(&mut self, tier: Tier, weight: Matrix<'_>, rows: Range<usize>, from: usize, len: usize) {
        self.n = len / GROUP;
        self.fine = false;
        let mut bits = 0;
        // What is unpacked next: the same rows further on, or the start of the rows below. Rows lie
        // far apart, so the processor's own prefetch does not find it, and waiting for memory
        // would take longer than the unpacking.
        let (down, ahead) = if from + len < weight.k { (0, from + len) } else { (2 * LANES, 0) };
        let next = len.min(weight.k - ahead);
        for group in 0..2 {
            for lane in 0..LANES {
                let row = rows.start + group * LANES + lane;
                if let Some(piece) = weight.piece(row + down, ahead, next) {
                    prefetch_lines(piece);
                }
                let codes = &mut self.codes[lane * CHUNK..][..len];
                let scales = &mut self.scales[lane * (CHUNK / SUB)..][..len / SUB];
                let mins = &mut self.mins[lane * (CHUNK / SUB)..][..len / SUB];
                if row < rows.end {
                    weight.format.unpack(tier, weight.part(row, from, len), codes, scales, mins);
                    self.fine |= !pairs_agree(scales) || !pairs_agree(mins);
                } else {
                    codes.fill(0);
                    scales.fill(0.0);
                    mins.fill(0.0);
                }
                if tier.avx512().is_none() {
                    bits |= codes.iter().fold(0, |bits, c| bits | c);
                }
            }
            self.interleave(tier, group);
        }
        self.wide = bits > 127;
    }

    /// Brings the unpacked rows into the blocks' order.
    fn interleave(&mut self, tier: Tier, group: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = tier.avx512() {
            let (codes, pairs) = (&self.codes[..], [&self.scales[..], &self.mins[..]]);
            let blocks = &mut self.blocks[..self.n];
            return crate::simd::enter!(Avx512, token => x86::interleave(
                codes: &[u8], pairs: [&[f32]; 2], blocks: &mut [[Block; 2]], group: usize));
        }
        let _ = tier;
        for (b, blocks) in self.blocks[..self.n].iter_mut().enumerate() {
            let block = &mut blocks[group];
            for lane in 0..LANES {
                for half in 0..2 {
                    let at = lane * (CHUNK / SUB) + b * 2 + half;
                    block.scales[half][lane] = self.scales[at];
                    block.mins[half][lane] = self.mins[at];
                }
            }
            for (g, line) in block.codes.iter_mut().enumerate() {
                for (lane, four) in line.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    four.copy_from_slice(&self.codes[lane * CHUNK + b * GROUP + g * 4..][..4]);
                }
            }
        }
    }

    /// Adds the product of the panel with the first `tokens` tokens of `x` to `sums`.
    pub fn multiply(&self, tier: Tier, x: &[ActBlock], tokens: usize, sums: &mut Sums) {
        let w = &self.blocks[..self.n];
        assert_eq!(w.len(), x.len());
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(token) = tier.avx512() {
                let fine = self.fine;
                return crate::simd::enter!(Avx512, token => x86::multiply512(
                    w: &[[Block; 2]], x: &[ActBlock], tokens: usize, fine: bool, sums: &mut Sums));
            }
            if let Some(token) = tier.avx2() {
                let wide = self.wide;
                return crate::simd::enter!(Avx2, token => x86::multiply256(
                    w: &[[Block; 2]], x: &[ActBlock], tokens: usize, wide: bool, sums: &mut Sums));
            }
        }
        let _ = tier;
        for (w, x) in w.iter().zip(x) {
            for (w, sums) in w.iter().zip(sums.iter_mut()) {
                for (i, sums) in sums.iter_mut().enumerate().take(tokens) {
                    for half in 0..2 {
                        let mut dots = [0; LANES];
                        for g in half * 4..half * 4 + 4 {
                            let q = x.q[g][i].to_le_bytes().map(|q| i32::from(q as i8));
                            for (dot, c) in dots.iter_mut().zip(w.codes[g].as_chunks::<4>().0) {
                                *dot += (0..4).map(|j| i32::from(c[j]) * q[j]).sum::<i32>();
                            }
                        }
                        for lane in 0..LANES {
                            let scaled = dots[lane] as f32 * w.scales[half][lane] * x.d[i];
                            sums[lane] += scaled - w.mins[half][lane] * x.half[half][i];
                        }
                    }
                }
            }
        }
    }
}

/// Asks for all of `bytes` to come into the cache.
fn prefetch_lines(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(first) = bytes.first() {
        crate::simd::x86::prefetch(first, 0, bytes.len());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Whether the two values of each pair are the same number.
fn pairs_agree(values: &[f32]) -> bool {
    // NaN agrees with itself here: compared as bits.
    values.as_chunks::<2>().0.iter().fold(0, |d, [a, b]| d | (a.to_bits() ^ b.to_bits())) == 0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! AVX2 and AVX-512 VNNI.

    use std::arch::x86_64::*;

    use super::super::{LANES, Sums, TOKENS};
    use super::{ActBlock, Block, CHUNK, SUB};
    use crate::backend::cpu::ops::transpose::transpose;
    use crate::simd::x86::*;

    /// Transposes 16 rows of `codes` (each [`CHUNK`] apart) by words of four into the blocks, and
    /// their scales and mins (`pairs`, 32 a row).
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn interleave(codes: &[u8], pairs: [&[f32]; 2], blocks: &mut [[Block; 2]], group: usize) {
        for (pair, blocks) in blocks.chunks_mut(2).enumerate() {
            let mut lines = [_mm512_setzero_si512(); 16];
            for (line, row) in lines.iter_mut().zip(codes.chunks_exact(CHUNK)) {
                // An odd last block reads 32 bytes of older contents, which are not used.
                *line = row.as_chunks::<64>().0.get(pair).map_or(*line, |c| load512(c));
            }
            let lines = transpose(lines);
            for (block, lines) in blocks.iter_mut().zip(lines.as_chunks::<8>().0) {
                for (to, line) in block[group].codes.iter_mut().zip(lines) {
                    store512(to, *line);
                }
            }
        }
        let [scales, mins] = pairs;
        // Eight blocks have 16 scales in each row; those past the last block are older contents.
        for (part, blocks) in blocks.chunks_mut(LANES / 2).enumerate() {
            let (scales, mins) = (columns(scales, part), columns(mins, part));
            let columns = scales.as_chunks::<2>().0.iter().zip(mins.as_chunks::<2>().0);
            for (block, (scales, mins)) in blocks.iter_mut().zip(columns) {
                let block = &mut block[group];
                for half in 0..2 {
                    store512_ps(&mut block.scales[half], _mm512_castsi512_ps(scales[half]));
                    store512_ps(&mut block.mins[half], _mm512_castsi512_ps(mins[half]));
                }
            }
        }
    }

    /// Columns `16 part ..` of 16 rows of [`CHUNK`] / [`SUB`] numbers, each as a vector.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn columns(rows: &[f32], part: usize) -> [__m512i; 16] {
        let mut lines = [_mm512_setzero_si512(); 16];
        for (line, row) in lines.iter_mut().zip(rows.chunks_exact(CHUNK / SUB)) {
            *line = row.as_chunks::<LANES>().0.get(part).map_or(*line, |x| _mm512_castps_si512(load512_ps(x)));
        }
        transpose(lines)
    }

    /// [`super::Panel::multiply`] by `vpdpbusd`.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn multiply512(w: &[[Block; 2]], x: &[ActBlock], tokens: usize, fine: bool, sums: &mut Sums) {
        match (tokens, fine) {
            (1, false) => tile::<1, 8>(w, x, sums),
            (2, false) => tile::<2, 8>(w, x, sums),
            (3, false) => tile::<3, 8>(w, x, sums),
            (4, false) => tile::<4, 8>(w, x, sums),
            (5, false) => tile::<5, 8>(w, x, sums),
            (_, false) => tile::<TOKENS, 8>(w, x, sums),
            (1, true) => tile::<1, 4>(w, x, sums),
            (2, true) => tile::<2, 4>(w, x, sums),
            (3, true) => tile::<3, 4>(w, x, sums),
            (4, true) => tile::<4, 4>(w, x, sums),
            (5, true) => tile::<5, 4>(w, x, sums),
            (_, true) => tile::<TOKENS, 4>(w, x, sums),
        }
    }

    /// Two groups of 16 rows by `N` tokens; scales for each `4 G` weights (16 or 32). The two
    /// groups are variables, not an array: indexed by a loop that the compiler keeps, their sums
    /// would live in memory. Each part is called in one place, so that it is inlined.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    #[allow(clippy::needless_range_loop)] // one index for several arrays
    fn tile<const N: usize, const G: usize>(w: &[[Block; 2]], x: &[ActBlock], sums: &mut Sums) {
        let mut upper = load::<N>(&sums[0]);
        let mut lower = load::<N>(&sums[1]);
        for ([u, l], x) in w.iter().zip(x) {
            let codes = u.codes.as_chunks::<G>().0.iter().zip(l.codes.as_chunks::<G>().0);
            for (part, ((uc, lc), q)) in codes.zip(x.q.as_chunks::<G>().0).enumerate() {
                let mut du = [_mm512_setzero_si512(); N];
                let mut dl = du;
                for g in 0..G {
                    let (uc, lc) = (load512(&uc[g]), load512(&lc[g]));
                    for i in 0..N {
                        let q = _mm512_set1_epi32(q[g][i]);
                        du[i] = _mm512_dpbusd_epi32(du[i], uc, q);
                        dl[i] = _mm512_dpbusd_epi32(dl[i], lc, q);
                    }
                }
                let s = if G == 8 { &x.whole } else { &x.half[part] };
                let (scales, mins) = (load512_ps(&u.scales[part]), load512_ps(&u.mins[part]));
                for i in 0..N {
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(du[i]), scales);
                    upper[i] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x.d[i]), upper[i]);
                    upper[i] = _mm512_fnmadd_ps(mins, _mm512_set1_ps(s[i]), upper[i]);
                }
                let (scales, mins) = (load512_ps(&l.scales[part]), load512_ps(&l.mins[part]));
                for i in 0..N {
                    let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dl[i]), scales);
                    lower[i] = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x.d[i]), lower[i]);
                    lower[i] = _mm512_fnmadd_ps(mins, _mm512_set1_ps(s[i]), lower[i]);
                }
            }
        }
        store(upper, &mut sums[0]);
        store(lower, &mut sums[1]);
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn load<const N: usize>(sums: &[[f32; LANES]; TOKENS]) -> [__m512; N] {
        let mut out = [_mm512_setzero_ps(); N];
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = load512_ps(sums);
        }
        out
    }

    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn store<const N: usize>(from: [__m512; N], sums: &mut [[f32; LANES]; TOKENS]) {
        for (from, sums) in from.iter().zip(sums) {
            store512_ps(sums, *from);
        }
    }

    /// [`super::Panel::multiply`] by `vpmaddubsw`. Its sums of two products are saturated to 16
    /// bits: `wide` codes, above 127, are split into their upper bit and the rest.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn multiply256(w: &[[Block; 2]], x: &[ActBlock], tokens: usize, wide: bool, sums: &mut Sums) {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (i, sums) in sums.iter_mut().enumerate().take(tokens) {
                if wide { column::<true>(w, x, r, i, sums) } else { column::<false>(w, x, r, i, sums) }
            }
        }
    }

    /// One token by 16 rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn column<const WIDE: bool>(w: &[[Block; 2]], x: &[ActBlock], r: usize, i: usize, sums: &mut [f32; LANES]) {
        let ones = _mm256_set1_epi16(1);
        let top = _mm256_set1_epi16(128);
        let low = _mm256_set1_epi8(127);
        let bit = _mm256_set1_epi8(1);
        let (halves, _) = sums.as_chunks_mut::<8>();
        let mut sum = [load256_ps(&halves[0]), load256_ps(&halves[1])];
        for (w, x) in w.iter().zip(x) {
            let w = &w[r];
            let d = _mm256_set1_ps(x.d[i]);
            for part in 0..2 {
                let mut dots = [_mm256_setzero_si256(); 2];
                for g in part * 4..part * 4 + 4 {
                    let q = _mm256_set1_epi32(x.q[g][i]);
                    let (lines, _) = w.codes[g].as_chunks::<32>();
                    for (dot, line) in dots.iter_mut().zip(lines) {
                        let codes = load256(line);
                        if WIDE {
                            let rest = _mm256_maddubs_epi16(_mm256_and_si256(codes, low), q);
                            let upper = _mm256_and_si256(_mm256_srli_epi16::<7>(codes), bit);
                            let upper = _mm256_maddubs_epi16(upper, q);
                            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(rest, ones));
                            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(upper, top));
                        } else {
                            let products = _mm256_maddubs_epi16(codes, q);
                            *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(products, ones));
                        }
                    }
                }
                let scales = w.scales[part].as_chunks::<8>().0.iter().zip(w.mins[part].as_chunks::<8>().0);
                let s = _mm256_set1_ps(x.half[part][i]);
                for ((sum, dot), (scale, min)) in sum.iter_mut().zip(dots).zip(scales) {
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), load256_ps(scale));
                    *sum = _mm256_fmadd_ps(scaled, d, *sum);
                    *sum = _mm256_fnmadd_ps(load256_ps(min), s, *sum);
                }
            }
        }
        store256_ps(&mut halves[0], sum[0]);
        store256_ps(&mut halves[1], sum[1]);
    }
}
