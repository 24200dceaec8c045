// Q3_K: 256 weights in 110 bytes, w = d * (scale - 32) * (code - 4), a 6-bit scale for each 16.
// Byte 0: 32 bytes, bit j of byte i is bit 2 of code 32 * j + i. Byte 32: 64 bytes, bits 0-1 of the codes, in the
// order of Q2_K. Byte 96: 12 bytes of scales: the low nibbles of bytes 0..8 are bits 0-3 of scales 0..8, the high
// nibbles those of scales 8..16; bits 2j, 2j+1 of byte 8 + i are bits 4-5 of scale 4 * j + i. Byte 108: d, f16.
//
// A piece is BYTES_OF_CODES consecutive bytes of codes: four runs of as many weights, 32 apart.
#pragma once
#include "coded.h"

template <u32 BYTES_OF_CODES>
struct Q3_K_Pieces : Coded<Q3_K_Pieces<BYTES_OF_CODES>, 4, Mins::None, 4, 4, false, BYTES_OF_CODES> {
  using Narrow = Q3_K_Pieces<8>;
  static constexpr u32 BLOCK = 256, BYTES = 110, WORDS = BYTES_OF_CODES / 4;
  static constexpr u32 HALF = 32 / BYTES_OF_CODES;  // pieces of half a block
  using Codes = CodesOf<BYTES_OF_CODES, 4>;
  struct Piece { Words<2, WORDS> high, q; Words<2, 3> scales; u16 d; };
  RF_DEV u32 at(u32 p, u32 g) { return p / HALF * 128 + g * 32 + p % HALF * BYTES_OF_CODES; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = p / (2 * HALF) * BYTES, half = p / HALF % 2, word = p % HALF * BYTES_OF_CODES;
    return {words<2, WORDS>(row + (at + word)), words<2, WORDS>(row + (at + half * 32 + word) + 32),
            words<2, 3>(row + at + 96), *(const u16*)(row + at + 108)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const u32 half = p / HALF % 2 * 4;
    const u32 shift = p % HALF * BYTES_OF_CODES / 16 * 8;  // the scale of weights 0..16 or 16..32 of each 32
    const u32 top = w.scales.v[2] >> half;
    const float d = f16_to_f32(w.d);
#pragma unroll
    for (u32 g = 0; g < 4; g++) {
      const u32 four = ((w.scales.v[g / 2] >> half & 0x0f0f0f0f) | (top >> (g / 2 * 2) & 0x03030303) << 4) >> shift;
      c.scale[g] = d * (byte_of(four, g % 2 * 2) - 32.f), c.min[g] = 0.f;
#pragma unroll
      for (u32 z = 0; z < WORDS; z++)
        c.q[WORDS * g + z] = (w.q.v[z] >> (2 * g) & 0x03030303) | (w.high.v[z] >> half >> g & 0x01010101) << 2;
    }
    return c;
  }
};
using Q3_K = Q3_K_Pieces<16>;
