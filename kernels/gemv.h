// Matrix times a few activation rows: y[c][row] = sum over k of w[row][k] * x[c][k]. For decoding, where
// the weights are read once and all depends on how fast. One team a row (or four, `_k4`); a lane takes the
// pieces of the row (quant/coded.h) that its number falls on, several at once where the registers allow. The
// weights are unpacked once for all C columns.
//
// gemv_<format>.hip makes the kernels of one format.
#pragma once
#include "quant/words.h"

// Rows that a team makes at once, for C columns: more share the loads of the activations, which are what many
// columns cost; fewer leave more teams, which one column needs. The two teams of a wave64 share them anyway, and
// formats with many scales or bits have no registers for more than two. The launch need not know: blocks for four
// rows each, a team a row, are enough whatever the format, and those beyond the last row leave.
template <class F> constexpr u32 gemv_team_rows(u32 columns) {
  const u32 rows = 16 * columns / RF_WAVE, most = F::SCALES > 2 || sizeof(typename F::Piece) > 40 ? 2 : 4;
  return rows < 2 ? 1 : rows < most ? rows : most;
}

// Columns from n_cols on are read as the last valid one, and never stored.
template <class F, u32 C> struct Columns {
  typename F::Column at[C];
};
template <class F, u32 C> RF_DEV Columns<F, C> gemv_columns(const void* x, const f2* xd, u32 k, u32 n_cols) {
  Columns<F, C> columns;
#pragma unroll
  for (u32 c = 0; c < C; c++) columns.at[c] = F::column(x, xd, k, c == 0 || c < n_cols ? c : n_cols - 1);
  return columns;
}

// Adds the products of DEPTH pieces p, p + STEP, ... of R rows: all their weights are loaded before the first
// is used, so that one wait covers them. STEP is whole blocks, so pieces differ by constant distances alone.
template <class F, u32 C, u32 R, u32 STEP, u32 DEPTH>
RF_DEV void gemv_pieces(const u8* const (&row)[R], const Columns<F, C>& x, u32 p, float (&acc)[R][C]) {
  constexpr bool CENTRED = F::CENTRED && C > 2;
  typename F::Piece piece[DEPTH][R];
#pragma unroll
  for (u32 d = 0; d < DEPTH; d++)
#pragma unroll
    for (u32 r = 0; r < R; r++) piece[d][r] = F::load(row[r] + d * (STEP * F::PIECE / F::BLOCK * F::BYTES), p);
#pragma unroll
  for (u32 d = 0; d < DEPTH; d++) {
    typename F::Codes w[R];
#pragma unroll
    for (u32 r = 0; r < R; r++) {
      w[r] = F::codes(piece[d][r], p);
      if constexpr (CENTRED) w[r] = F::centred(w[r]);
    }
#pragma unroll
    for (u32 c = 0; c < C; c++) {
      const typename F::Activations a = F::activations(F::ahead(x.at[c], d * STEP), p);
#pragma unroll
      for (u32 r = 0; r < R; r++) acc[r][c] += F::template dot<CENTRED>(w[r], a);
    }
  }
}

// This thread's share, pieces first, first + STEP, ..., of R rows.
template <class F, u32 C, u32 R, u32 STEP>
RF_DEV void gemv_rows(const u8* const (&row)[R], const Columns<F, C>& x, u32 k, u32 first, float (&acc)[R][C]) {
  constexpr u32 DEPTH = C * R == 1 && F::PIECE <= 32 ? 2 : 1;
  const u32 n = k / F::PIECE;
#pragma unroll
  for (u32 r = 0; r < R; r++)
#pragma unroll
    for (u32 c = 0; c < C; c++) acc[r][c] = 0.f;
  u32 p = first;
  if constexpr (DEPTH > 1) {
#pragma unroll 1
    for (; p + (DEPTH - 1) * STEP < n; p += DEPTH * STEP) gemv_pieces<F, C, R, STEP, DEPTH>(row, x, p, acc);
  }
#pragma unroll 1
  for (; p < n; p += STEP) gemv_pieces<F, C, R, STEP, 1>(row, x, p, acc);
  if constexpr (F::TAIL) {
#pragma unroll 1
    for (u32 i = n * F::PIECE + first; i < k; i += STEP)
#pragma unroll
      for (u32 r = 0; r < R; r++) {
        const float w = F::at_index(row[r], i);
#pragma unroll
        for (u32 c = 0; c < C; c++) acc[r][c] = rf_fma(w, x.at[c].x[i], acc[r][c]);
      }
  }
}

// Up to three matrices that share their input (query, key, value), as one list of rows.
struct GemvTarget {
  const u8* w;
  float* y;
  const float* bias;
  u32 n, row;
  bool first;
};
struct GemvArgs {
  const u8 *w0, *w1, *w2;
  float *y0, *y1, *y2;
  const float *b0, *b1, *b2, *r0;
  u32 n0, n1, n2, k;
  const void* x;
  const f2* xd;
  u32 n_cols;
};
RF_DEV GemvTarget gemv_target(const GemvArgs& a, u32 row) {
  if (row < a.n0) return {a.w0, a.y0, a.b0, a.n0, row, true};
  row -= a.n0;
  if (row < a.n1) return {a.w1, a.y1, a.b1, a.n1, row, false};
  return {a.w2, a.y2, a.b2, a.n2, row - a.n1, false};
}
RF_DEV void gemv_store(const GemvTarget& t, const float* residual, u32 c, float v) {
  const u64 at = (u64)c * t.n + t.row;
  if (t.bias) v += t.bias[t.row];
  if (t.first && residual) v += residual[at];
  t.y[at] = v;
}
// Of C values that all lanes have, the one of this lane.
template <u32 C> RF_DEV float pick(const float (&v)[C]) {
  float mine = v[0];
#pragma unroll
  for (u32 c = 1; c < C; c++) mine = lane() == c ? v[c] : mine;
  return mine;
}

// By block `block` of those for the rows.
template <class F, u32 C> RF_DEV void gemv(const GemvArgs& a, u32 block) {
  constexpr u32 R = gemv_team_rows<F>(C);
  const u32 n = a.n0 + a.n1 + a.n2, row = (block * 4 + team()) * R;
  if (row >= n) return;  // whole teams leave
  GemvTarget t[R];
  const u8* rows[R];
#pragma unroll
  for (u32 r = 0; r < R; r++) {
    t[r] = gemv_target(a, r == 0 || row + r < n ? row + r : n - 1);
    rows[r] = t[r].w + t[r].row * F::row_bytes(a.k);
  }
  float acc[R][C];
  gemv_rows<F, C, R, 32>(rows, gemv_columns<F, C>(a.x, a.xd, a.k, a.n_cols), a.k, lane(), acc);
#pragma unroll
  for (u32 r = 0; r < R; r++) {
#pragma unroll
    for (u32 c = 0; c < C; c++) acc[r][c] = team_sum(acc[r][c]);
    if (row + r < n && lane() < a.n_cols) gemv_store(t[r], a.r0, lane(), pick(acc[r]));
  }
}

// The four teams of a block share a row: for matrices with too few rows to fill the card.
template <class F, u32 C> RF_DEV void gemv_k4(const GemvArgs& a, u32 block) {
  RF_SHARED(float, part, 4 * C);
  const GemvTarget t = gemv_target(a, block);
  const u8* const rows[1] = {t.w + t.row * F::row_bytes(a.k)};
  float acc[1][C];
  gemv_rows<F, C, 1, 128>(rows, gemv_columns<F, C>(a.x, a.xd, a.k, a.n_cols), a.k, tid_x(), acc);
#pragma unroll
  for (u32 c = 0; c < C; c++) acc[0][c] = team_sum(acc[0][c]);
  if (lane() < C) part[team() * C + lane()] = pick(acc[0]);
  barrier();
  const u32 c = tid_x();
  if (c < a.n_cols) gemv_store(t, a.r0, c, part[c] + part[C + c] + part[2 * C + c] + part[3 * C + c]);
}

// The last matrix in another format, G: its rows have blocks of their own, behind the others'.
template <class F, class G, u32 C, bool K4> RF_DEV void gemv_two(const GemvArgs& a, u32 block) {
  const u32 n = a.n0 + a.n1, others = K4 ? n : (n + 3) / 4;
  const GemvArgs first = {a.w0, a.w1, nullptr, a.y0, a.y1, nullptr, a.b0, a.b1, nullptr, a.r0, a.n0, a.n1, 0, a.k, a.x, a.xd, a.n_cols};
  const GemvArgs last = {a.w2, nullptr, nullptr, a.y2, nullptr, nullptr, a.b2, nullptr, nullptr, nullptr, a.n2, 0, 0, a.k, a.x, a.xd, a.n_cols};
  if constexpr (K4) {
    if (block < others) gemv_k4<typename F::Narrow, C>(first, block);
    else gemv_k4<typename G::Narrow, C>(last, block - others);
  } else {
    if (block < others) gemv<F, C>(first, block);
    else gemv<G, C>(last, block - others);
  }
}

// y = act(gate * x) * (up * x), act 0 SiLU, 1 GELU (tanh).
template <class F, u32 C>
RF_DEV void gemv_glu(const u8* gate, const u8* up, float* y, u32 n, u32 k, const void* x, const f2* xd, u32 n_cols,
                     u32 act) {
  constexpr u32 PAIRS = (gemv_team_rows<F>(C) + 1) / 2;
  const u32 row = (bid_x() * 4 + team()) * PAIRS;
  if (row >= n) return;
  const u8* rows[2 * PAIRS];
#pragma unroll
  for (u32 i = 0; i < PAIRS; i++) {
    const u64 at = (i == 0 || row + i < n ? row + i : n - 1) * F::row_bytes(k);
    rows[2 * i] = gate + at, rows[2 * i + 1] = up + at;
  }
  float acc[2 * PAIRS][C];
  gemv_rows<F, C, 2 * PAIRS, 32>(rows, gemv_columns<F, C>(x, xd, k, n_cols), k, lane(), acc);
#pragma unroll
  for (u32 i = 0; i < PAIRS; i++) {
#pragma unroll
    for (u32 r = 2 * i; r < 2 * i + 2; r++)
#pragma unroll
      for (u32 c = 0; c < C; c++) acc[r][c] = team_sum(acc[r][c]);
    if (row + i < n && lane() < n_cols) {
      const float g = pick(acc[2 * i]), u = pick(acc[2 * i + 1]);
      y[(u64)lane() * n + row + i] = (act ? rf_gelu(g) : rf_silu(g)) * u;
    }
  }
}

#define GEMV_KERNEL(fmt, C, suffix, ...)                                                                          \
  RF_KERNEL RF_BOUNDS(128) void gemv_##fmt##_c##C##suffix(                                                           \
      const u8* w0, const u8* w1, const u8* w2, float* y0, float* y1, float* y2, const float* b0, const float* b1,   \
      const float* b2, const float* r0, u32 n0, u32 n1, u32 n2, u32 k, const void* xq, const f2* xd, u32 n_cols) {   \
    __VA_ARGS__(GemvArgs{w0, w1, w2, y0, y1, y2, b0, b1, b2, r0, n0, n1, n2, k, xq, xd, n_cols}, bid_x());             \
  }                                                                                                                  \
  RF_REGISTER(gemv_##fmt##_c##C##suffix)
#define GEMV_GLU_KERNEL(fmt, F, C)                                                                                   \
  RF_KERNEL RF_BOUNDS(128) void gemv_glu_##fmt##_c##C(const u8* w_gate, const u8* w_up, float* y, u32 n, u32 k,      \
                                                      const void* xq, const f2* xd, u32 n_cols, u32 act) {           \
    gemv_glu<F, C>(w_gate, w_up, y, n, k, xq, xd, n_cols, act);                                                      \
  }                                                                                                                  \
  RF_REGISTER(gemv_glu_##fmt##_c##C)
#define GEMV_COLUMNS(fmt, F, C)       \
  GEMV_KERNEL(fmt, C, , gemv<F, C>)      \
  GEMV_KERNEL(fmt, C, _k4, gemv_k4<F::Narrow, C>) \
  GEMV_GLU_KERNEL(fmt, F, C)
#define GEMV_FORMAT(fmt, F) \
  GEMV_COLUMNS(fmt, F, 1) GEMV_COLUMNS(fmt, F, 2) GEMV_COLUMNS(fmt, F, 4) GEMV_COLUMNS(fmt, F::Narrow, 8)

#define GEMV_TWO_COLUMNS(fmt, F, G, C)                \
  GEMV_KERNEL(fmt, C, , gemv_two<F, G, C, false>) \
  GEMV_KERNEL(fmt, C, _k4, gemv_two<F, G, C, true>)
#define GEMV_TWO_FORMATS(fmt, F, G) \
  GEMV_TWO_COLUMNS(fmt, F, G, 1)    \
  GEMV_TWO_COLUMNS(fmt, F, G, 2)    \
  GEMV_TWO_COLUMNS(fmt, F, G, 4)    \
  GEMV_TWO_COLUMNS(fmt, F::Narrow, G::Narrow, 8)
