// Q8_0: 32 weights in 34 bytes, w = d * q.
// Byte 0: d, f16. Byte 2: 32 signed bytes q.
#pragma once
#include "coded.h"

struct Q8_0 : Coded<Q8_0, 1, Mins::None, 128, 0, true> {
  using Narrow = Q8_0;
  static constexpr u32 BLOCK = 32, BYTES = 34;
  struct Piece { Words<2, 8> q; u16 d; };
  RF_DEV u32 at(u32 p, u32) { return p * 32; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u8* b = row + p * BYTES;
    return {words<2, 8>(b + 2), *(const u16*)b};
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
    c.scale[0] = f16_to_f32(w.d);
    c.min[0] = 0.f;
#pragma unroll
    for (u32 z = 0; z < 8; z++) c.q[z] = w.q.v[z];
    return c;
  }
};
