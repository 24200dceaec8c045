// Q5_0: 32 weights in 22 bytes, w = d * (code - 16).
// Byte 0: d, f16. Byte 2: u32, bit i is bit 4 of code i. Byte 6: 16 bytes, low nibbles belong to codes
// 0..16, high nibbles to codes 16..32.
#pragma once
#include "coded.h"

struct Q5_0 : Coded<Q5_0, 1, Mins::Block, 31> {
  using Narrow = Q5_0;
  static constexpr u32 BLOCK = 32, BYTES = 22;
  struct Piece { Words<2, 5> q; u16 d; };  // the fifth bits, then the nibbles
  RF_DEV u32 at(u32 p, u32) { return p * 32; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u8* b = row + p * BYTES;
    return {words<2, 5>(b + 2), *(const u16*)b};
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
    c.scale[0] = f16_to_f32(w.d);
    c.min[0] = 16.f * c.scale[0];
#pragma unroll
    for (u32 z = 0; z < 4; z++) {
      const u32 nibbles = w.q.v[1 + z];
      c.q[z] = (nibbles & 0x0f0f0f0f) | fifth_bits(w.q.v[0] >> (4 * z));
      c.q[4 + z] = (nibbles >> 4 & 0x0f0f0f0f) | fifth_bits(w.q.v[0] >> (16 + 4 * z));
    }
    return c;
  }
};
