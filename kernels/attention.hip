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
#include "rotary.h"

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

// Products of the rows' queries, D apart, with one key, DEEP pieces of N elements at once of each half of it: the halves
// lie in different lines of the cache, and all these loads are to overlap.
template <class T, u32 N, u32 DEEP, u32 D, u32 R> RF_DEV void dots(const T* key, const float* q, u32 dim, float* s) {
  typedef RF_VECTOR(T, N) Piece;
  typedef RF_VECTOR(float, N) Query;
  const u32 half = dim / 2;
#pragma unroll 1
  for (u32 i = 0; i < half; i += N * DEEP) {
    Piece k[DEEP][2];
#pragma unroll
    for (u32 e = 0; e < DEEP; e++) k[e][0] = *(const Piece*)(key + i + e * N), k[e][1] = *(const Piece*)(key + half + i + e * N);
#pragma unroll
    for (u32 e = 0; e < DEEP; e++)
#pragma unroll
      for (u32 h = 0; h < 2; h++)
#pragma unroll
        for (u32 r = 0; r < R; r++) {
          const Query x = *(const Query*)(q + r * D + h * half + i + e * N);
#pragma unroll
          for (u32 j = 0; j < N; j++) s[r] = rf_fma(x[j], (float)k[e][h][j], s[r]);
        }
  }
}

// AHEAD, what was loaded ahead, tells how many registers there are to spare.
template <class T, u32 D, u32 R, u32 AHEAD> RF_DEV void scores(u64 head, const float* q, u32 dim, float* s) {
  if constexpr (CODED<T>) {
    dots_q8_0<D, R>(head, q, dim, s);
  } else {
    const T* key = global_at<const T>(head) + lane() * dim;
    constexpr u32 DEEP = AHEAD <= 4 ? 1 : (R > 4 || D == 64 ? 4 : 8) / sizeof(T);
    if (dim % (16 * DEEP) == 0) dots<T, 8, DEEP, D, R>(key, q, dim, s);
    else if (dim % 16 == 0) dots<T, 8, 1, D, R>(key, q, dim, s);
    else if (dim % 4 == 0) dots<T, 2, 1, D, R>(key, q, dim, s);
    else dots<T, 1, 1, D, R>(key, q, dim, s);
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
  scores<T, D, R, AHEAD>(block + layer.off_k, q, layer.head_dim, s);

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

// A token's query, key and value as their products made them, of one key head; k is null if the query is rotated, and
// keys and values are in the cache: always in q8_0, whose scales are of several elements.
struct Fresh {
  const float *q, *k, *v;
  const f2* freqs;
  u32 n_rot, pairs;
  float mscale, scale;
};

// Where heads go: numbers [rows][dim], their codes (dim is a multiple of 32 then), or both.
struct Result {
  float* out;
  i8* xq;
  f2* xd;
  u32 dim;
};

// What is needed only at the end. It waits in LDS: scalar registers are few.
struct Ending {
  Result to;
  float* part;  // of the block's first row
  u64 row;      // the block's first
  u32* ended;
};

// Memory of a block: up to eight rows, four teams.
template <u32 D> struct Split {
  float* queries;      // [10][D]: behind the rows' queries this token's key and value
  f4* p;               // [4][8][8]
  float *tops, *sums;  // [4][8]
  f2* accs;            // [4][4][D / 2]
  Ending* ending;
};

// Queries of n rows to LDS, times the scale, and the last of them again up to `rows`; rotated, and with this token's key
// and value as the cache has them, if they are fresh. Then `block`, if it is not 0, gets both, too. All loads are on
// their way together, half of the threads having every second row.
template <class T, u32 D>
RF_DEV void load_rows(const Fresh& a, const Layer& layer, u32 position, u32 n, u32 rows, u64 block, float* to) {
  constexpr u32 MOST = 5, VALUES = D > 128 ? 2 : 1;
  const u32 dim = layer.head_dim, n_rot = a.k ? a.n_rot : 0, all = a.k ? rows + 1 : rows, half = tid_x() / 64;
  float value[VALUES];
#pragma unroll
  for (u32 j = 0; j < VALUES; j++) value[j] = a.k && tid_x() + 128 * j < layer.head_dim_v ? a.v[tid_x() + 128 * j] : 0.f;
  T* to_k = global_at<T>(block + layer.off_k) + position % 32 * dim;
  const auto from = [&](u32 j) {
    const u32 r = half + 2 * j < all ? half + 2 * j : all - 1;
    return r < rows ? a.q + (r < n ? r : n - 1) * dim : a.k;
  };
  const auto put = [&](u32 j, u32 i, float x) {
    const u32 r = half + 2 * j;
    if (r < rows) {
      to[r * D + i] = x * a.scale;
    } else if constexpr (!CODED<T>) {
      if (r >= all) return;
      to[8 * D + i] = (float)(T)x;
      if (block) to_k[i] = (T)x;
    }
  };
#pragma unroll 1
  for (u32 i = tid_x() % 64; i < n_rot / 2; i += 64) {
    const u2 at = pair_at(i, n_rot, a.pairs);
    f2 x[MOST];
#pragma unroll
    for (u32 j = 0; j < MOST; j++) x[j] = (f2){from(j)[at[0]], from(j)[at[1]]};
    const f2 turn = turn_at(a.freqs[i], (float)position, a.mscale);
#pragma unroll
    for (u32 j = 0; j < MOST; j++) {
      const f2 y = turned(x[j][0], x[j][1], turn);
      put(j, at[0], y[0]), put(j, at[1], y[1]);
    }
  }
#pragma unroll 1
  for (u32 i = n_rot + tid_x() % 64; i < dim; i += 64) {
    float x[MOST];
#pragma unroll
    for (u32 j = 0; j < MOST; j++) x[j] = from(j)[i];
#pragma unroll
    for (u32 j = 0; j < MOST; j++) put(j, i, x[j]);
  }
  if constexpr (!CODED<T>) {
    if (!a.k) return;
    T* to_v = global_at<T>(block + layer.off_v) + position % 32 * layer.head_dim_v;
#pragma unroll
    for (u32 j = 0; j < VALUES; j++) {
      const u32 i = tid_x() + 128 * j;
      if (i >= layer.head_dim_v) break;
      to[9 * D + i] = (float)(T)value[j];
      if (block) to_v[i] = (T)value[j];
    }
  }
}

// What rows have seen after this token's own key, which is in LDS, by one team.
template <u32 D, u32 R> RF_DEV void begin_with_own(const Layer& layer, const float* q, Rows<D, R>& rows) {
  float s[R];
#pragma unroll
  for (u32 r = 0; r < R; r++) s[r] = 0.f;
#pragma unroll 1
  for (u32 i = lane(); i < layer.head_dim; i += 32)
#pragma unroll
    for (u32 r = 0; r < R; r++) s[r] = rf_fma(q[r * D + i], q[8 * D + i], s[r]);
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const float score = team_sum(s[r]);
    rows.top[r] = layer.softcap != 0.f ? layer.softcap * rf_tanh(score / layer.softcap) : score;
    rows.sum[r] = lane() == 0 ? 1.f : 0.f;
#pragma unroll
    for (u32 j = 0; j < D / 64; j++) {
      const u32 pair = 2 * lane() + 64 * j;
      if (pair < layer.head_dim_v) rows.acc[r][j] = *(const f2*)(q + 9 * D + pair);
    }
  }
}

// Elements i .. i + 3 of a row, of 32 that eight neighbouring threads have. Whole teams take part.
RF_DEV void put_result(const Result& to, u64 row, u32 i, f4 v, bool mine) {
  const u64 at = row * to.dim + i;
  Q8 q = {0, 0.f, 0.f};
  if (to.xq) q = q8_quantize(v);
  if (!mine || i >= to.dim) return;
  if (to.out) {
    *(f2*)(to.out + at) = (f2){v[0], v[1]};
    if (i + 2 < to.dim) *(f2*)(to.out + at + 2) = (f2){v[2], v[3]};
  }
  if (!to.xq) return;
  *(u32*)(to.xq + at) = q.q;
  if (i % 32 == 0) to.xd[at / 32] = (f2){q.d, q.s};
}

// A block's n rows over the part's keys, up to `position`: to the result if that is all keys, else into `part`,
// [rows][n_split][D + 2]: the result still to be divided, top and sum. n is at most R; what is above repeats the last
// row. The team's blocks of keys are b, at `block`, and every 4 * n_split-th before `end`; `own`: and the key in LDS.
template <class T, u32 D, u32 R>
RF_DEV void split_rows(const Layer& layer, u32 position, u32 b, u64 block, u32 end, bool own, u32 n, u32 n_split,
                       const Split<D>& lds) {
  // What fits into 32 registers, half of that with many rows or where a wave is two teams.
  constexpr u32 BYTES = D * (u32)sizeof(T), FIT = 16 * 256 / (BYTES > 256 ? BYTES : 256);
  constexpr u32 FEWER = (R > 4 ? 2 : 1) * (RF_WAVE / 32), AHEAD = FIT / FEWER < 4 ? 4 : FIT / FEWER;
  Rows<D, R> rows;
  clear(rows);
#pragma unroll
  for (u32 r = 0; r < R; r++) rows.position[r] = position;
  const u32 step = 4 * n_split;
  barrier();
  if constexpr (!CODED<T>) {
    if (own && team() == 3) begin_with_own<D, R>(layer, lds.queries, rows);
  }
#pragma unroll 1
  while (b < end) {
    // Addresses come one block ahead, the first with the queries.
    const u64 next = b + step < end ? layer.table[b + step] : 0;
    attend_block<T, D, R, AHEAD>(layer, block, b, lds.queries, lds.p + team() * R * 8, rows);
    block = next, b += step;
  }

  // The teams' results together, four rows at once. This runs once: what its code's size costs is felt.
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    const float sum = team_sum(rows.sum[r]);
    if (lane() == 0) lds.tops[team() * R + r] = rows.top[r], lds.sums[team() * R + r] = sum;
  }
  const Ending& ending = *lds.ending;
  constexpr u32 TOGETHER = R > 4 ? 4 : R, ITEMS = TOGETHER * D / 4;
#pragma unroll
  for (u32 start = 0; start < R; start += TOGETHER) {
#pragma unroll
    for (u32 r = 0; r < TOGETHER; r++)
#pragma unroll
      for (u32 j = 0; j < D / 64; j++)
        lds.accs[(team() * TOGETHER + r) * (D / 2) + element<T, D>(j) / 2] = rows.acc[start + r][j];
    barrier();
#pragma unroll 1
    for (u32 base = 0; base < ITEMS; base += 128) {
      const u32 item = base + tid_x(), r = item < ITEMS ? item / (D / 4) : TOGETHER - 1, i = item % (D / 4) * 4;
      const bool mine = item < ITEMS && start + r < n;
      float top = lds.tops[start + r], sum = 0.f;
#pragma unroll
      for (u32 t = 1; t < 4; t++) top = rf_max(top, lds.tops[t * R + start + r]);
      const float seen = top == -RF_INF ? 0.f : top;
      f4 acc = (f4)(0.f);
#pragma unroll
      for (u32 t = 0; t < 4; t++) {
        const float share = rf_exp2(lds.tops[t * R + start + r] - seen);
        sum = rf_fma(lds.sums[t * R + start + r], share, sum);
        acc += *(const f4*)(lds.accs + (t * TOGETHER + r) * (D / 2) + i / 2) * share;
      }
      if (n_split == 1) {
        put_result(ending.to, ending.row + start + r, i, acc / sum, mine);
      } else if (mine) {
        float* to = ending.part + ((u64)(start + r) * n_split + bid_z()) * (D + 2);
        *(f2*)(to + i) = (f2){acc[0], acc[1]}, *(f2*)(to + i + 2) = (f2){acc[2], acc[3]};
        if (i == 0) to[D] = top, to[D + 1] = sum;
      }
    }
    barrier();
  }
}

// Joins the parts of n rows.
template <u32 D> RF_DEV void join(const Ending& ending, u32 n, u32 n_split) {
#pragma unroll 1
  for (u32 base = 0; base < n * (D / 4); base += 128) {
    const u32 item = base + tid_x(), r = item / (D / 4) < n ? item / (D / 4) : n - 1, i = item % (D / 4) * 4;
    float top = -RF_INF, sum = 0.f;
    f4 acc = (f4)(0.f);
#pragma unroll 4
    for (u32 s = 0; s < n_split; s++) {
      const float* from = ending.part + ((u64)r * n_split + s) * (D + 2);
      const float both = rf_max(top, from[D]), seen = both == -RF_INF ? 0.f : both;
      const float shrink = rf_exp2(top - seen), weight = rf_exp2(from[D] - seen);
      const f2 low = *(const f2*)(from + i), high = *(const f2*)(from + i + 2);
      sum = rf_fma(sum, shrink, from[D + 1] * weight);
      acc = acc * shrink + (f4){low[0], low[1], high[0], high[1]} * weight;
      top = both;
    }
    put_result(ending.to, ending.row + r, i, acc / sum, item / (D / 4) < n);
  }
}

// Up to eight heads of a key head in one block, so that keys and values are read once. Who is the last of the blocks of
// a token's heads to end joins what they left.
template <class T, u32 D>
RF_DEV void split(Fresh a, float* part, Result to, u32* ended, const Span* spans, const u64* tables, u32 off_k,
                  u32 off_v, u32 n_head, u32 n_head_kv, u32 head_dim, u32 window, float softcap, u32 n_split) {
  RF_SHARED(f8, queries, 10 * D / 8);
  RF_SHARED(f4, p, 4 * 8 * 8);
  RF_SHARED(float, tops, 4 * 8);
  RF_SHARED(float, sums, 4 * 8);
  RF_SHARED(f4, accs, 4 * D);
  RF_SHARED(Ending, ending, 1);
  RF_SHARED(u32, last, 1);
  const Split<D> lds = {(float*)queries, p, tops, sums, (f2*)accs, ending};
  const Span span = spans[bid_x()];
  const u32 group = n_head / n_head_kv, chunks = (group + 7) / 8, head = bid_y() / chunks, first = bid_y() % chunks * 8;
  const u32 n = group - first < 8 ? group - first : 8;
  Layer layer = layer_of<T>(span, tables, off_k, off_v, head, head_dim, to.dim, window, softcap);
  if (tid_x() == 0) {
    const u64 row = (u64)bid_x() * n_head + head * group + first;
    *ending = {to, part + row * n_split * (D + 2), row, ended + bid_x() * n_head_kv * chunks + bid_y()};
  }
  a.q += ((u64)span.start * n_head + head * group + first) * head_dim;
  if (a.k) {
    a.k += ((u64)span.start * n_head_kv + head) * head_dim;
    a.v += ((u64)span.start * n_head_kv + head) * to.dim;
  }
  // The last team of the last part takes the token's own key: it has the fewest others.
  const bool own = a.k && bid_z() == n_split - 1;
  // What the cache has, of which the token's own key is not part; the window has it.
  u32 position = span.pos, end = position / 32 + 1;
  if (a.k) {
    end = position == 0 || window == 1 ? 0 : (position - 1) / 32 + 1;
    position--;
    if (window) layer.window--;
  }
  const u32 b = first_visible(position, layer.window) / 32 + bid_z() * 4 + team();
  const u64 block = b < end ? layer.table[b] : 0, tail = own && first == 0 ? layer.table[span.pos / 32] : 0;
  load_rows<T, D>(a, layer, span.pos, n, n == 1 ? 1 : n <= 4 ? 4 : 8, tail, lds.queries);
  if (n == 1) split_rows<T, D, 1>(layer, position, b, block, end, own, n, n_split, lds);
  else if (n <= 4) split_rows<T, D, 4>(layer, position, b, block, end, own, n, n_split, lds);
  else split_rows<T, D, 8>(layer, position, b, block, end, own, n, n_split, lds);
  if (n_split > 1 && last_block(ending->ended, n_split, last)) join<D>(*ending, n, n_split);
}

// q: [tokens][n_head][head_dim]; k, v: [tokens][n_head_kv][head_dim], [..][head_dim_v], or null, or `stored` is not
// zero: then q is rotated, and keys and values are in the cache. freqs: [n_rot / 2], see rope.hip. out, if `numbers` is
// not zero: [tokens][n_head][head_dim_v]; xq, xd: its codes, or null. part: [n_q][n_head][n_split][D + 2]; ended: [n_q][blocks],
// zeros, and zeros again at the end. Grid (n_q, blocks, n_split), blocks = n_head_kv * (n_head / n_head_kv / 8, rounded
// up).
#define ATTEND_SPLIT(name, T, D)                                                                                       \
  RF_KERNEL RF_BOUNDS(128) void name(                                                                                  \
      const float* q, const float* k, const float* v, float* part, u32* ended, float* out, i8* xq, f2* xd,             \
      const Span* spans, const u64* tables, const f2* freqs, u32 off_k, u32 off_v, u32 n_head, u32 n_head_kv,          \
      u32 head_dim, u32 head_dim_v, u32 n_rot, u32 pairs, float mscale, u32 stored, u32 numbers, float scale,          \
      u32 window, float softcap, u32 n_split) {                                                                        \
    split<T, D>({q, stored || CODED<T> ? nullptr : k, v, freqs, n_rot, pairs, mscale, scale * RF_LOG2E}, part,                     \
                {numbers ? out : nullptr, xq, xd, head_dim_v}, ended, spans, tables, off_k, off_v, n_head, n_head_kv,  \
                head_dim, window, softcap, n_split);                                                                   \
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
