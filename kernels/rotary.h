// Rotary position embedding (Su et al. 2021): the turn of a pair of elements at a position.
#pragma once
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

// Sine and cosine of the turn of a pair with `frequency` (turns a position, an f32 and its rest), times `mscale`.
RF_DEV f2 turn_at(f2 frequency, float position, float mscale) {
  return sin_cos(fraction(frequency, position)) * mscale;
}

// The elements of pair i of a head. pairs = 0: (i, i + n_rot/2), 1: (2i, 2i + 1).
RF_DEV u2 pair_at(u32 i, u32 n_rot, u32 pairs) {
  const u32 a = pairs ? 2 * i : i;
  return (u2){a, pairs ? a + 1 : a + n_rot / 2};
}

RF_DEV f2 turned(float u, float v, f2 turn) {
  return (f2){rf_fma(u, turn[1], -(v * turn[0])), rf_fma(u, turn[0], v * turn[1])};
}
