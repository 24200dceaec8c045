// Q3_K: 256 weights in 110 bytes, w = d * (scale - 32) * (code - 4), a 6-bit scale for each 16.
// Byte 0: 32 bytes, bit j of byte i is bit 2 of code 32 * j + i. Byte 32: 64 bytes, bits 0-1 of the codes, in the
// order of Q2_K. Byte 96: 12 bytes of scales: the low nibbles of bytes 0..8 are bits 0-3 of scales 0..8, the high
// nibbles those of scales 8..16; bits 2j, 2j+1 of byte 8 + i are bits 4-5 of scale 4 * j + i. Byte 108: d, f16.
//
// A piece is one of the eight 8-byte words of codes: four times 8 weights, 32 apart.
#pragma once
#include "coded.h"

struct Q3_K : Coded<Q3_K, 4, Mins::None, 4, 4> {
  static constexpr u32 BLOCK = 256, BYTES = 110;
  struct Piece { Words<2, 2> high, q; Words<2, 3> scales; u16 d; };
  RF_DEV u32 at(u32 p, u32 g) { return (p >> 2) * 128 + g * 32 + (p & 3) * 8; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = (p >> 3) * BYTES, half = p >> 2 & 1, word = p & 3;
    return {words<2, 2>(row + (at + word * 8)), words<2, 2>(row + (at + half * 32 + word * 8) + 32),
            words<2, 3>(row + at + 96), *(const u16*)(row + at + 108)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const u32 half = p & 4, shift = p & 2 ? 8 : 0;  // the scale of weights 0..16 or 16..32 of each 32
    const u32 top = w.scales.v[2] >> half;
    const float d = f16_to_f32(w.d);
#pragma unroll
    for (u32 g = 0; g < 4; g++) {
      const u32 four = (w.scales.v[g / 2] >> half & 0x0f0f0f0f) | (top >> (g / 2 * 2) & 0x03030303) << 4;
      c.scale[g] = d * (float)((i32)(four >> shift >> (g % 2 * 16) & 0xff) - 32), c.min[g] = 0.f;
#pragma unroll
      for (u32 z = 0; z < 2; z++)
        c.q[2 * g + z] = (w.q.v[z] >> (2 * g) & 0x03030303) | (w.high.v[z] >> half >> g & 0x01010101) << 2;
    }
    return c;
  }
};
