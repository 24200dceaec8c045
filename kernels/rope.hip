// Rotary position embedding (Su et al. 2021) of the heads of a matrix: in place, or on the way to the cache.
#include "kv_q8_0.h"
#include "rotary.h"

// Rotates a head: `to` may be `from`.
template <class T>
RF_DEV void rotate(const float* from, T* to, float position, const f2* freqs, u32 n_rot, u32 pairs, float mscale) {
  for (u32 i = tid_x(); i < n_rot / 2; i += 64) {
    const u2 at = pair_at(i, n_rot, pairs);
    const f2 y = turned(from[at[0]], from[at[1]], turn_at(freqs[i], position, mscale));
    to[at[0]] = (T)y[0], to[at[1]] = (T)y[1];
  }
}

// x: [n_tokens][n_head][head_dim]; freqs: [n_rot / 2] turns a position. Positions are below 2^24.
// Grid (n_tokens, n_head).
RF_KERNEL RF_BOUNDS(64) void rope(float* x, const u32* positions, const f2* freqs, u32 head_dim, u32 n_rot, u32 n_head,
                                  u32 pairs, float mscale) {
  float* head = x + ((u64)bid_x() * n_head + bid_y()) * head_dim;
  rotate(head, head, (float)positions[bid_x()], freqs, n_rot, pairs, mscale);
}
RF_REGISTER(rope)

// Element e of a head as `rotate` leaves it.
RF_DEV float rotated(const float* from, u32 e, float position, const f2* freqs, u32 n_rot, u32 pairs, float mscale) {
  if (e >= n_rot) return from[e];
  const u32 half = n_rot / 2, i = pairs ? e / 2 : e < half ? e : e - half;
  const u32 a = pairs ? 2 * i : i, b = pairs ? a + 1 : a + half;
  const f2 turn = sin_cos(fraction(freqs[i], position)) * mscale;
  const float u = from[a], v = from[b];
  return e == a ? rf_fma(u, turn[1], -(v * turn[0])) : rf_fma(u, turn[0], v * turn[1]);
}

// Writes a head of a cache in q8_0, four elements f(j) .. f(j + 3) a thread. Teams stay together, as
// q8_quantize needs: lanes behind the end have zeros.
template <class F> RF_DEV void put_head(u64 head, u32 dim, u32 at, F f) {
  for (u32 start = 0; start < dim; start += 256) {
    const u32 j = start + tid_x() * 4;
    f4 x = {0.f, 0.f, 0.f, 0.f};
    if (j < dim) {
#pragma unroll
      for (u32 n = 0; n < 4; n++) x[n] = f(j + n);
    }
    const Q8 q = q8_quantize(x);
    if (j < dim) put_codes(q, head, dim, at, j);
  }
}

// Queries in place; keys and values to the cache, as store.hip does it, keys rotated on the way.
// Grid (n_tokens, n_head + 2 n_head_kv): a block a head.
template <class T>
RF_DEV void rope_store(float* q, const float* k, const float* v, const u32* positions, const f2* freqs,
                       const u64* slots, u32 off_k, u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, u32 head_dim_v,
                       u32 n_rot, u32 pairs, float mscale) {
  const u64 token = bid_x();
  const u32 position = positions[token], at = position % 32;
  u32 head = bid_y();
  if (head < n_head) {
    float* own = q + (token * n_head + head) * head_dim;
    return rotate(own, own, (float)position, freqs, n_rot, pairs, mscale);
  }
  head -= n_head;
  const u64 block = slots[token];
  if (head < n_head_kv) {
    const float* from = k + (token * n_head_kv + head) * head_dim;
    if constexpr (CODED<T>) {
      put_head(block + off_k + head * head_dim * HEAD_BYTES<T>, head_dim, at,
               [&](u32 j) { return rotated(from, j, (float)position, freqs, n_rot, pairs, mscale); });
    } else {
      T* to = global_at<T>(block + off_k) + (head * 32 + at) * head_dim;
      rotate(from, to, (float)position, freqs, n_rot, pairs, mscale);
      for (u32 i = n_rot + tid_x(); i < head_dim; i += 64) to[i] = (T)from[i];
    }
  } else {
    head -= n_head_kv;
    const float* from = v + (token * n_head_kv + head) * head_dim_v;
    if constexpr (CODED<T>) {
      put_head(block + off_v + head * head_dim_v * HEAD_BYTES<T>, head_dim_v, at, [&](u32 j) { return from[j]; });
    } else {
      T* to = global_at<T>(block + off_v) + (head * 32 + at) * head_dim_v;
      for (u32 i = tid_x(); i < head_dim_v; i += 64) to[i] = (T)from[i];
    }
  }
}

#define ROPE_STORE(name, T)                                                                                           \
  RF_KERNEL RF_BOUNDS(64) void name(float* q, const float* k, const float* v, const u32* positions, const f2* freqs,  \
                                    const u64* slots, u32 off_k, u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, \
                                    u32 head_dim_v, u32 n_rot, u32 pairs, float mscale) {                             \
    rope_store<T>(q, k, v, positions, freqs, slots, off_k, off_v, n_head, n_head_kv, head_dim, head_dim_v, n_rot,     \
                  pairs, mscale);                                                                                     \
  }                                                                                                                   \
  RF_REGISTER(name)
ROPE_STORE(rope_store_f16, f16)
ROPE_STORE(rope_store_f32, float)
ROPE_STORE(rope_store_q8_0, Code)
