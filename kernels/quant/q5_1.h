// Q5_1: 32 weights in 24 bytes, w = d * code + m.
// Byte 0: d, f16. Byte 2: m, f16. Byte 4: u32, bit i is bit 4 of code i. Byte 8: 16 bytes, low nibbles
// belong to codes 0..16, high nibbles to codes 16..32.
#pragma once
#include "coded.h"

struct Q5_1 : Coded<Q5_1, 1, Mins::Block, 31> {
  using Narrow = Q5_1;
  static constexpr u32 BLOCK = 32, BYTES = 24;
  struct Piece { Words<8, 2> h; Words<8, 4> q; };
  RF_DEV u32 at(u32 p, u32) { return p * 32; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u8* b = row + p * BYTES;
    return {words<8, 2>(b), words<8, 4>(b + 8)};
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
    c.scale[0] = low_half(w.h.v[0]);
    c.min[0] = -high_half(w.h.v[0]);
#pragma unroll
    for (u32 z = 0; z < 4; z++) {
      c.q[z] = (w.q.v[z] & 0x0f0f0f0f) | fifth_bits(w.h.v[1] >> (4 * z));
      c.q[4 + z] = (w.q.v[z] >> 4 & 0x0f0f0f0f) | fifth_bits(w.h.v[1] >> (16 + 4 * z));
    }
    return c;
  }
};
