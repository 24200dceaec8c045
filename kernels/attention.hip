// Causal attention over the paged cache: an online softmax, block of 32 keys by block (Milakov &
// Gimelshein 2018; Dao et al. 2022). Prefill over f16 and q8_0 has a faster form in attention_mma.hip.
//
// A team works on one block of keys at a time for several *rows* that share a key head: query heads
// of one token in decode, neighbouring tokens of one head in prefill. For the scores a lane is a
// key, for the result it is pairs of value elements; queries and probabilities, the same for all
// lanes, come from LDS.
//
// D is the capacity for head_dim and head_dim_v, which are even; scores are in powers of two.
#include "kv_q8_0.h"

// Where pair j of a lane lies in a row of values: pairs of all lanes side by side, or in q8_0 those of a
// lane, so that it loads its codes at once and needs one scale.
template <class T, u32 D> RF_DEV u32 element(u32 j) {
  return CODED<T> ? lane() * (D / 32) + 2 * j : 2 * lane() + 64 * j;
}

// The rows of a team. A lane has the pairs `element(j)` of each row's result.
template <u32 D, u32 R> struct Rows {
  u32 position[R];    // of its token; none is below that of row 0
  float top[R];       // largest score so far
  float sum[R];       // this lane's share of the sum of exp2(score - top)
  f2 acc[R][D / 64];  // the sum of exp2(score - top) * value
};

template <u32 D, u32 R> RF_DEV void clear(Rows<D, R>& rows) {
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    rows.top[r] = -RF_INF, rows.sum[r] = 0.f;
#pragma unroll
    for (u32 j = 0; j < D / 64; j++) rows.acc[r][j] = (f2)(0.f);
  }
}

// Copies a row's query to LDS, times `scale`, by `threads` threads.
RF_DEV void load_query(const float* q, u32 dim, float scale, float* to, u32 thread, u32 threads) {
#pragma unroll 1
  for (u32 i = thread * 2; i < dim; i += threads * 2) *(f2*)(to + i) = *(const f2*)(q + i) * scale;
}

// Products of the rows' queries, D apart, with one key, N elements at once of each half of it: the halves lie
// in different lines of the cache, whose loads are to overlap.
template <class T, u32 N, u32 D, u32 R> RF_DEV void dots(const T* key, const float* q, u32 dim, float* s) {
  typedef RF_VECTOR(T, N) Piece;
  typedef RF_VECTOR(float, N) Query;
  const u32 half = dim / 2;
#pragma unroll 1
  for (u32 i = 0; i < half; i += N) {
    const Piece k[2] = {*(const Piece*)(key + i), *(const Piece*)(key + half + i)};
#pragma unroll
    for (u32 h = 0; h < 2; h++)
#pragma unroll
      for (u32 r = 0; r < R; r++) {
        const Query x = *(const Query*)(q + r * D + h * half + i);
#pragma unroll
        for (u32 j = 0; j < N; j++) s[r] = rf_fma(x[j], (float)k[h][j], s[r]);
      }
  }
}

template <class T, u32 D, u32 R> RF_DEV void scores(u64 head, const float* q, u32 dim, float* s) {
  if constexpr (CODED<T>) {
    dots_q8_0<D, R>(head, q, dim, s);
  } else {
    const T* key = global_at<const T>(head) + lane() * dim;
    if (dim % 16 == 0) dots<T, 8, D, R>(key, q, dim, s);
    else if (dim % 4 == 0) dots<T, 2, D, R>(key, q, dim, s);
    else dots<T, 1, D, R>(key, q, dim, s);
  }
}

// Values of keys first .. first + N of a block, of the pairs that a lane has.
template <class T, u32 D, u32 N> struct Values {
  typedef RF_VECTOR(T, 2) Pair;
  Pair x[N][D / 64];
};

// Those that no row sees weigh nothing, but 0 * NaN is not 0 and memory behind the last token is undefined: a
// key that is seen, lo .. hi, stands in for them.
template <class T, u32 D, u32 N>
RF_DEV void load_values(u64 head, u32 dim, u32 first, u32 lo, u32 hi, Values<T, D, N>& to) {
  const T* v = global_at<const T>(head);
#pragma unroll
  for (u32 i = 0; i < N; i++) {
    const u32 at = first + i, seen = at < lo ? lo : at > hi ? hi : at;
#pragma unroll
    for (u32 j = 0; j < D / 64; j++) {
      const u32 pair = element<T, D>(j);
      // Without a branch: lanes behind the end take what lane 0 has, and nobody looks at their result.
      to.x[i][j] = *(const typename Values<T, D, N>::Pair*)(v + seen * dim + (pair < dim ? pair : 0));
    }
  }
}

template <class T, u32 D, u32 R, u32 N>
RF_DEV void weigh(const Values<T, D, N>& values, const f4* p, u32 first, Rows<D, R>& rows) {
  static_assert(N % 4 == 0, "weights are read by fours");
#pragma unroll
  for (u32 t = 0; t < N / 4; t++)
#pragma unroll
    for (u32 r = 0; r < R; r++) {
      const f4 w = p[r * 8 + first / 4 + t];
#pragma unroll
      for (u32 j = 0; j < D / 64; j++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          rows.acc[r][j][0] = rf_fma(w[i], (float)values.x[4 * t + i][j][0], rows.acc[r][j][0]);
          rows.acc[r][j][1] = rf_fma(w[i], (float)values.x[4 * t + i][j][1], rows.acc[r][j][1]);
        }
    }
}

// In q8_0 any code is a number, and hidden keys have a scale of zero.
template <u32 D, u32 N> struct Values<Code, D, N> {
  static constexpr u32 WORDS = D < 128 ? 1 : D / 128, EIGHT = N < 8 ? N : 8;
  typedef RF_VECTOR(f16, EIGHT) Scales;
  u32 q[N][WORDS];
  Scales d[N / EIGHT];
  u32 lo, hi;
};

template <u32 D, u32 N>
RF_DEV void load_values(u64 head, u32 dim, u32 first, u32 lo, u32 hi, Values<Code, D, N>& to) {
  typedef Values<Code, D, N> V;
  // As above: lanes behind the end take what lane 0 has.
  const u32 own = element<Code, D>(0), at = own < dim ? own : 0;
#pragma unroll
  for (u32 i = 0; i < N; i++) {
    const u64 from = head + (first + i) * dim + at;
    if constexpr (D == 64) to.q[i][0] = *global_at<const u16>(from);
    else if constexpr (D == 128) to.q[i][0] = *global_at<const u32>(from);
    else {
      const u2 q = *global_at<const u2>(from);
      to.q[i][0] = q[0], to.q[i][1] = q[1];
    }
  }
  const f16* scales = scales_at(head, dim, at) + first;
#pragma unroll
  for (u32 i = 0; i < N / V::EIGHT; i++) to.d[i] = *(const typename V::Scales*)(scales + i * V::EIGHT);
  to.lo = lo, to.hi = hi;
}

template <u32 D, u32 R, u32 N>
RF_DEV void weigh(const Values<Code, D, N>& values, const f4* p, u32 first, Rows<D, R>& rows) {
  constexpr u32 EIGHT = Values<Code, D, N>::EIGHT;
#pragma unroll
  for (u32 t = 0; t < N / 4; t++) {
    f2 x[4][D / 64];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 n = 4 * t + i, at = first + n;
      const float d = at < values.lo || at > values.hi ? 0.f : (float)values.d[n / EIGHT][n % EIGHT];
#pragma unroll
      for (u32 j = 0; j < D / 64; j++) {
        const h2 pair = code_pair(values.q[n][j / 2], j % 2);
        x[i][j] = (f2){(float)pair[0], (float)pair[1]} * d;
      }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
      const f4 w = p[r * 8 + first / 4 + t];
#pragma unroll
      for (u32 j = 0; j < D / 64; j++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          rows.acc[r][j][0] = rf_fma(w[i], x[i][j][0], rows.acc[r][j][0]);
          rows.acc[r][j][1] = rf_fma(w[i], x[i][j][1], rows.acc[r][j][1]);
        }
    }
  }
}

// Adds block `b` of the cache, which lies at `block`, to the rows. In LDS: q, the rows' queries with scale and log2 e, D
// apart; p: R * 8 words, the team's own. AHEAD values are loaded before the scores are known, and at once:
// where blocks of threads are few, as in decode, waiting for memory is what takes time.
template <class T, u32 D, u32 R, u32 AHEAD>
RF_DEV void attend_block(const Layer& layer, u64 block, u32 b, const float* q, f4* p, Rows<D, R>& rows) {
  const u32 key = b * 32 + lane();
  u32 last = 0;
#pragma unroll
  for (u32 r = 0; r < R; r++) last = rows.position[r] > last ? rows.position[r] : last;
  const u32 first = first_visible(rows.position[0], layer.window);
  const u32 lo = first > b * 32 ? first - b * 32 : 0, hi = last - b * 32 < 31 ? last - b * 32 : 31;
  const u64 v = block + layer.off_v;
  Values<T, D, AHEAD> values;
  u32 at = lo / AHEAD * AHEAD;
  load_values(v, layer.head_dim_v, at, lo, hi, values);

  float s[R];
#pragma unroll
  for (u32 r = 0; r < R; r++) s[r] = 0.f;
  scores<T, D, R>(block + layer.off_k, q, layer.head_dim, s);

#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const u32 position = rows.position[r];
    float score = s[r];
    if (layer.softcap != 0.f) score = layer.softcap * rf_tanh(score / layer.softcap);
    if (key > position || key < first_visible(position, layer.window)) score = -RF_INF;
    const float top = rf_max(rows.top[r], team_max(score));
    // A row that has seen nothing yet has -inf everywhere.
    const float base = top == -RF_INF ? 0.f : top;
    const float shrink = rf_exp2(rows.top[r] - base), weight = rf_exp2(score - base);
    rows.top[r] = top;
    rows.sum[r] = rf_fma(rows.sum[r], shrink, weight);
#pragma unroll
    for (u32 j = 0; j < D / 64; j++) rows.acc[r][j] *= shrink;
    ((float*)p)[r * 32 + lane()] = weight;
  }
  team_sync();

  weigh(values, p, at, rows);
  if constexpr (AHEAD < 32) {
#pragma unroll 1
    for (at += AHEAD; at <= hi; at += AHEAD) {
      load_values(v, layer.head_dim_v, at, lo, hi, values);
      weigh(values, p, at, rows);
    }
  }
  team_sync();
}

// ---- Decode: one token a span, its keys split over blocks of threads -------------------------

// Memory of a block: up to eight rows, four teams.
template <u32 D> struct Split {
  float* queries;      // [8][D]
  f4* p;               // [4][8][8]
  float *tops, *sums;  // [4][8]
  f2* accs;            // [4][4][D / 2]
};

// Leaves rows first .. first + n of the heads of a token in `part`, [n_head][n_split][D + 2]: the
// result still to be divided, top and sum. n is at most R; what is above repeats the last row.
template <class T, u32 D, u32 R>
RF_DEV void split_rows(const Layer& layer, Span span, const float* q, float scale, float* part, u32 first, u32 n,
                       u32 n_split, const Split<D>& lds) {
  // What fits into 32 registers, half of that with many rows or where a wave is two teams.
  constexpr u32 BYTES = D * (u32)sizeof(T), FIT = 16 * 256 / (BYTES > 256 ? BYTES : 256);
  constexpr u32 FEWER = (R > 4 ? 2 : 1) * (RF_WAVE / 32), AHEAD = FIT / FEWER < 4 ? 4 : FIT / FEWER;
  Rows<D, R> rows;
  clear(rows);
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    rows.position[r] = span.pos;
    const float* from = q + (first + (r < n ? r : n - 1)) * layer.head_dim;
    load_query(from, layer.head_dim, scale, lds.queries + r * D, tid_x(), 128);
  }
  const u32 last = span.pos / 32, step = 4 * n_split;
  u32 b = first_visible(span.pos, layer.window) / 32 + bid_z() * 4 + team();
  // Addresses come one block ahead, the first with the queries.
  u64 block = b <= last ? layer.table[b] : 0;
  barrier();
#pragma unroll 1
  while (b <= last) {
    const u64 next = b + step <= last ? layer.table[b + step] : 0;
    attend_block<T, D, R, AHEAD>(layer, block, b, lds.queries, lds.p + team() * R * 8, rows);
    block = next, b += step;
  }

  // The teams' results together, four rows at once. This runs once: what its code's size costs is felt.
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const float sum = team_sum(rows.sum[r]);
    if (lane() == 0) lds.tops[team() * R + r] = rows.top[r], lds.sums[team() * R + r] = sum;
  }
  constexpr u32 TOGETHER = R > 4 ? 4 : R;
#pragma unroll
  for (u32 start = 0; start < R; start += TOGETHER) {
#pragma unroll
    for (u32 r = 0; r < TOGETHER; r++)
#pragma unroll
      for (u32 j = 0; j < D / 64; j++)
        lds.accs[(team() * TOGETHER + r) * (D / 2) + element<T, D>(j) / 2] = rows.acc[start + r][j];
    barrier();
    const u32 end = n < start + TOGETHER ? n : start + TOGETHER, i = tid_x();
#pragma unroll 1
    for (u32 r = start; r < end; r++) {
      float top = lds.tops[r], sum = 0.f;
#pragma unroll
      for (u32 t = 1; t < 4; t++) top = rf_max(top, lds.tops[t * R + r]);
      const float base = top == -RF_INF ? 0.f : top;
      f2 acc = {0.f, 0.f};
#pragma unroll
      for (u32 t = 0; t < 4; t++) {
        const float share = rf_exp2(lds.tops[t * R + r] - base);
        sum = rf_fma(lds.sums[t * R + r], share, sum);
        if (2 * i < layer.head_dim_v) acc += lds.accs[(t * TOGETHER + r - start) * (D / 2) + i] * share;
      }
      float* to = part + ((u64)(first + r) * n_split + bid_z()) * (D + 2);
      if (2 * i < layer.head_dim_v) *(f2*)(to + 2 * i) = acc;
      if (i == 0) to[D] = top, to[D + 1] = sum;
    }
    barrier();
  }
}

// All heads of a key head in one block, so that keys and values are read once.
template <class T, u32 D>
RF_DEV void split(const float* q, float* part, const Span* spans, const u64* tables, u32 off_k, u32 off_v, u32 n_head,
                  u32 n_head_kv, u32 head_dim, u32 head_dim_v, float scale, u32 window, float softcap, u32 n_split) {
  RF_SHARED(f8, queries, D);
  RF_SHARED(f4, p, 4 * 8 * 8);
  RF_SHARED(float, tops, 4 * 8);
  RF_SHARED(float, sums, 4 * 8);
  RF_SHARED(f2, accs, 8 * D);
  const Split<D> lds = {(float*)queries, p, tops, sums, accs};
  const Span span = spans[bid_x()];
  const u32 group = n_head / n_head_kv, head = bid_y();
  const Layer layer = layer_of<T>(span, tables, off_k, off_v, head, head_dim, head_dim_v, window, softcap);
  scale *= RF_LOG2E;
  q += ((u64)span.start * n_head + head * group) * head_dim;
  part += ((u64)bid_x() * n_head + head * group) * n_split * (D + 2);
  if (group == 1) return split_rows<T, D, 1>(layer, span, q, scale, part, 0, 1, n_split, lds);
  if (group <= 4) return split_rows<T, D, 4>(layer, span, q, scale, part, 0, group, n_split, lds);
  for (u32 first = 0; first < group; first += 8) {
    const u32 left = group - first;
    split_rows<T, D, 8>(layer, span, q, scale, part, first, left < 8 ? left : 8, n_split, lds);
  }
}

// q: [tokens][n_head][head_dim]; part: [n_q][n_head][n_split][D + 2]. Grid (n_q, n_head_kv, n_split).
#define ATTEND_SPLIT(name, T, D)                                                                                       \
  RF_KERNEL RF_BOUNDS(128) void name(const float* q, float* part, const Span* spans, const u64* tables, u32 off_k,     \
                                     u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, u32 head_dim_v, float scale,  \
                                     u32 window, float softcap, u32 n_split) {                                         \
    split<T, D>(q, part, spans, tables, off_k, off_v, n_head, n_head_kv, head_dim, head_dim_v, scale, window, softcap, \
                n_split);                                                                                              \
  }                                                                                                                    \
  RF_REGISTER(name)
ATTEND_SPLIT(attend_split_f16_64, f16, 64)
ATTEND_SPLIT(attend_split_f16_128, f16, 128)
ATTEND_SPLIT(attend_split_f16_256, f16, 256)
ATTEND_SPLIT(attend_split_f32_64, float, 64)
ATTEND_SPLIT(attend_split_f32_128, float, 128)
ATTEND_SPLIT(attend_split_f32_256, float, 256)
ATTEND_SPLIT(attend_split_q8_0_64, Code, 64)
ATTEND_SPLIT(attend_split_q8_0_128, Code, 128)
ATTEND_SPLIT(attend_split_q8_0_256, Code, 256)

// Joins the splits of a token's head.
template <u32 D> RF_DEV void combine(const float* part, float* out, u32 n_head, u32 head_dim_v, u32 n_split) {
  const u64 row = (u64)bid_x() * n_head + bid_y();
  part += row * n_split * (D + 2);
  out += row * head_dim_v;
  float top = -RF_INF;
  for (u32 s = 0; s < n_split; s++) top = rf_max(top, part[s * (D + 2) + D]);
  float sum = 0.f;
  f2 acc[D / 128 + (D < 128)];
#pragma unroll
  for (u32 j = 0; j < sizeof acc / sizeof *acc; j++) acc[j] = (f2)(0.f);
  for (u32 s = 0; s < n_split; s++) {
    const float* from = part + s * (D + 2);
    const float weight = rf_exp2(from[D] - top);
    sum = rf_fma(weight, from[D + 1], sum);
#pragma unroll
    for (u32 j = 0; j < sizeof acc / sizeof *acc; j++) {
      const u32 i = 2 * tid_x() + 128 * j;
      if (i < head_dim_v) acc[j] += *(const f2*)(from + i) * weight;
    }
  }
#pragma unroll
  for (u32 j = 0; j < sizeof acc / sizeof *acc; j++) {
    const u32 i = 2 * tid_x() + 128 * j;
    if (i < head_dim_v) *(f2*)(out + i) = acc[j] / sum;
  }
}

// out: [n_q][n_head][head_dim_v]. Grid (n_q, n_head).
#define ATTEND_COMBINE(name, D)                                                                               \
  RF_KERNEL RF_BOUNDS(64) void name(const float* part, float* out, u32 n_head, u32 head_dim_v, u32 n_split) { \
    combine<D>(part, out, n_head, head_dim_v, n_split);                                                       \
  }                                                                                                           \
  RF_REGISTER(name)
ATTEND_COMBINE(attend_combine_64, 64)
ATTEND_COMBINE(attend_combine_128, 128)
ATTEND_COMBINE(attend_combine_256, 256)

// The same, with the result's codes for the product that follows. Four elements a thread, so that eight neighbours
// have the 32 of a scale; head_dim_v is a multiple of 32.
template <u32 D>
RF_DEV void combine_q8(const float* part, float* out, i8* xq, f2* xd, u32 n_head, u32 head_dim_v, u32 n_split) {
  const u64 row = (u64)bid_x() * n_head + bid_y();
  const u32 i = 4 * tid_x(), at = i < head_dim_v ? i : 0;
  part += row * n_split * (D + 2);
  float top = -RF_INF;
#pragma unroll 1
  for (u32 s = lane(); s < n_split; s += 32) top = rf_max(top, part[s * (D + 2) + D]);
  top = team_max(top);
  float sum = 0.f;
  f4 acc = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
  for (u32 s = 0; s < n_split; s++) {
    const float* from = part + s * (D + 2);
    const float weight = rf_exp2(from[D] - top);
    sum = rf_fma(weight, from[D + 1], sum);
    const f2 low = *(const f2*)(from + at), high = *(const f2*)(from + at + 2);
    acc += (f4){low[0], low[1], high[0], high[1]} * weight;
  }
  acc /= sum;
  // Whole teams take part; what threads behind the end have stays in groups of their own.
  const Q8 q = q8_quantize(acc);
  if (i >= head_dim_v) return;
  const u64 to = row * head_dim_v + i;
  *(f4*)(out + to) = acc;
  *(u32*)(xq + to) = q.q;
  if (i % 32 == 0) xd[to / 32] = (f2){q.d, q.s};
}

#define ATTEND_COMBINE_Q8(name, D)                                                                               \
  RF_KERNEL RF_BOUNDS(64) void name(const float* part, float* out, i8* xq, f2* xd, u32 n_head, u32 head_dim_v,   \
                                    u32 n_split) {                                                               \
    combine_q8<D>(part, out, xq, xd, n_head, head_dim_v, n_split);                                               \
  }                                                                                                              \
  RF_REGISTER(name)
ATTEND_COMBINE_Q8(attend_combine_q8_64, 64)
ATTEND_COMBINE_Q8(attend_combine_q8_128, 128)
ATTEND_COMBINE_Q8(attend_combine_q8_256, 256)

// ---- Prefill: tiles of 16 neighbouring tokens of a span, four a team --------------------------

template <class T, u32 D>
RF_DEV void tile(const float* q, float* out, const Span* spans, const u2* tiles, const u64* tables, u32 off_k,
                 u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, u32 head_dim_v, float scale, u32 window,
                 float softcap) {
  constexpr u32 R = 4;
  RF_SHARED(f8, queries, 4 * R * D / 8);
  RF_SHARED(f4, p, 4 * R * 8);
  const u2 where = tiles[bid_x()];
  const Span span = spans[where[0]];
  const u32 first = where[1] + team() * R, head = bid_y();
  if (first >= span.len) return;
  const u32 n = span.len - first < R ? span.len - first : R;
  const Layer layer =
      layer_of<T>(span, tables, off_k, off_v, head / (n_head / n_head_kv), head_dim, head_dim_v, window, softcap);
  const u64 row = (u64)(span.start + first) * n_head + head;
  float* own = (float*)queries + team() * R * D;
  Rows<D, R> rows;
  clear(rows);
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const u32 token = r < n ? r : n - 1;
    rows.position[r] = span.pos + first + token;
    load_query(q + (row + (u64)token * n_head) * head_dim, head_dim, scale * RF_LOG2E, own + r * D, lane(), 32);
  }
  team_sync();
  const u32 last = rows.position[R - 1] / 32;
  for (u32 b = first_visible(rows.position[0], window) / 32; b <= last; b++)
    attend_block<T, D, R, 4>(layer, layer.table[b], b, own, p + team() * R * 8, rows);

#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const float inverse = 1.f / team_sum(rows.sum[r]);
    float* to = out + (row + (u64)r * n_head) * head_dim_v;
#pragma unroll
    for (u32 j = 0; j < D / 64; j++) {
      const u32 i = element<T, D>(j);
      if (r < n && i < head_dim_v) *(f2*)(to + i) = rows.acc[r][j] * inverse;
    }
  }
}

// q: [tokens][n_head][head_dim]; out: [tokens][n_head][head_dim_v]; tiles: {span, first query of the
// tile in it}. Grid (n_tiles, n_head).
#define ATTEND_TILE(name, T, D)                                                                                        \
  RF_KERNEL RF_BOUNDS(128) void name(const float* q, float* out, const Span* spans, const u2* tiles,                   \
                                     const u64* tables, u32 off_k, u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, \
                                     u32 head_dim_v, float scale, u32 window, float softcap) {                         \
    tile<T, D>(q, out, spans, tiles, tables, off_k, off_v, n_head, n_head_kv, head_dim, head_dim_v, scale, window,     \
               softcap);                                                                                               \
  }                                                                                                                    \
  RF_REGISTER(name)
ATTEND_TILE(attend_tile_f16_64, f16, 64)
ATTEND_TILE(attend_tile_f16_128, f16, 128)
ATTEND_TILE(attend_tile_f16_256, f16, 256)
ATTEND_TILE(attend_tile_f32_64, float, 64)
ATTEND_TILE(attend_tile_f32_128, float, 128)
ATTEND_TILE(attend_tile_f32_256, float, 256)
ATTEND_TILE(attend_tile_q8_0_64, Code, 64)
ATTEND_TILE(attend_tile_q8_0_128, Code, 128)
ATTEND_TILE(attend_tile_q8_0_256, Code, 256)
