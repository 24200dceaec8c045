// Normalization of rows and heads; quantize.hip has it fused with the conversion for a product.
// A group is what is normalized together; weight and bias repeat for each group.
//
// In place is allowed: a thread writes only elements that it alone reads.
#include "prelude.h"

RF_DEV f4 load4(const float* p, u32 i) { return *(const f4*)(p + i); }
RF_DEV float sum4(f4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }
// Rows start on 16 bytes then.
RF_DEV bool by_fours(u32 n) { return n % 4 == 0; }

// The sum over the threads of a group: a team, or a block of more.
template <u32 TEAMS> RF_DEV float group_sum(float v, float* scratch) {
  if constexpr (TEAMS == 1) return team_sum(v);
  else return block_sum<TEAMS>(v, scratch);
}

// Sum of (x - shift)^2, or of x with SQUARE false, by 32 * TEAMS threads.
template <u32 TEAMS, bool SQUARE> RF_DEV float moment(const float* x, u32 n, u32 thread, float shift, float* scratch) {
  f4 s = (f4)(0.f);
  if (by_fours(n)) {
    for (u32 i = thread * 4; i < n; i += TEAMS * 128) {
      const f4 v = load4(x, i) - shift;
      s += SQUARE ? v * v : v;
    }
  } else {
    for (u32 i = thread; i < n; i += TEAMS * 32) {
      const float v = x[i] - shift;
      s[0] += SQUARE ? v * v : v;
    }
  }
  return group_sum<TEAMS>(sum4(s), scratch);
}

// out = (x - shift) * factor * w + b; w and b may be null.
template <u32 TEAMS>
RF_DEV void apply(const float* x, const float* w, const float* b, float* out, u32 n, u32 thread, float shift,
                  float factor) {
  if (by_fours(n)) {
    for (u32 i = thread * 4; i < n; i += TEAMS * 128) {
      f4 v = (load4(x, i) - shift) * factor;
      if (w) v *= load4(w, i);
      if (b) v += load4(b, i);
      *(f4*)(out + i) = v;
    }
  } else {
    for (u32 i = thread; i < n; i += TEAMS * 32) {
      float v = (x[i] - shift) * factor;
      if (w) v *= w[i];
      if (b) v += b[i];
      out[i] = v;
    }
  }
}

// x / sqrt(mean(x^2) + eps) * w (Zhang & Sennrich 2019).
template <u32 TEAMS>
RF_DEV void rms(const float* x, const float* w, const float* b, float* out, u32 n, u32 thread, float eps,
                float* scratch) {
  const float s = moment<TEAMS, true>(x, n, thread, 0.f, scratch);
  apply<TEAMS>(x, w, b, out, n, thread, 0.f, rf_rsqrt(s / (float)n + eps));
}

// (x - mean) / sqrt(var + eps) * w + b (Ba et al. 2016). The variance is of the differences: with
// E[x^2] - mean^2 it would cancel.
template <u32 TEAMS>
RF_DEV void layer(const float* x, const float* w, const float* b, float* out, u32 n, u32 thread, float eps,
                  float* scratch) {
  const float mean = moment<TEAMS, false>(x, n, thread, 0.f, scratch) / (float)n;
  const float s = moment<TEAMS, true>(x, n, thread, mean, scratch + TEAMS);
  apply<TEAMS>(x, w, b, out, n, thread, mean, rf_rsqrt(s / (float)n + eps));
}

// A block a group: grid (n_groups).
RF_KERNEL RF_BOUNDS(256) void norm_rms(const float* x, const float* w, const float* b, float* out, u32 group, u32, u32,
                                       float eps) {
  RF_SHARED(float, scratch, 8);
  const u64 at = (u64)bid_x() * group;
  rms<8>(x + at, w, b, out + at, group, tid_x(), eps, scratch);
}
RF_REGISTER(norm_rms)

RF_KERNEL RF_BOUNDS(256) void norm_layer(const float* x, const float* w, const float* b, float* out, u32 group, u32,
                                         u32, float eps) {
  RF_SHARED(float, scratch, 16);
  const u64 at = (u64)bid_x() * group;
  layer<8>(x + at, w, b, out + at, group, tid_x(), eps, scratch);
}
RF_REGISTER(norm_layer)

// A team a group, for heads and narrow rows: grid (n_groups / 4, rounded up).
RF_KERNEL RF_BOUNDS(128) void norm_rms_team(const float* x, const float* w, const float* b, float* out, u32 group, u32,
                                            u32 n_groups, float eps) {
  const u32 g = bid_x() * 4 + team();
  if (g >= n_groups) return;
  const u64 at = (u64)g * group;
  rms<1>(x + at, w, b, out + at, group, lane(), eps, nullptr);
}
RF_REGISTER(norm_rms_team)

RF_KERNEL RF_BOUNDS(128) void norm_layer_team(const float* x, const float* w, const float* b, float* out, u32 group,
                                              u32, u32 n_groups, float eps) {
  const u32 g = bid_x() * 4 + team();
  if (g >= n_groups) return;
  const u64 at = (u64)g * group;
  layer<1>(x + at, w, b, out + at, group, lane(), eps, nullptr);
}
RF_REGISTER(norm_layer_team)
