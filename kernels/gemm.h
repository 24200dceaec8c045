// Matrix times many activation rows, on the matrix unit: y[c][row] = sum over k of w[row][k] * x[c][k].
// For prefill. A block makes a tile of 128 rows by 64 columns in steps of 64 in k: it unpacks the step's
// weights to f16 in LDS, beside the activations, and while its waves multiply, the loads of the next step
// are under way. In C = A B the activations are A and the weights B, so that neighbouring threads store
// neighbouring elements of y.
//
// Range. Weights enter the product as f16 times a power of two of their row, `factor`, which puts the
// largest weight of the row's first step near 16; a later weight for which that is too much lowers it, and
// the row's sums with it. So no format overflows f16, and what is lost is at least 2^-18 below weights that
// the row has seen: beyond f16's own rounding nothing, whatever the scale of a tensor (and hardware that
// takes denormal f16 for zero, gfx90a, takes nothing away).
//
// gemm_<format>.hip makes the kernel of one format.
#pragma once
#include "quant/words.h"

#define GEMM_ROWS 128
#define GEMM_COLS 64
#define GEMM_STEP 64
#define GEMM_LINE 9  // a line of LDS, in 16 bytes: a step of one row in f16, and 16 that spread the banks

// Products of how many tiles in k are mixed: all would take registers that more waves put to better use. The
// target without a matrix unit is the other way round.
#if defined(TILE_COLS)
#define GEMM_UNROLL 4
#else
#define GEMM_UNROLL 2
#endif

// What a row's weights are multiplied with, such that `top`, its largest, comes to lie in [8, 16).
RF_DEV float gemm_factor(float top) {
  const u32 exponent = bits(top) >> 23;
  return from_bits((exponent < 30 ? 227u : exponent > 230 ? 27u : 257 - exponent) << 23);
}
RF_DEV float gemm_inverse(float power) { return from_bits((254u << 23) - bits(power)); }

template <class F>
RF_DEV void gemm(const u8* w, float* y, const float* bias, const float* residual, u32 n, u32 k, const f16* xh,
                 const float* xs, u32 n_cols) {
  RF_SHARED(u4, weights, GEMM_ROWS * GEMM_LINE);
  RF_SHARED(u4, inputs, GEMM_COLS * GEMM_LINE);
  RF_SHARED(float, ratio, GEMM_ROWS);
  const u32 t = tid_x(), row0 = bid_x() * GEMM_ROWS, col0 = bid_y() * GEMM_COLS;
  const u32 steps = (k + GEMM_STEP - 1) / GEMM_STEP;

  // Of the weights a thread unpacks one piece of one row, of the inputs it takes two chunks of 8. Rows and
  // columns behind the last are read as the last, and never stored.
  const u32 mine = t / 2, half = t % 2, chunk = t % 8;
  const u8* const row = w + (row0 + mine < n ? row0 + mine : n - 1) * F::row_bytes(k);
  const f16* column[2];
#pragma unroll
  for (u32 i = 0; i < 2; i++) {
    const u32 c = col0 + t / 8 + 32 * i;
    column[i] = xh + (u64)(c < n_cols ? c : n_cols - 1) * k;
  }
  float factor = 1.f;

  // A wave makes 32 columns (two tiles) by TILES tiles of rows.
  constexpr u32 WAVES = 256 / RF_WAVE, TILES = 16 / WAVES, LINE = GEMM_LINE * 8;
  const u32 wave_col = wave() % 2 * 32, wave_row = wave() / 2 * TILES * 16;
  Acc acc[2][TILES];
#pragma unroll
  for (u32 a = 0; a < 2; a++)
#pragma unroll
    for (u32 b = 0; b < TILES; b++) acc[a][b] = tile_zero();

  auto panel = F::panel(row, half, k);
  Words<16, 4> x[2];
#pragma unroll
  for (u32 i = 0; i < 2; i++) x[i] = F::input(column[i], F::panel_at(chunk / 4, chunk % 4), k);
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    h2 h[16];
    float shrink = 1.f;
    {
      const auto codes = F::codes(panel, 2 * step + half);
      const float top = from_bits(team_max<2>(bits(F::bound(codes))));
      if (top < RF_INF && (step == 0 || top * factor > 32768.f)) {
        const float now = gemm_factor(top);
        if (step) shrink = now * gemm_inverse(factor);
        factor = now;
      }
      F::halves(codes, factor, h);
    }
    barrier();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      u4 eight;
#pragma unroll
      for (u32 j = 0; j < 4; j++) eight[j] = __builtin_bit_cast(u32, h[4 * i + j]);
      weights[mine * GEMM_LINE + half * 4 + i] = eight;
    }
#pragma unroll
    for (u32 i = 0; i < 2; i++)
      inputs[(t / 8 + 32 * i) * GEMM_LINE + chunk] = u4{x[i].v[0], x[i].v[1], x[i].v[2], x[i].v[3]};
    if (half == 0) ratio[mine] = shrink;
    if (step + 1 < steps) {
      panel = F::panel(row, 2 * step + 2 + half, k);
#pragma unroll
      for (u32 i = 0; i < 2; i++) x[i] = F::input(column[i], F::panel_at(2 * step + 2 + chunk / 4, chunk % 4), k);
    }
    barrier();
#pragma unroll
    for (u32 b = 0; b < TILES; b++)
#pragma unroll
      for (u32 i = 0; i < TILE_ACC; i++) {
        const float r = ratio[wave_row + 16 * b + tile_col(i)];
        if (r != 1.f) acc[0][b][i] *= r, acc[1][b][i] *= r;
      }
    const f16 *wh = (const f16*)weights, *ih = (const f16*)inputs;
#pragma unroll GEMM_UNROLL
    for (u32 z = 0; z < GEMM_STEP / 16; z++) {
      TileB tile[TILES];
#pragma unroll
      for (u32 b = 0; b < TILES; b++) tile[b] = tile_load_b(wh + (wave_row + 16 * b) * LINE + 16 * z, LINE);
#pragma unroll
      for (u32 a = 0; a < 2; a++) {
        const TileA in = tile_load_a(ih + (wave_col + 16 * a) * LINE + 16 * z, LINE);
#pragma unroll
        for (u32 b = 0; b < TILES; b++) acc[a][b] = tile_mma(in, tile[b], acc[a][b]);
      }
    }
  }

  barrier();
  if (half == 0) ratio[mine] = gemm_inverse(factor);
  barrier();
  // All that an element needs is loaded, as of the last row or column where it has none, before any is stored.
#pragma unroll
  for (u32 a = 0; a < 2; a++) {
    u32 c[TILE_ACC];
    float scale[TILE_ACC];
#pragma unroll
    for (u32 i = 0; i < TILE_ACC; i++) {
      c[i] = col0 + wave_col + 16 * a + tile_row(i);
      scale[i] = xs[c[i] < n_cols ? c[i] : n_cols - 1];
    }
#pragma unroll
    for (u32 b = 0; b < TILES; b++) {
      float v[TILE_ACC];
      u32 r[TILE_ACC], from[TILE_ACC];
#pragma unroll
      for (u32 i = 0; i < TILE_ACC; i++) {
        r[i] = row0 + wave_row + 16 * b + tile_col(i);
        from[i] = r[i] < n ? r[i] : n - 1;
        v[i] = acc[a][b][i] * ratio[r[i] - row0] * scale[i];
      }
      if (bias) {
#pragma unroll
        for (u32 i = 0; i < TILE_ACC; i++) v[i] += bias[from[i]];
      }
      if (residual) {
        float add[TILE_ACC];
#pragma unroll
        for (u32 i = 0; i < TILE_ACC; i++) add[i] = residual[(u64)(c[i] < n_cols ? c[i] : n_cols - 1) * n + from[i]];
#pragma unroll
        for (u32 i = 0; i < TILE_ACC; i++) v[i] += add[i];
      }
#pragma unroll
      for (u32 i = 0; i < TILE_ACC; i++)
        if (r[i] < n && c[i] < n_cols) y[(u64)c[i] * n + r[i]] = v[i];
    }
  }
}

#define GEMM_FORMAT(fmt, F)                                                                                      \
  RF_KERNEL RF_BOUNDS(256) void gemm_##fmt(const u8* w, float* y, const float* b, const float* r, u32 n, u32 k,  \
                                           const f16* xh, const float* xs, u32 n_cols) {                         \
    gemm<F::Narrow>(w, y, b, r, n, k, xh, xs, n_cols);                                                           \
  }                                                                                                              \
  RF_REGISTER(gemm_##fmt)
