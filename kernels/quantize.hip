// Activations in the formats that products read: q8 for gemv, rows of f16 with a scale for gemm (both defined in
// prelude.h). A block converts one row. norm.hip does the same right after a norm.
#include "quant/words.h"

// Elements first .. first + 3 of a row of k, zeros behind its end. The row may start at any float.
RF_DEV f4 four(const float* x, u32 first, u32 k) {
  if (first + 4 <= k) return __builtin_bit_cast(f4, words<4, 4>((const u8*)(x + first)));
  f4 v = {0, 0, 0, 0};
#pragma unroll
  for (u32 j = 0; j < 4; j++)
    if (first + j < k) v[j] = x[first + j];
  return v;
}

RF_KERNEL RF_BOUNDS(256) void quantize_q8(const float* x, i8* xq, f2* xd, u32 k) {
  const u64 row = bid_x();
  // k is a multiple of 32: the eight lanes of a q8 block stay together.
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const Q8 v = q8_quantize(four(x + row * k, i, k));
    *(u32*)(xq + row * k + i) = v.q;
    if (i % 32 == 0) xd[row * (k / 32) + i / 32] = f2{v.d, v.s};
  }
}
RF_REGISTER(quantize_q8)

RF_KERNEL RF_BOUNDS(256) void quantize_f16(const float* x, f16* xh, float* xs, u32 k) {
  RF_SHARED(u32, scratch, 8);
  const u64 row = bid_x();
  u32 top = 0;  // of the bits, where a NaN is above all
  for (u32 i = tid_x() * 4; i < k; i += 1024) {
    const f4 v = four(x + row * k, i, k);
#pragma unroll
    for (u32 j = 0; j < 4; j++) top = __builtin_elementwise_max(top, bits(rf_abs(v[j])));
  }
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
