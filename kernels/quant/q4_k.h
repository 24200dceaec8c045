// Q4_K: 256 weights in 144 bytes, w = d * scale * code - dmin * min, a 6-bit scale and min for each 32.
// Byte 0: d, f16. Byte 2: dmin, f16. Byte 4: 12 bytes of scales and mins, see k_scales. Byte 16: 128 bytes,
// in each 32 bytes the low nibbles are 32 codes, the high nibbles the next 32.
//
// A piece is one of the eight 16-byte words of codes: half of sub-block 2j and half of sub-block 2j + 1.
#pragma once
#include "coded.h"

// The 16 bytes that blocks of Q4_K and Q5_K begin with give the scales and mins of sub-blocks 2j and
// 2j + 1: those below 4 are the low six bits of bytes i and i + 4 of the 12; the others have their low
// nibbles in byte i + 4 and their upper two bits on top of bytes i - 4 and i.
RF_DEV void k_scales(const Words<16, 4>& h, u32 j, float scale[2], float min[2]) {
  const u32 shift = 16 * (j & 1), up = j & 2;
  const u32 a = h.v[1] >> shift, b = h.v[2] >> shift, c = h.v[3] >> shift;
  const u32 sc = ((up ? c : a) & 0x0f0f) | (a >> up & 0x3030);
  const u32 mn = ((up ? c >> 4 : b) & 0x0f0f) | (b >> up & 0x3030);
  const float d = low_half(h.v[0]), dmin = high_half(h.v[0]);
#pragma unroll
  for (u32 g = 0; g < 2; g++) scale[g] = d * byte_of(sc, g), min[g] = dmin * byte_of(mn, g);
}

struct Q4_K : Coded<Q4_K, 2, Mins::Half, 15> {
  using Narrow = Q4_K;
  static constexpr u32 BLOCK = 256, BYTES = 144;
  struct Piece { Words<16, 4> h, q; };
  RF_DEV u32 at(u32 p, u32 g) { return (p >> 1) * 64 + g * 32 + (p & 1) * 16; }
  RF_DEV Piece load(const u8* row, u32 p) {
    const u32 at = (p >> 3) * BYTES;
    return {words<16, 4>(row + at), words<16, 4>(row + (at + (p & 7) * 16) + 16)};
  }
  RF_DEV Codes codes(const Piece& w, u32 p) {
    Codes c;
    k_scales(w.h, p >> 1 & 3, c.scale, c.min);
#pragma unroll
    for (u32 z = 0; z < 4; z++) c.q[z] = w.q.v[z] & 0x0f0f0f0f, c.q[4 + z] = w.q.v[z] >> 4 & 0x0f0f0f0f;
    return c;
  }
};
