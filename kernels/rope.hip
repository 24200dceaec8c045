// Rotary position embedding (Su et al. 2021) of the heads of a matrix, in place.
#include "prelude.h"

// Sine and cosine of `turns` revolutions, |turns| at most about one: an eighth of a turn around the
// nearest quarter, by series that are exact to f32 there. The sine instructions lose 10 bits.
RF_DEV f2 sin_cos(float turns) {
  const float quarter = rf_round(turns * 4.f);
  const float a = rf_fma(quarter, -0.25f, turns) * 6.283185307f, s = a * a;
  const float sine =
      a * rf_fma(s, rf_fma(s, rf_fma(s, rf_fma(s, 1.f / 362880.f, -1.f / 5040.f), 1.f / 120.f), -1.f / 6.f), 1.f);
  const float cosine = rf_fma(s, rf_fma(s, rf_fma(s, rf_fma(s, 1.f / 40320.f, -1.f / 720.f), 1.f / 24.f), -0.5f), 1.f);
  const i32 q = (i32)quarter;
  const float x = q & 1 ? cosine : sine, y = q & 1 ? sine : cosine;
  return (f2){q & 2 ? -x : x, (q + 1) & 2 ? -y : y};
}

// Turns of `position` at a frequency that is the sum of an f32 and its rest, less whole ones. At
// position 100,000 an f32 alone would be off by a hundredth of a turn.
RF_DEV float fraction(f2 frequency, float position) {
  const float product = rounded(frequency[0] * position);
  const float rest = rf_fma(frequency[0], position, -product);
  return (product - rf_round(product)) + rf_fma(frequency[1], position, rest);
}

// x: [n_tokens][n_head][head_dim]; freqs: [n_rot / 2] turns a position; pairs = 0: (i, i + n_rot/2),
// 1: (2i, 2i + 1). Positions are below 2^24. Grid (n_tokens, n_head).
RF_KERNEL RF_BOUNDS(64) void rope(float* x, const u32* positions, const f2* freqs, u32 head_dim, u32 n_rot, u32 n_head,
                                  u32 pairs, float mscale) {
  const float position = (float)positions[bid_x()];
  float* head = x + ((u64)bid_x() * n_head + bid_y()) * head_dim;
  const u32 half = n_rot / 2;
  for (u32 i = tid_x(); i < half; i += 64) {
    const f2 turn = sin_cos(fraction(freqs[i], position)) * mscale;
    float* a = head + (pairs ? 2 * i : i);
    float* b = pairs ? a + 1 : a + half;
    const float u = *a, v = *b;
    *a = rf_fma(u, turn[1], -(v * turn[0]));
    *b = rf_fma(u, turn[0], v * turn[1]);
  }
}
RF_REGISTER(rope)
