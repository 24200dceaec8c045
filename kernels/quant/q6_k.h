// Q6_K: 256 weights in 210 bytes, w = d * scale * (code - 32), a signed 8-bit scale for each 16.
// Byte 0: 128 bytes, in each 64 bytes the low nibbles are bits 0-3 of 64 codes, the high nibbles those of the
// next 64. Byte 128: 64 bytes, in each 32 bytes bits 0-1 are bits 4-5 of weights 0..32 of a half block, bits 2-3
// of weights 32..64, 4-5 of weights 64..96, 6-7 of weights 96..128. Byte 192: 16 scales. Byte 208: d, f16.
//
// A piece is one of the eight 16-byte words of nibbles: 16 weights, and the 16 that lie 64 further on.
#pragma once
#include "coded.h"

struct Q6_K : Coded<Q6_K, 2, Mins::None, 32, 32> {
  using Narrow = Q6_K;
  static constexpr u32 BLOCK = 256, BYTES = 210;
  struct Piece { Words<2, 4> q, high; i8 scale[2]; u16 d; };
  RF_DEV u32 at(u32 p, u32 g) { return (p >> 2) * 128 + g * 64 + (p & 3) * 16; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = (p >> 3) * BYTES, half = p >> 2 & 1, word = p & 3;
    const i8* scale = (const i8*)row + (at + half * 8 + word) + 192;
    return {words<2, 4>(row + (at + half * 64 + word * 16)),
            words<2, 4>(row + (at + half * 32 + (word & 1) * 16) + 128),
            {scale[0], scale[4]},
            *(const u16*)(row + at + 208)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const u32 shift = p & 2;
    const float d = f16_to_f32(w.d);
#pragma unroll
    for (u32 g = 0; g < 2; g++) c.scale[g] = d * (float)w.scale[g], c.min[g] = 0.f;
#pragma unroll
    for (u32 z = 0; z < 4; z++) {
      const u32 high = w.high.v[z] >> shift;
      c.q[z] = (w.q.v[z] & 0x0f0f0f0f) | (high & 0x03030303) << 4;
      c.q[4 + z] = (w.q.v[z] >> 4 & 0x0f0f0f0f) | (high & 0x30303030);
    }
    return c;
  }
};
