// Q5_K: 256 weights in 176 bytes, w = d * scale * code - dmin * min, a 6-bit scale and min for each 32.
// Bytes 0..16 as in Q4_K. Byte 16: 32 bytes, bit j of byte i is bit 4 of code 32 * j + i. Byte 48: 128 bytes,
// in each 32 bytes the low nibbles belong to 32 codes, the high nibbles to the next 32.
//
// A piece is one of the eight 16-byte words of nibbles, as in Q4_K.
#pragma once
#include "q4_k.h"

struct Q5_K : Coded<Q5_K, 2, Mins::Half, 31> {
  using Narrow = Q5_K;
  static constexpr u32 BLOCK = 256, BYTES = 176;
  struct Piece { Words<16, 4> h, high, q; };
  RF_DEV u32 at(u32 p, u32 g) { return Q4_K::at(p, g); }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = (p >> 3) * BYTES;
    return {words<16, 4>(row + at), words<16, 4>(row + (at + (p & 1) * 16) + 16),
            words<16, 4>(row + (at + (p & 7) * 16) + 48)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    const u32 j = p >> 1 & 3;
    k_scales(w.h, j, c.scale, c.min);
#pragma unroll
    for (u32 z = 0; z < 4; z++) {
      const u32 high = w.high.v[z] >> (2 * j);
      c.q[z] = (w.q.v[z] & 0x0f0f0f0f) | (high & 0x01010101) << 4;
      c.q[4 + z] = (w.q.v[z] >> 4 & 0x0f0f0f0f) | (high >> 1 & 0x01010101) << 4;
    }
    return c;
  }
};
