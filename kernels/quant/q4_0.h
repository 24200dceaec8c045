// Q4_0: 32 weights in 18 bytes, w = d * (code - 8).
// Byte 0: d, f16. Byte 2: 16 bytes, low nibbles are codes 0..16, high nibbles codes 16..32.
#pragma once
#include "coded.h"

struct Q4_0 : Coded<Q4_0, 1, Mins::Block, 15> {
  using Narrow = Q4_0;
  static constexpr u32 BLOCK = 32, BYTES = 18;
  struct Piece { Words<2, 4> q; u16 d; };
  RF_DEV u32 at(u32 p, u32) { return p * 32; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u8* b = row + p * BYTES;
    return {words<2, 4>(b + 2), *(const u16*)b};
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
    c.scale[0] = f16_to_f32(w.d);
    c.min[0] = 8.f * c.scale[0];
#pragma unroll
    for (u32 z = 0; z < 4; z++) c.q[z] = w.q.v[z] & 0x0f0f0f0f, c.q[4 + z] = w.q.v[z] >> 4 & 0x0f0f0f0f;
    return c;
  }
};
