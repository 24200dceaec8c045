// Q2_K: 256 weights in 84 bytes, w = d * scale * code - dmin * min, a 4-bit scale and min for each 16.
// Byte 0: 16 bytes, low nibble the scale, high nibble the min of each 16 weights. Byte 16: 64 bytes, in each 32
// bytes bits 0-1 are the codes of weights 0..32 of a half block, bits 2-3 of weights 32..64, 4-5 of weights
// 64..96, 6-7 of weights 96..128. Byte 80: d, f16. Byte 82: dmin, f16.
//
// A piece is one of the eight 8-byte words of codes: four times 8 weights, 32 apart.
#pragma once
#include "coded.h"

struct Q2_K : Coded<Q2_K, 4, Mins::Own, 3> {
  static constexpr u32 BLOCK = 256, BYTES = 84;
  struct Piece { Words<4, 2> h, q; u32 dm; };
  RF_DEV u32 at(u32 p, u32 g) { return (p >> 2) * 128 + g * 32 + (p & 3) * 8; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = (p >> 3) * BYTES, half = p >> 2 & 1;
    return {words<4, 2>(row + (at + half * 8)), words<4, 2>(row + (at + half * 32 + (p & 3) * 8) + 16),
            *(const u32*)(row + at + 80)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const float d = low_half(w.dm), dmin = high_half(w.dm);
    const u32 shift = p & 2 ? 8 : 0;  // the scale of weights 0..16 or 16..32 of each 32
#pragma unroll
    for (u32 g = 0; g < 4; g++) {
      const u32 pair = w.h.v[g / 2] >> shift >> (g % 2 * 16) & 0xff;
      c.scale[g] = d * (float)(pair & 15), c.min[g] = dmin * (float)(pair >> 4);
#pragma unroll
      for (u32 z = 0; z < 2; z++) c.q[2 * g + z] = w.q.v[z] >> (2 * g) & 0x03030303;
    }
    return c;
  }
};
