// Q2_K: 256 weights in 84 bytes, w = d * scale * code - dmin * min, a 4-bit scale and min for each 16.
// Byte 0: 16 bytes, low nibble the scale, high nibble the min of each 16 weights. Byte 16: 64 bytes, in each 32
// bytes bits 0-1 are the codes of weights 0..32 of a half block, bits 2-3 of weights 32..64, 4-5 of weights
// 64..96, 6-7 of weights 96..128. Byte 80: d, f16. Byte 82: dmin, f16.
//
// A piece is BYTES_OF_CODES consecutive bytes of codes: four runs of as many weights, 32 apart.
#pragma once
#include "coded.h"

template <u32 BYTES_OF_CODES>
struct Q2_K_Pieces : Coded<Q2_K_Pieces<BYTES_OF_CODES>, 4, Mins::Own, 3, 0, false, BYTES_OF_CODES> {
  using Narrow = Q2_K_Pieces<8>;
  static constexpr u32 BLOCK = 256, BYTES = 84, WORDS = BYTES_OF_CODES / 4;
  static constexpr u32 HALF = 32 / BYTES_OF_CODES;  // pieces of half a block
  using Codes = CodesOf<BYTES_OF_CODES, 4>;
  struct Piece { Words<4, 2> h; Words<4, WORDS> q; u32 dm; };
  RF_DEV u32 at(u32 p, u32 g) { return p / HALF * 128 + g * 32 + p % HALF * BYTES_OF_CODES; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = p / (2 * HALF) * BYTES, half = p / HALF % 2, word = p % HALF * BYTES_OF_CODES;
    return {words<4, 2>(row + (at + half * 8)), words<4, WORDS>(row + (at + half * 32 + word) + 16),
            *(const u32*)(row + at + 80)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const float d = low_half(w.dm), dmin = high_half(w.dm);
    const u32 shift = p % HALF * BYTES_OF_CODES / 16 * 8;  // the scale of weights 0..16 or 16..32 of each 32
    const u32 h[2] = {w.h.v[0] >> shift, w.h.v[1] >> shift};
#pragma unroll
    for (u32 g = 0; g < 4; g++) {
      const u32 scale = h[g / 2] & 0x0f0f0f0f, min = h[g / 2] >> 4 & 0x0f0f0f0f;
      c.scale[g] = d * byte_of(scale, g % 2 * 2), c.min[g] = dmin * byte_of(min, g % 2 * 2);
#pragma unroll
      for (u32 z = 0; z < WORDS; z++) c.q[WORDS * g + z] = w.q.v[z] >> (2 * g) & 0x03030303;
    }
    return c;
  }
};
using Q2_K = Q2_K_Pieces<16>;
