// Element-wise work on rows, and the choice of rows.
#include "prelude.h"

// out = a + b; out may be a. Grid (n / 1024, rounded up), as below.
RF_KERNEL RF_BOUNDS(256) void add_rows(const float* a, const float* b, float* out, u32 n) {
  each_element(n, [&](u32 i) { out[i] = a[i] + b[i]; });
}
RF_REGISTER(add_rows)

// x *= factor.
RF_KERNEL RF_BOUNDS(256) void scale_rows(float* x, float factor, u32 n) {
  each_element(n, [&](u32 i) { x[i] *= factor; });
}
RF_REGISTER(scale_rows)

// x = cap * tanh(x / cap).
RF_KERNEL RF_BOUNDS(256) void softcap_rows(float* x, float cap, u32 n) {
  const float inverse = 1.f / cap;
  each_element(n, [&](u32 i) { x[i] = cap * rf_tanh(x[i] * inverse); });
}
RF_REGISTER(softcap_rows)

// Row outputs[i] of x becomes row i of out. Grid (n_outputs).
RF_KERNEL RF_BOUNDS(256) void select_rows(const float* x, const u32* outputs, float* out, u32 width) {
  const float* from = x + (u64)outputs[bid_x()] * width;
  float* to = out + (u64)bid_x() * width;
  for (u32 i = tid_x(); i < width; i += 256) to[i] = from[i];
}
RF_REGISTER(select_rows)
