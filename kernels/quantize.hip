// Activations in the formats that products read: q8 (prelude.h) for gemv, rows of f16 for gemm, alone or
// right after the RMS norm that most products follow. A block makes one row.
#include "quant/words.h"

// Elements first .. first + 3 of a row of k, zeros behind its end. The row may start at any float.
RF_DEV f4 four(const float* x, u32 first, u32 k) {
  if (first + 4 <= k) {
    const auto w = words<4, 4>((const u8*)(x + first));
    return f4{from_bits(w.v[0]), from_bits(w.v[1]), from_bits(w.v[2]), from_bits(w.v[3])};
  }
  f4 v = {0, 0, 0, 0};
#pragma unroll
  for (u32 j = 0; j < 4; j++)
    if (first + j < k) v[j] = x[first + j];
  return v;
}
RF_DEV void put_four(float* x, u32 first, u32 k, f4 v) {
#pragma unroll
  for (u32 j = 0; j < 4; j++)
    if (first + j < k) x[first + j] = v[j];
}
// Largest magnitude as bits, a NaN above all.
RF_DEV u32 top_of(f4 v) {
  u32 top = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) top = __builtin_elementwise_max(top, bits(rf_abs(v[i])));
  return top;
}

// A whole block's pass over a row: k is a multiple of 32, so that groups of eight lanes stay together.
template <class Value> RF_DEV void row_q8(Value value, i8* xq, f2* xd, u32 k) {
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const Q8 v = q8_quantize(value(i));
    *(u32*)(xq + i) = v.q;
    if (i % 32 == 0) xd[i / 32] = f2{v.d, v.s};
  }
}
template <class Value> RF_DEV void row_f16(Value value, F16Scale s, f16* xh, float* xs, u32 k) {
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 v = value(i);
#pragma unroll
    for (u32 j = 0; j < 4; j++)
      if (i + j < k) xh[i + j] = (f16)(v[j] * s.inverse);
  }
  if (tid_x() == 0) *xs = s.scale;
}

RF_KERNEL RF_BOUNDS(256) void quantize_q8(const float* x, i8* xq, f2* xd, u32 k) {
  const u64 row = bid_x();
  const float* from = x + row * k;
  row_q8([=](u32 i) { return four(from, i, k); }, xq + row * k, xd + row * (k / 32), k);
}
RF_REGISTER(quantize_q8)

RF_KERNEL RF_BOUNDS(256) void quantize_f16(const float* x, f16* xh, float* xs, u32 k) {
  RF_SHARED(u32, scratch, 8);
  const u64 row = bid_x();
  const float* from = x + row * k;
  u32 top = 0;
  for (u32 i = tid_x() * 4; i < k; i += 1024) top = __builtin_elementwise_max(top, top_of(four(from, i, k)));
  const F16Scale s = f16_scale(from_bits(block_max<8>(top, scratch)));
  row_f16([=](u32 i) { return four(from, i, k); }, s, xh + row * k, xs + row, k);
}
RF_REGISTER(quantize_f16)

// What a row is multiplied with: 1 / sqrt(mean of squares + eps).
RF_DEV float rms_factor(float squares, u32 k, float eps) { return rf_rsqrt(squares / (float)k + eps); }
RF_DEV float squares_of(f4 v) { return v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3]; }

RF_KERNEL RF_BOUNDS(256) void norm_rms_q8(const float* x, const float* w, float* out, i8* xq, f2* xd, u32 k, float eps) {
  RF_SHARED(float, scratch, 8);
  const u64 row = bid_x();
  const float* from = x + row * k;
  float squares = 0.f;
  for (u32 i = tid_x() * 4; i < k; i += 1024) squares += squares_of(four(from, i, k));
  const float f = rms_factor(block_sum<8>(squares, scratch), k, eps);
  float* to = out ? out + row * k : nullptr;
  row_q8(
      [=](u32 i) {
        const f4 v = four(from, i, k) * f * four(w, i, k);
        if (to) put_four(to, i, k, v);
        return v;
      },
      xq + row * k, xd + row * (k / 32), k);
}
RF_REGISTER(norm_rms_q8)

RF_KERNEL RF_BOUNDS(256) void norm_rms_f16(const float* x, const float* w, float* out, f16* xh, float* xs, u32 k, float eps) {
  RF_SHARED(float, sums, 8);
  RF_SHARED(u32, tops, 8);
  const u64 row = bid_x();
  const float* from = x + row * k;
  float squares = 0.f;
  u32 top = 0;
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 v = four(from, i, k);
    squares += squares_of(v);
    top = __builtin_elementwise_max(top, top_of(v * four(w, i, k)));
  }
  const float f = rms_factor(block_sum<8>(squares, sums), k, eps);
  const F16Scale s = f16_scale(from_bits(block_max<8>(top, tops)) * f);
  float* to = out ? out + row * k : nullptr;
  row_f16(
      [=](u32 i) {
        const f4 v = four(from, i, k) * f * four(w, i, k);
        if (to) put_four(to, i, k, v);
        return v;
      },
      s, xh + row * k, xs + row, k);
}
RF_REGISTER(norm_rms_f16)
