// Q4_1: 32 weights in 20 bytes, w = d * code + m.
// Byte 0: d, f16. Byte 2: m, f16. Byte 4: 16 bytes, low nibbles are codes 0..16, high nibbles codes 16..32.
#pragma once
#include "coded.h"

struct Q4_1 : Coded<Q4_1, 1, Mins::Block, 15> {
  using Narrow = Q4_1;
  static constexpr u32 BLOCK = 32, BYTES = 20;
  struct Piece { Words<4, 4> q; u32 dm; };
  RF_DEV u32 at(u32 p, u32) { return p * 32; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u8* b = row + p * BYTES;
    return {words<4, 4>(b + 4), *(const u32*)b};
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
    c.scale[0] = low_half(w.dm);
    c.min[0] = -high_half(w.dm);
#pragma unroll
    for (u32 z = 0; z < 4; z++) c.q[z] = w.q.v[z] & 0x0f0f0f0f, c.q[4 + z] = w.q.v[z] >> 4 & 0x0f0f0f0f;
    return c;
  }
};
