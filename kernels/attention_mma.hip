// Prefill attention over a cache in f16 or q8_0 on the matrix unit: an online softmax like attention.hip's, for
// 16 neighbouring tokens of a span and one head. Each wave takes every WAVES-th block of 32 keys, and
// what they have is joined at the end.
//
// For heads whose sizes are multiples of 16. Queries and probabilities are f16 here, and what codes
// stand for; sums are f32.
#include "kv_q8_0.h"

#define WAVES (128 / RF_WAVE)
// Lanes that share a row of scores, and keys that each of them has.
#define PER_ROW (RF_WAVE / 16)
#define KEYS (32 / PER_ROW)
// Distances of rows in LDS: a multiple of 16 bytes and some banks apart.
#define SCORES_LD 36
#define WEIGHTS_LD 40
#define VALUES_LD 40
#define KEYS_LD 72

template <u32 D> struct Memory {
  f16* queries;    // [16][D + 8]
  float* scores;   // the wave's: [16][SCORES_LD]
  f16* weights;    // the wave's: [16][WEIGHTS_LD]
  f16* values;     // the wave's: [64][VALUES_LD], transposed: a row is one element of 32 keys; before that
                   // keys in q8_0: [32][KEYS_LD], 64 elements of each
  float* shrinks;  // the wave's: [16]
};

// Elements at .. at + 7 of a row of a head, which is what codes stand for.
RF_DEV h8 eight(const f16* head, u32 dim, u32 row, u32 at) { return *(const h8*)(head + row * dim + at); }
RF_DEV h8 eight(const Code* head, u32 dim, u32 row, u32 at) {
  const f16* scales = (const f16*)(head + 32 * dim) + at / 32 * 32;
  return halves(*(const u2*)(head + row * dim + at), scales[row]);
}

// Elements from .. from + 63 of a block's 32 keys in q8_0.
RF_DEV void load_keys(const Code* head, u32 dim, u32 from, f16* to) {
#pragma unroll 2
  for (u32 n = 0; n < 256 / RF_WAVE; n++) {
    const u32 i = n * RF_WAVE + wave_lane(), key = i / 8, at = i % 8 * 8;
    if (from + at < dim) *(h8*)(to + key * KEYS_LD + at) = eight(head, dim, key, from + at);
  }
}

// Values 64 c .. 64 c + 63 of a block's keys up to `hi`, transposed; zeros for later keys, whose
// memory is undefined.
template <class T> RF_DEV void load_values(const T* v, u32 dim, u32 c, u32 hi, f16* to) {
  const u32 key = wave_lane() % 16 * 2;
#pragma unroll
  for (u32 n = 0; n < 8 / PER_ROW; n++) {
    const u32 i = n * PER_ROW + wave_lane() / 16;
    u32 at = c * 64 + i * 8;
    // Nobody looks at what is behind the end. Branches take scalar registers, of which a wave64 needs more; clamps
    // take vector registers, of which a wave32 has fewer.
    if (CODED<T> && RF_WAVE == 64) at = at < dim ? at : 0;
    else if (at >= dim) continue;
    const h8 zero = (h8)((f16)0.f);
    const h8 a = key <= hi ? eight(v, dim, key, at) : zero;
    const h8 b = key < hi ? eight(v, dim, key + 1, at) : zero;
#pragma unroll
    for (u32 j = 0; j < 8; j++) *(h2*)(to + (i * 8 + j) * VALUES_LD + key) = (h2){a[j], b[j]};
  }
}

// Adds block b to the wave's rows.
template <class T, u32 D>
RF_DEV void attend_block(const Layer& layer, const Memory<D>& m, u32 b, u32 position, u32 last, float& top, float& sum,
                         Acc* acc) {
  const u64 block = layer.table[b];
  const T* k = global_at<const T>(block + layer.off_k);
  const T* v = global_at<const T>(block + layer.off_v);
  Acc s[2] = {tile_zero(), tile_zero()};
  const auto multiply = [&](const f16* keys, u32 ld, u32 d) {
    const TileA q = tile_load_a(m.queries + d, D + 8);
#pragma unroll
    for (u32 t = 0; t < 2; t++) s[t] = tile_mma(q, tile_load_b(keys + t * 16 * ld, ld), s[t]);
  };
  if constexpr (CODED<T>) {
    for (u32 from = 0; from < layer.head_dim; from += 64) {
      load_keys(k, layer.head_dim, from, m.values);
      wave_sync();
      for (u32 d = from; d < layer.head_dim && d < from + 64; d += 16) multiply(m.values + (d - from), KEYS_LD, d);
      wave_sync();
    }
  } else {
    for (u32 d = 0; d < layer.head_dim; d += 16) multiply(k + d, layer.head_dim, d);
  }
#pragma unroll
  for (u32 t = 0; t < 2; t++)
#pragma unroll
    for (u32 i = 0; i < TILE_ACC; i++) m.scores[tile_row(i) * SCORES_LD + t * 16 + tile_col(i)] = s[t][i];
  wave_sync();

  const u32 row = wave_lane() / PER_ROW, part = wave_lane() % PER_ROW * KEYS,
            from = first_visible(position, layer.window);
  float x[KEYS];
  float best = -RF_INF;
#pragma unroll
  for (u32 j = 0; j < KEYS; j++) {
    x[j] = m.scores[row * SCORES_LD + part + j];
    if (layer.softcap != 0.f) x[j] = layer.softcap * rf_tanh(x[j] / layer.softcap);
    const u32 key = b * 32 + part + j;
    if (key > position || key < from) x[j] = -RF_INF;
    best = rf_max(best, x[j]);
  }
  best = rf_max(top, team_max<PER_ROW>(best));
  // A row that has seen nothing yet has -inf everywhere.
  const float base = best == -RF_INF ? 0.f : best, shrink = rf_exp2(top - base);
  top = best;
  sum *= shrink;
#pragma unroll
  for (u32 j = 0; j < KEYS; j += 8) {
    h8 w;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      w[i] = (f16)rf_exp2(x[j + i] - base);
      sum += (float)w[i];
    }
    *(h8*)(m.weights + row * WEIGHTS_LD + part + j) = w;
  }
  if (part == 0) m.shrinks[row] = shrink;
  wave_sync();

  const u32 hi = last - b * 32 < 31 ? last - b * 32 : 31;
  float shrinks[TILE_ACC];
#pragma unroll
  for (u32 i = 0; i < TILE_ACC; i++) shrinks[i] = m.shrinks[tile_row(i)];
#pragma unroll
  for (u32 c = 0; c < D / 64; c++) {
    if (c * 64 < layer.head_dim_v) {
      load_values(v, layer.head_dim_v, c, hi, m.values);
      wave_sync();
#pragma unroll
      for (u32 k = 0; k < 32; k += 16) {
        const TileA w = tile_load_a(m.weights + k, WEIGHTS_LD);
#pragma unroll
        for (u32 t = 0; t < 4; t++)
          if (c * 64 + t * 16 < layer.head_dim_v) {
            Acc& a = acc[c * 4 + t];
#pragma unroll
            for (u32 i = 0; i < TILE_ACC; i++) a[i] *= k ? 1.f : shrinks[i];
            a = tile_mma(w, tile_load_b(m.values + t * 16 * VALUES_LD + k, VALUES_LD), a);
          }
      }
      wave_sync();
    }
  }
}

template <class T, u32 D>
RF_DEV void attend(const float* q, float* out, const Span* spans, const u2* tiles, const u64* tables, u32 off_k,
                   u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, u32 head_dim_v, float scale, u32 window,
                   float softcap) {
  RF_SHARED(h8, queries, 16 * (D + 8) / 8);
  RF_SHARED(f4, scores, WAVES * 16 * SCORES_LD / 4);
  RF_SHARED(h8, weights, WAVES * 16 * WEIGHTS_LD / 8);
  RF_SHARED(h8, values, WAVES * 64 * VALUES_LD / 8);
  RF_SHARED(float, shrinks, WAVES * 16);
  RF_SHARED(float, tops, WAVES * 16);
  RF_SHARED(float, sums, WAVES * 16);
  const u2 where = tiles[bid_x()];
  const Span span = spans[where[0]];
  const u32 first = where[1], head = bid_y(), n = span.len - first < 16 ? span.len - first : 16;
  const Layer layer =
      layer_of<T>(span, tables, off_k, off_v, head / (n_head / n_head_kv), head_dim, head_dim_v, window, softcap);
  const u64 start = (u64)(span.start + first) * n_head + head;
  const Memory<D> m = {(f16*)queries, (float*)scores + wave() * 16 * SCORES_LD,
                       (f16*)weights + wave() * 16 * WEIGHTS_LD, (f16*)values + wave() * 64 * VALUES_LD,
                       shrinks + wave() * 16};

  // Rows behind the span's end repeat its last token.
  const u32 token = tid_x() / 8 < n ? tid_x() / 8 : n - 1;
  for (u32 i = tid_x() % 8 * 2; i < head_dim; i += 16) {
    const f2 x = *(const f2*)(q + (start + (u64)token * n_head) * head_dim + i) * (scale * RF_LOG2E);
    *(h2*)(m.queries + tid_x() / 8 * (D + 8) + i) = (h2){(f16)x[0], (f16)x[1]};
  }
  barrier();

  const u32 row = wave_lane() / PER_ROW, last = span.pos + first + n - 1;
  const u32 position = span.pos + first + (row < n ? row : n - 1);
  float top = -RF_INF, sum = 0.f;
  Acc acc[D / 16];
#pragma unroll
  for (u32 i = 0; i < D / 16; i++) acc[i] = tile_zero();
  for (u32 b = first_visible(span.pos + first, window) / 32 + wave(); b <= last / 32; b += WAVES)
    attend_block<T, D>(layer, m, b, position, last, top, sum, acc);

  sum = team_sum<PER_ROW>(sum);
  if (wave_lane() % PER_ROW == 0) tops[wave() * 16 + row] = top, sums[wave() * 16 + row] = sum;
  barrier();
  // What this wave's rows count for in the whole.
  float share[TILE_ACC];
#pragma unroll
  for (u32 i = 0; i < TILE_ACC; i++) {
    const u32 r = tile_row(i);
    float best = -RF_INF, total = 0.f;
#pragma unroll
    for (u32 w = 0; w < WAVES; w++) best = rf_max(best, tops[w * 16 + r]);
#pragma unroll
    for (u32 w = 0; w < WAVES; w++) total = rf_fma(sums[w * 16 + r], rf_exp2(tops[w * 16 + r] - best), total);
    share[i] = rf_exp2(tops[wave() * 16 + r] - best) / total;
  }
#pragma unroll
  for (u32 t = 0; t < D / 16; t++) {
    if (t * 16 < head_dim_v) {
#pragma unroll
      for (u32 i = 0; i < TILE_ACC; i++) m.scores[tile_row(i) * SCORES_LD + tile_col(i)] = acc[t][i] * share[i];
      barrier();
#pragma unroll
      for (u32 e = 0; e < 2; e++) {
        const u32 r = tid_x() / 16 + 8 * e, c = tid_x() % 16;
        float x = 0.f;
#pragma unroll
        for (u32 w = 0; w < WAVES; w++) x += ((float*)scores)[(w * 16 + r) * SCORES_LD + c];
        if (r < n) out[(start + (u64)r * n_head) * head_dim_v + t * 16 + c] = x;
      }
      barrier();
    }
  }
}

// Arguments and grid of attend_tile.
#define ATTEND_MMA(name, T, D)                                                                                         \
  RF_KERNEL RF_BOUNDS(128) void name(const float* q, float* out, const Span* spans, const u2* tiles,                   \
                                     const u64* tables, u32 off_k, u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, \
                                     u32 head_dim_v, float scale, u32 window, float softcap) {                         \
    attend<T, D>(q, out, spans, tiles, tables, off_k, off_v, n_head, n_head_kv, head_dim, head_dim_v, scale, window,   \
                 softcap);                                                                                             \
  }                                                                                                                    \
  RF_REGISTER(name)
ATTEND_MMA(attend_mma_64, f16, 64)
ATTEND_MMA(attend_mma_128, f16, 128)
ATTEND_MMA(attend_mma_q8_0_64, Code, 64)
ATTEND_MMA(attend_mma_q8_0_128, Code, 128)
// Without a matrix unit these do not fit into the registers: attend_tile it is there.
#if !defined(__GFX10__)
ATTEND_MMA(attend_mma_256, f16, 256)
ATTEND_MMA(attend_mma_q8_0_256, Code, 256)
#endif
