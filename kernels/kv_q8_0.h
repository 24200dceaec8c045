// A paged cache in q8_0: 32 neighbours of a head's row share a scale, x = d * q with d = amax / 127.
//
// A head's part of a block is its codes, i8 [32 tokens][dim], then its scales, f16 [dim / 32][32
// tokens]. dim is a multiple of 32, so that a head's part starts on 64 bytes.
#pragma once
#include "paged.h"

// Elements j .. j + 3 of row `at` of a head; eight neighbouring lanes have the 32 of a scale.
RF_DEV void put_codes(Q8 x, u64 head, u32 dim, u32 at, u32 j) {
  *global_at<u32>(head + at * dim + j) = x.q;
  if (j % 32 == 0) global_at<f16>(head + 32 * dim)[j + at] = (f16)x.d;
}

// Codes 2i and 2i + 1 of a word.
RF_DEV h2 code_pair(u32 q, u32 i) { return byte_pair(q ^ 0x80808080u, i) - (h2)((f16)1152.f); }

// The scales of the 32 tokens of the group that element j is in.
RF_DEV const f16* scales_at(u64 head, u32 dim, u32 j) {
  return global_at<const f16>(head + 32 * dim) + j / 32 * 32;
}

// Eight codes times their scale.
RF_DEV h8 halves(u2 q, f16 d) {
  const h2 a = code_pair(q[0], 0) * d, b = code_pair(q[0], 1) * d;
  const h2 c = code_pair(q[1], 0) * d, e = code_pair(q[1], 1) * d;
  return (h8){a[0], a[1], b[0], b[1], c[0], c[1], e[0], e[1]};
}

// Products of R queries, D apart, with this lane's key: 16 codes at once, of which the next are loaded while these are
// worked on.
template <u32 D, u32 R> RF_DEV void dots_q8_0(u64 head, const float* q, u32 dim, float* s) {
  const u4* codes = global_at<const u4>(head + lane() * dim);
  const f16* scales = scales_at(head, dim, 0) + lane();
  u4 own = codes[0];
  f16 d = scales[0];
#pragma unroll 1
  for (u32 i = 0; i < dim; i += 16) {
    const u32 next = i + 16 < dim ? i + 16 : i;
    const u4 next_own = codes[next / 16];
    const f16 next_d = scales[next / 32 * 32];
    float t[R];
#pragma unroll
    for (u32 r = 0; r < R; r++) t[r] = 0.f;
#pragma unroll
    for (u32 w = 0; w < 4; w++) {
      const h2 a = code_pair(own[w], 0), b = code_pair(own[w], 1);
#pragma unroll
      for (u32 r = 0; r < R; r++) {
        const f4 x = *(const f4*)(q + r * D + i + 4 * w);
        t[r] = rf_fma(x[0], (float)a[0], t[r]), t[r] = rf_fma(x[1], (float)a[1], t[r]);
        t[r] = rf_fma(x[2], (float)b[0], t[r]), t[r] = rf_fma(x[3], (float)b[1], t[r]);
      }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) s[r] = rf_fma((float)d, t[r], s[r]);
    own = next_own, d = next_d;
  }
}
