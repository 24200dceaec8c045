// Appends keys and values of a step's tokens to the paged cache.
//
// A block holds 32 tokens of all layers of a group; of each layer first the keys, [n_head_kv][32]
// [head_dim], then the values, [n_head_kv][32][head_dim_v]; in q8_0 each head as in kv_q8_0.h.
#include "kv_q8_0.h"

// Two neighbours of a row of n_head * dim (dim is even) at a time.
template <class T> RF_DEV void put(const float* row, u64 block, u32 off, u32 at, u32 n_head, u32 dim) {
  typedef RF_VECTOR(T, 2) Pair;
  T* to = global_at<T>(block + off);
  for (u32 i = tid_x() * 2; i < n_head * dim; i += 512) {
    const u32 head = i / dim, j = i % dim;
    *(Pair*)(to + (head * 32 + at) * dim + j) = (Pair){(T)row[i], (T)row[i + 1]};
  }
}

// Four neighbours at a time. Teams stay together, as q8_quantize needs: lanes behind the end have zeros.
RF_DEV void put_q8_0(const float* row, u64 block, u32 off, u32 at, u32 n_head, u32 dim) {
  const u32 n = n_head * dim;
  for (u32 start = 0; start < n; start += 1024) {
    const u32 i = start + tid_x() * 4;
    const Q8 x = q8_quantize(i < n ? *(const f4*)(row + i) : (f4)(0.f));
    const u32 head = i / dim;
    if (i < n) put_codes(x, block + off + head * dim * HEAD_BYTES<Code>, dim, at, i - head * dim);
  }
}

template <class T>
RF_DEV void store(const float* k, const float* v, const u64* slots, const u32* positions, u32 off_k, u32 off_v,
                  u32 n_head_kv, u32 head_dim, u32 head_dim_v) {
  const u32 token = bid_x(), at = positions[token] % 32;
  const u64 block = slots[token];
  k += (u64)token * n_head_kv * head_dim, v += (u64)token * n_head_kv * head_dim_v;
  if constexpr (CODED<T>) {
    put_q8_0(k, block, off_k, at, n_head_kv, head_dim);
    put_q8_0(v, block, off_v, at, n_head_kv, head_dim_v);
  } else {
    put<T>(k, block, off_k, at, n_head_kv, head_dim);
    put<T>(v, block, off_v, at, n_head_kv, head_dim_v);
  }
}

// slots: address of each token's block; off_k, off_v: bytes from there to this layer's keys and
// values. Grid (n_tokens).
#define STORE(T)                                                                                                \
  (const float* k, const float* v, const u64* slots, const u32* positions, u32 off_k, u32 off_v, u32 n_head_kv, \
   u32 head_dim, u32 head_dim_v) {                                                                              \
    store<T>(k, v, slots, positions, off_k, off_v, n_head_kv, head_dim, head_dim_v);                            \
  }
RF_KERNEL RF_BOUNDS(256) void store_f16 STORE(f16) RF_REGISTER(store_f16)
RF_KERNEL RF_BOUNDS(256) void store_f32 STORE(float) RF_REGISTER(store_f32)
RF_KERNEL RF_BOUNDS(256) void store_q8_0 STORE(Code) RF_REGISTER(store_q8_0)
