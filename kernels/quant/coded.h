// What all formats with integer codes share. A format's header says how its blocks lie in memory:
// it hands out *pieces* of 4 * WORDS weights, the share of one lane in one step. A piece has GROUPS runs
// of consecutive weights with one scale and min each: w = scale * (code - OFFSET) - min.
// Narrow pieces, the default, have 32 weights; two of them, 2t and 2t + 1, make up 64 weights (the
// GEMM's step in k), in an order of their own.
//
// A format F derives from Coded<F, ...> and has
//   BLOCK, BYTES               weights and bytes of a block
//   Piece load(row, p)         the loads of piece p of a row, and nothing else
//   Codes codes(piece, p)      codes, scales and mins in registers
//   Narrow                     itself, or the same format in pieces of 32 weights
//   at(p, g)                   the first weight of the piece's group g, counted from the row's start
#pragma once
#include "words.h"

// How mins meet the activations, which carry s = d * (sum of codes) for each 32 of them.
enum class Mins {
  None,
  Block,  // a group is one whole q8 block: min * s
  Half,   // a group is half of a q8 block and both halves share the min: even pieces take it with s
  Own,    // a group is a smaller part: its sum is made here
};

template <u32 WORDS, u32 GROUPS> struct CodesOf { u32 q[WORDS]; float scale[GROUPS], min[GROUPS]; };
template <u32 WORDS, u32 GROUPS> struct ActivationsOf { u32 q[WORDS]; float d[GROUPS], s[GROUPS]; };

// TOP bounds |code - OFFSET|. SIGNED codes are two's complement bytes.
template <class F, u32 GROUPS, Mins MINS, u32 TOP, u32 OFFSET = 0, bool SIGNED = false, u32 WORDS = 8> struct Coded {
  static constexpr u32 PIECE = 4 * WORDS, RUN = WORDS / GROUPS;  // weights of a piece; words of a group
  static constexpr u32 SCALES = GROUPS;
  static constexpr bool TAIL = false;
  using Codes = CodesOf<WORDS, GROUPS>;
  using Activations = ActivationsOf<WORDS, GROUPS>;

  // One activation row in q8.
  struct Column { const i8* q; const f2* d; };
  RF_DEV Column column(const void* xq, const f2* xd, u32 k, u32 c) {
    return {(const i8*)xq + (u64)c * k, xd + (u64)c * (k / 32)};
  }
  RF_DEV Column ahead(const Column& x, u32 pieces) { return {x.q + pieces * PIECE, x.d + pieces * (PIECE / 32)}; }
  RF_DEV u64 row_bytes(u32 k) { return (u64)(k / F::BLOCK) * F::BYTES; }

  RF_DEV Activations activations(const Column& x, u32 p) {
    Activations a;
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      const u32 at = F::at(p, g);
      const auto w = words<RUN == 2 ? 8 : 16, RUN>((const u8*)x.q + at);
      const f2 e = x.d[at / 32];
#pragma unroll
      for (u32 z = 0; z < RUN; z++) a.q[g * RUN + z] = w.v[z];
      a.d[g] = e.x;
      a.s[g] = MINS == Mins::Half && (p & 1) ? 0.f : e.y;
      if (MINS == Mins::Own) {
        i32 sum = 0;
#pragma unroll
        for (u32 z = 0; z < RUN; z++) sum = dp4a(0x01010101, (i32)w.v[z], sum);
        a.s[g] = e.x * (float)sum;
      }
    }
    return a;
  }

  // Codes less OFFSET, byte by byte: worth its three operations a word when several columns follow.
  static constexpr bool CENTRED = OFFSET != 0;
  RF_DEV Codes centred(Codes w) {
#pragma unroll
    for (u32 z = 0; z < WORDS; z++) w.q[z] = ((w.q[z] | 0x80808080u) - 0x01010101u * OFFSET) ^ 0x80808080u;
    return w;
  }
  // DONE: the codes are centred.
  template <bool DONE> RF_DEV float dot(const Codes& w, const Activations& x) {
    float total = 0.f;
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++) {
      i32 i = 0;
#pragma unroll
      for (u32 z = g * RUN; z < (g + 1) * RUN; z++) {
        i = SIGNED || DONE ? dp4a((i32)w.q[z], (i32)x.q[z], i) : dp4a_us(w.q[z], (i32)x.q[z], i);
        if (CENTRED && !DONE) i = dp4a((i32)(0x01010101u * ((0x100u - OFFSET) & 0xff)), (i32)x.q[z], i);
      }
      total += w.scale[g] * (x.d[g] * (float)i);
      if (MINS != Mins::None) total -= w.min[g] * x.s[g];
    }
    return total;
  }

  // For the GEMM, of narrow pieces: the weights times `factor` in f16, in the order of the codes. The factor
  // keeps them inside f16's range; see gemm.h. Behind the row's end stands something of the row, which meets
  // activations of zero.
  RF_DEV auto panel(const u8* row, u32 p, u32 k) { return F::load(row, p < k / 32 ? p : k / 32 - 1); }
  // Eight f16 activations from `at` on; zeros behind the end.
  RF_DEV Words<16, 4> input(const f16* x, u32 at, u32 k) {
    if (at < k) return words<16, 4>((const u8*)(x + at));
    return {};
  }
  RF_DEV u32 panel_at(u32 p, u32 chunk) { return F::at(p, chunk * GROUPS / 4) + chunk % (4 / GROUPS) * 8; }
  RF_DEV float bound(const Codes& w) {
    float b = 0.f;
#pragma unroll
    for (u32 g = 0; g < GROUPS; g++)
      b = rf_max(b, rf_abs(w.scale[g]) * (float)TOP + (MINS == Mins::None ? 0.f : rf_abs(w.min[g])));
    return b;
  }
  RF_DEV void halves(const Codes& w, float factor, h2 out[16]) {
    const f16 zero = (f16)(float)(1024 + (SIGNED ? 128 : OFFSET));  // byte_pair gives 1024 + byte
#pragma unroll
    for (u32 z = 0; z < 8; z++) {
      const u32 g = z / RUN, q = SIGNED ? w.q[z] ^ 0x80808080u : w.q[z];
      const f16 s = (f16)(w.scale[g] * factor), m = (f16)(w.min[g] * factor);
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        const h2 code = byte_pair(q, i) - h2{zero, zero};
        out[2 * z + i] = MINS == Mins::None ? code * h2{s, s} : h2_fma(code, h2{s, s}, h2{-m, -m});
      }
    }
  }

  // Writes a row as f32, times `factor`, with threads `t` of `threads`.
  RF_DEV void expand(const u8* row, float* out, u32 k, float factor, u32 t, u32 threads) {
    for (u32 p = t; p < k / PIECE; p += threads) {
      const Codes w = F::codes(F::load(row, p), p);
#pragma unroll
      for (u32 z = 0; z < WORDS; z++) {
        const u32 g = z / RUN;
        float* to = out + F::at(p, g) + z % RUN * 4;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const u32 byte = w.q[z] >> (8 * i) & 0xff;
          const float code = SIGNED ? (float)(i8)byte : (float)((i32)byte - (i32)OFFSET);
          to[i] = (MINS == Mins::None ? w.scale[g] * code : w.scale[g] * code - w.min[g]) * factor;
        }
      }
    }
  }
};
