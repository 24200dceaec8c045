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
  const h2 a = code_pair(q[0], 0) * d, b = code_pair(q[0], 1) * d, c = code_pair(q[1], 0) * d, e = code_pair(q[1], 1) * d;
  return (h8){a[0], a[1], b[0], b[1], c[0], c[1], e[0], e[1]};
}
