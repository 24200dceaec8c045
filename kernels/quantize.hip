// Activations in the formats that products read: q8 for gemv, rows of f16 with a scale for gemm (both defined in
// prelude.h), alone or right after the RMS norm that most products follow. A block converts one row.
#include "quant/words.h"

// Elements first .. first + 3 of a row of k, zeros behind its end. The row may start at any float, but rows of whole
// groups of 32 start on 16 bytes.
RF_DEV f4 whole_four(const float* x, u32 first, u32 k) { return first < k ? *(const f4*)(x + first) : (f4)(0.f); }
RF_DEV f4 four(const float* x, u32 first, u32 k) {
  if (first + 4 <= k) return __builtin_bit_cast(f4, words<4, 4>((const u8*)(x + first)));
  f4 v = {0, 0, 0, 0};
#pragma unroll
  for (u32 j = 0; j < 4; j++)
    if (first + j < k) v[j] = x[first + j];
  return v;
}
// The larger of `top` and the magnitudes of v as bits, where a NaN is above all.
RF_DEV u32 top_of(f4 v, u32 top) {
#pragma unroll
  for (u32 j = 0; j < 4; j++) top = __builtin_elementwise_max(top, bits(rf_abs(v[j])));
  return top;
}
// Elements i .. i + 3 of a row of k, a multiple of 32.
RF_DEV void put_q8(Q8 v, i8* xq, f2* xd, u32 i, u32 k) {
  if (i >= k) return;
  *(u32*)(xq + i) = v.q;
  if (i % 32 == 0) xd[i / 32] = f2{v.d, v.s};
}

// Grid (rows, k / 1024, rounded up): long rows are shared, since a block would wait for memory again and again.
RF_KERNEL RF_BOUNDS(256) void quantize_q8(const float* x, i8* xq, f2* xd, u32 k) {
  const u64 row = bid_x();
  // Teams stay together, as q8_quantize needs: lanes behind the end have zeros.
  const u32 i = bid_y() * 1024 + tid_x() * 4;
  put_q8(q8_quantize(whole_four(x + row * k, i, k)), xq + row * k, xd + row * (k / 32), i, k);
}
RF_REGISTER(quantize_q8)

RF_KERNEL RF_BOUNDS(256) void quantize_f16(const float* x, f16* xh, float* xs, u32 k) {
  RF_SHARED(u32, scratch, 8);
  const u64 row = bid_x();
  u32 top = 0;
  for (u32 i = tid_x() * 4; i < k; i += 1024) top = top_of(four(x + row * k, i, k), top);
  const F16Scale s = f16_scale(from_bits(block_max<8>(top, scratch)));
  if (tid_x() == 0) xs[row] = s.scale;
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 v = four(x + row * k, i, k);
#pragma unroll
    for (u32 j = 0; j < 4; j++)
      if (i + j < k) xh[row * k + i + j] = (f16)(v[j] * s.inverse);
  }
}
RF_REGISTER(quantize_f16)

// RMS norm (Zhang & Sennrich 2019: x / sqrt(mean(x^2) + eps) * w) and the same conversions; `out`, if asked for,
// gets the normed row in f32.
RF_DEV float squares(f4 v) { return v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3]; }
RF_DEV f4 weighted(f4 v, const float* w, u32 i, u32 k) { return w ? v * four(w, i, k) : v; }

RF_KERNEL RF_BOUNDS(256) void norm_rms_q8(const float* x, const float* w, float* out, i8* xq, f2* xd, u32 k,
                                          float eps) {
  RF_SHARED(float, scratch, 8);
  const u64 row = bid_x();
  // A strip's loads are on their way together; a row of one strip is read once.
  constexpr u32 STRIP = 4096;
  f4 v[4], factors[4];
  const auto load = [&](u32 base) {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      const u32 i = base + j * 1024 + tid_x() * 4;
      v[j] = whole_four(x + row * k, i, k);
      factors[j] = w ? whole_four(w, i, k) : (f4)(1.f);
    }
  };
  float sum = 0.f;
#pragma unroll 1
  for (u32 base = 0; base < k; base += STRIP) {
    load(base);
#pragma unroll
    for (u32 j = 0; j < 4; j++) sum += squares(v[j]);
  }
  const float factor = rf_rsqrt(block_sum<8>(sum, scratch) / (float)k + eps);
#pragma unroll 1
  for (u32 base = 0; base < k; base += STRIP) {
    if (k > STRIP) load(base);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      // Teams stay together here, too.
      const u32 i = base + j * 1024 + tid_x() * 4;
      if (base + j * 1024 + team() * 128 >= k) break;
      const f4 y = v[j] * factor * factors[j];
      if (out && i < k) {
#pragma unroll
        for (u32 n = 0; n < 4; n++) out[row * k + i + n] = y[n];
      }
      put_q8(q8_quantize(y), xq + row * k, xd + row * (k / 32), i, k);
    }
  }
}
RF_REGISTER(norm_rms_q8)

RF_KERNEL RF_BOUNDS(256) void norm_rms_f16(const float* x, const float* w, float* out, f16* xh, float* xs, u32 k,
                                           float eps) {
  RF_SHARED(float, sums, 8);
  RF_SHARED(u32, tops, 8);
  const u64 row = bid_x();
  float sum = 0.f;
  u32 top = 0;
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 v = four(x + row * k, i, k);
    sum += squares(v);
    top = top_of(weighted(v, w, i, k), top);
  }
  const float factor = rf_rsqrt(block_sum<8>(sum, sums) / (float)k + eps);
  const F16Scale s = f16_scale(from_bits(block_max<8>(top, tops)) * factor);
  if (tid_x() == 0) xs[row] = s.scale;
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 y = weighted(four(x + row * k, i, k) * factor, w, i, k);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      if (i + j >= k) continue;
      if (out) out[row * k + i + j] = y[j];
      xh[row * k + i + j] = (f16)(y[j] * s.inverse);
    }
  }
}
RF_REGISTER(norm_rms_f16)
