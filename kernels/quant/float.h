// What the formats that hold numbers share: the same interface as coded.h, with any k. A row may then
// begin at any multiple of an element, and has a tail that fills no piece. A piece of the GEMV has 8
// weights, a panel of the GEMM 32.
#pragma once
#include "words.h"

template <class F, class T> struct Float {
  static constexpr u32 PIECE = 8, BLOCK = PIECE, BYTES = 8 * sizeof(T), WORDS = BYTES / 4;
  static constexpr u32 SCALES = 0;
  static constexpr bool TAIL = true;
  using Narrow = F;
  struct Codes { float v[8]; };
  using Activations = Codes;
  using Piece = Words<sizeof(T), WORDS>;

  // One activation row, in f32.
  struct Column { const float* x; };
  RF_DEV Column column(const void* x, const f2*, u32 k, u32 c) { return {(const float*)x + (u64)c * k}; }
  RF_DEV Column ahead(const Column& x, u32 pieces) { return {x.x + pieces * 8}; }
  RF_DEV u64 row_bytes(u32 k) { return (u64)k * sizeof(T); }
  RF_DEV float at_index(const u8* row, u32 i) { return F::value(((const T*)row)[i]); }

  RF_DEV Piece load(const u8* row, u32 p) { return words<sizeof(T), WORDS>(row + p * 8 * (u32)sizeof(T)); }
  RF_DEV float of_words(const u32* v, u32 i) {
    if constexpr (sizeof(T) == 4) return F::value(v[i]);
    else return F::value((T)(v[i / 2] >> (16 * (i % 2))));
  }
  RF_DEV Codes codes(const Piece& w, u32) {
    Codes c;
#pragma unroll
    for (u32 i = 0; i < 8; i++) c.v[i] = of_words(w.v, i);
    return c;
  }
  RF_DEV Activations activations(const Column& x, u32 p) {
    const auto w = words<4, 8>((const u8*)(x.x + p * 8));
    Activations a;
#pragma unroll
    for (u32 i = 0; i < 8; i++) a.v[i] = from_bits(w.v[i]);
    return a;
  }
  static constexpr bool CENTRED = false;
  template <bool> RF_DEV float dot(const Codes& w, const Activations& x) {
    float total = 0.f;
#pragma unroll
    for (u32 i = 0; i < 8; i++) total = rf_fma(w.v[i], x.v[i], total);
    return total;
  }

  using Panel = Words<sizeof(T), 4 * WORDS>;
  RF_DEV Panel panel(const u8* row, u32 p, u32 k) {
    if (p * 32 + 32 <= k) return words<sizeof(T), 4 * WORDS>(row + p * 32 * (u32)sizeof(T));
    Panel w = {};
#pragma unroll
    for (u32 i = 0; i < 32; i++) {
      constexpr u32 EACH = 4 / sizeof(T);
      const u32 at = p * 32 + i, v = ((const T*)row)[at < k ? at : k - 1];
      w.v[i / EACH] |= v << (i % EACH * 16);
    }
    return w;
  }
  RF_DEV Words<16, 4> input(const f16* x, u32 at, u32 k) {
    Words<16, 4> w = {};
    if (at + 8 <= k) {
      const auto v = words<2, 4>((const u8*)(x + at));
#pragma unroll
      for (u32 i = 0; i < 4; i++) w.v[i] = v.v[i];
    } else {
#pragma unroll
      for (u32 i = 0; i < 8; i++) {
        const u32 v = __builtin_bit_cast(u16, x[at + i < k ? at + i : k - 1]);
        w.v[i / 2] |= (at + i < k ? v : 0) << (i % 2 * 16);
      }
    }
    return w;
  }
  RF_DEV u32 panel_at(u32 p, u32 chunk) { return p * 32 + chunk * 8; }
  RF_DEV const Panel& codes(const Panel& w, u32) { return w; }
  RF_DEV float bound(const Panel& w) {
    u32 top = 0;  // of the bits, so that NaN counts as large
#pragma unroll
    for (u32 i = 0; i < 32; i++) top = __builtin_elementwise_max(top, bits(rf_abs(of_words(w.v, i))));
    return from_bits(top);
  }
  RF_DEV void halves(const Panel& w, float factor, h2 out[16]) {
#pragma unroll
    for (u32 i = 0; i < 16; i++) out[i] = f2_to_h2(f2{of_words(w.v, 2 * i), of_words(w.v, 2 * i + 1)} * factor);
  }

  RF_DEV void expand(const u8* row, float* out, u32 k, float factor, u32 t, u32 threads) {
    for (u32 i = t; i < k; i += threads) out[i] = at_index(row, i) * factor;
  }
};
