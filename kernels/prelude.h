// What every kernel is written in: types, indices, cross-lane operations, mathematics and matrix
// tiles. No ROCm header, no libc and no device library is needed, only clang (see build.rs).
//
// The same kernel sources build three ways:
//   clang -x hip       AMD code objects: this file            (the product)
//   RF_HOST, C++17     fibers on the CPU: tests/devices/host/host.h
//   RF_CUDA            PTX for an NVIDIA card: tests/devices/cuda/cuda.h
//
// A *team* is 32 neighbouring threads of a one-dimensional block. On wave32 targets a team is a
// wave; on wave64 targets (CDNA) a wave is two teams. Shuffles and reductions stay in a team, and a
// whole team must reach them together. Matrix tiles belong to a *wave* of RF_WAVE threads.
//
// A kernel is written as
//   RF_KERNEL RF_BOUNDS(128) void name(const float* x, u32 n) { ... }
//   RF_REGISTER(name)
// Its arguments are pointers, u32, i32 and f32; sizes come as arguments or constants, never from
// the launch, so that the argument block holds what is written here and nothing hidden.
#pragma once
#include "types.h"

#if defined(RF_HOST)
#include "host.h"
#elif defined(RF_CUDA)
#include "cuda.h"
#else

#define RF_DEV static __attribute__((device)) inline __attribute__((always_inline))
#define RF_KERNEL extern "C" __attribute__((global))
// Threads of a block: exactly so many, known to the register allocator.
#define RF_BOUNDS(threads) __attribute__((amdgpu_flat_work_group_size(threads, threads)))
// The host device keeps a table of its kernels; here the code object has one.
#define RF_REGISTER(name)
// Memory of the block (LDS): undefined at first.
#define RF_SHARED(T, name, n) __attribute__((shared)) T name[n]

#if defined(__GFX10__) || defined(__GFX11__) || defined(__GFX12__)
#define RF_WAVE 32
#else
#define RF_WAVE 64
#endif

// ---- Where am I ------------------------------------------------------------------------------

RF_DEV u32 tid_x() { return __builtin_amdgcn_workitem_id_x(); }
RF_DEV u32 bid_x() { return __builtin_amdgcn_workgroup_id_x(); }
RF_DEV u32 bid_y() { return __builtin_amdgcn_workgroup_id_y(); }
RF_DEV u32 bid_z() { return __builtin_amdgcn_workgroup_id_z(); }
// Thread of its team.
RF_DEV u32 lane() { return tid_x() & 31; }
// Wave of the block, as a scalar: what is computed from it may live in scalar registers.
RF_DEV u32 wave() { return __builtin_amdgcn_readfirstlane(tid_x() / RF_WAVE); }
// Team of the block: a scalar where a team is a wave.
RF_DEV u32 team() { return RF_WAVE == 32 ? wave() : tid_x() / 32; }
// Thread of its wave.
RF_DEV u32 wave_lane() { return tid_x() % RF_WAVE; }

// ---- Synchronization -------------------------------------------------------------------------

// All threads of the block; orders LDS. Global loads stay in flight across it, which the fences of
// HIP's __syncthreads() would wait for.
RF_DEV void barrier() {
#if defined(__GFX12__)
  asm volatile("s_wait_dscnt 0x0\n\ts_barrier_signal -1\n\ts_barrier_wait -1" ::: "memory");
#else
  asm volatile("s_waitcnt lgkmcnt(0)\n\ts_barrier" ::: "memory");
#endif
}

// The threads of a team; orders LDS between them.
RF_DEV void team_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

// The threads of a wave, likewise.
RF_DEV void wave_sync() { team_sync(); }

// Whether this block is the last of `of` blocks that come here with `counter`, which is zero before and after. What
// the others wrote before they came is visible to it. `last` is one word of LDS.
RF_DEV bool last_block(u32* counter, u32 of, u32* last) {
  // Every thread's stores are where all of the card sees them before the block counts.
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
  barrier();
  if (tid_x() == 0) *last = __builtin_amdgcn_atomic_inc32(counter, of - 1, __ATOMIC_RELAXED, "agent") == of - 1;
  barrier();
  if (!*last) return false;
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
  return true;
}

// ---- Across the lanes of a team --------------------------------------------------------------

RF_DEV u32 bits(float x) { return __builtin_bit_cast(u32, x); }
RF_DEV float from_bits(u32 x) { return __builtin_bit_cast(float, x); }

// The value of lane `source` of the team.
RF_DEV u32 shfl(u32 v, u32 source) {
  const u32 from = RF_WAVE == 32 ? source : (tid_x() & 32) | (source & 31);
  return (u32)__builtin_amdgcn_ds_bpermute((i32)(from << 2), (i32)v);
}
RF_DEV i32 shfl(i32 v, u32 source) { return (i32)shfl((u32)v, source); }
RF_DEV float shfl(float v, u32 source) { return from_bits(shfl(bits(v), source)); }

// The value of lane `lane() ^ MASK`, MASK a power of two below 32, or of another lane of which the
// same is true: good for reductions that double (all lanes of the lower groups agree by then).
template <u32 MASK> RF_DEV u32 swap(u32 v) {
#if defined(RF_NO_DPP)  // for emulators that read DPP's sources late
  return shfl(v, lane() ^ MASK);
#else
  const i32 i = (i32)v;
  if constexpr (MASK == 1) return (u32)__builtin_amdgcn_update_dpp(i, i, 0xB1, 0xf, 0xf, true);   // quad_perm 1,0,3,2
  if constexpr (MASK == 2) return (u32)__builtin_amdgcn_update_dpp(i, i, 0x4E, 0xf, 0xf, true);   // quad_perm 2,3,0,1
  if constexpr (MASK == 4) return (u32)__builtin_amdgcn_update_dpp(i, i, 0x141, 0xf, 0xf, true);  // row_half_mirror
  if constexpr (MASK == 8) return (u32)__builtin_amdgcn_update_dpp(i, i, 0x140, 0xf, 0xf, true);  // row_mirror
#if RF_WAVE == 32
  u32 r = __builtin_amdgcn_permlanex16(v, v, 0x76543210, 0xfedcba98, false, false);
  // clang 19 moves this exchange under a branch that only one lane takes (`if (lane() == 0)`), where the
  // other sixteen are inactive; device B found it. The result must exist here.
  asm volatile("" : "+v"(r));
  return r;
#else
  return (u32)__builtin_amdgcn_ds_swizzle(i, 0x401F);  // xor 16 within 32 lanes
#endif
#endif
}

// Sums and maxima over the aligned groups of N neighbouring lanes (2 to 32), in all of them.
template <u32 N = 32> RF_DEV float team_sum(float v) {
  v += from_bits(swap<1>(bits(v)));
  if constexpr (N > 2) v += from_bits(swap<2>(bits(v)));
  if constexpr (N > 4) v += from_bits(swap<4>(bits(v)));
  if constexpr (N > 8) v += from_bits(swap<8>(bits(v)));
  if constexpr (N > 16) v += from_bits(swap<16>(bits(v)));
  return v;
}
template <u32 N = 32> RF_DEV i32 team_sum(i32 v) {
  v += (i32)swap<1>((u32)v);
  if constexpr (N > 2) v += (i32)swap<2>((u32)v);
  if constexpr (N > 4) v += (i32)swap<4>((u32)v);
  if constexpr (N > 8) v += (i32)swap<8>((u32)v);
  if constexpr (N > 16) v += (i32)swap<16>((u32)v);
  return v;
}
// A NaN is ignored.
template <u32 N = 32> RF_DEV float team_max(float v) {
  v = __builtin_fmaxf(v, from_bits(swap<1>(bits(v))));
  if constexpr (N > 2) v = __builtin_fmaxf(v, from_bits(swap<2>(bits(v))));
  if constexpr (N > 4) v = __builtin_fmaxf(v, from_bits(swap<4>(bits(v))));
  if constexpr (N > 8) v = __builtin_fmaxf(v, from_bits(swap<8>(bits(v))));
  if constexpr (N > 16) v = __builtin_fmaxf(v, from_bits(swap<16>(bits(v))));
  return v;
}
// Of `bits(|x|)` it is the largest magnitude, and a NaN wins.
template <u32 N = 32> RF_DEV u32 team_max(u32 v) {
  v = __builtin_elementwise_max(v, swap<1>(v));
  if constexpr (N > 2) v = __builtin_elementwise_max(v, swap<2>(v));
  if constexpr (N > 4) v = __builtin_elementwise_max(v, swap<4>(v));
  if constexpr (N > 8) v = __builtin_elementwise_max(v, swap<8>(v));
  if constexpr (N > 16) v = __builtin_elementwise_max(v, swap<16>(v));
  return v;
}

// ---- Mathematics: the instruction itself -----------------------------------------------------

RF_DEV float rf_exp2(float x) { return __builtin_amdgcn_exp2f(x); }
RF_DEV float rf_rsqrt(float x) { return __builtin_amdgcn_rsqf(x); }
RF_DEV float rf_rcp(float x) { return __builtin_amdgcn_rcpf(x); }
RF_DEV float rf_round(float x) { return __builtin_rintf(x); }
RF_DEV float rf_max(float a, float b) { return __builtin_fmaxf(a, b); }
RF_DEV float rf_min(float a, float b) { return __builtin_fminf(a, b); }
RF_DEV float rf_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RF_DEV float rf_abs(float x) { return __builtin_fabsf(x); }
// `x`, rounded to f32 here and not fused into what uses it.
RF_DEV float rounded(float x) {
  asm("" : "+v"(x));
  return x;
}

// A pointer from an address that came as a number. That it is not LDS the compiler must be told.
template <class T> RF_DEV T* global_at(u64 address) { return (T*)(__attribute__((address_space(1))) T*)address; }

// ---- Packed dots -----------------------------------------------------------------------------

RF_DEV float dot2(h2 a, h2 b, float c) { return __builtin_amdgcn_fdot2(a, b, c, false); }
// Four i8 * i8, and i32.
RF_DEV i32 dp4a(i32 a, i32 b, i32 c) {
#if defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(true, a, true, b, c, false);
#else
  return __builtin_amdgcn_sdot4(a, b, c, false);
#endif
}
// Four u8 * i8, and i32. Bytes of `a` from 0x80 on only RDNA3 and later can do: keep below.
RF_DEV i32 dp4a_us(u32 a, i32 b, i32 c) {
#if defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(false, (i32)a, true, b, c, false);
#else
  return __builtin_amdgcn_sdot4((i32)a, b, c, false);
#endif
}

// ---- Matrix tiles ----------------------------------------------------------------------------
//
// C[16][16] += A[16][16] * B[16][16], f16 * f16 -> f32, by one wave:
//
//   Acc c = tile_zero();
//   c = tile_mma(tile_load_a(a, lda), tile_load_b(b, ldb), c);
//   for (u32 i = 0; i < TILE_ACC; i++) out[tile_row(i) * ld + tile_col(i)] = c[i];
//
// tile_load_a: A[m][k] is a[m * lda + k]; tile_load_b: B[k][n] is b[n * ldb + k]: both have k
// contiguous. Rows start on 16 bytes (lda, ldb multiples of 8). All threads of the wave take part.
// A fragment is a value: memory may change once it is loaded. Which elements a thread holds differs
// by target and is known to tile_row and tile_col alone.

#define TILE_ACC (256 / RF_WAVE)
typedef RF_VECTOR(float, TILE_ACC) Acc;
RF_DEV Acc tile_zero() { return (Acc)(0.f); }

#if defined(__GFX11__)
// v_wmma_f32_16x16x16_f16: lane l has row (column) l % 16, all k, and again in lanes 16-31.
struct TileA { h16 v; };
struct TileB { h16 v; };
RF_DEV h16 tile_line(const f16* p) {
  const h8 lo = *(const h8*)p, hi = *(const h8*)(p + 8);
  return __builtin_shufflevector(lo, hi, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
RF_DEV TileA tile_load_a(const f16* a, u32 lda) { return {tile_line(a + (lane() & 15) * lda)}; }
RF_DEV TileB tile_load_b(const f16* b, u32 ldb) { return {tile_line(b + (lane() & 15) * ldb)}; }
RF_DEV Acc tile_mma(TileA a, TileB b, Acc c) { return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a.v, b.v, c); }
RF_DEV u32 tile_row(u32 i) { return 2 * i + (lane() >> 4); }
RF_DEV u32 tile_col(u32) { return lane() & 15; }

#elif defined(__GFX12__)
// v_wmma_f32_16x16x16_f16 of gfx12: lane l has row (column) l % 16, k from 8 (l / 16) on.
struct TileA { h8 v; };
struct TileB { h8 v; };
RF_DEV h8 tile_line(const f16* p, u32 ld) { return *(const h8*)(p + (lane() & 15) * ld + (lane() >> 4) * 8); }
RF_DEV TileA tile_load_a(const f16* a, u32 lda) { return {tile_line(a, lda)}; }
RF_DEV TileB tile_load_b(const f16* b, u32 ldb) { return {tile_line(b, ldb)}; }
RF_DEV Acc tile_mma(TileA a, TileB b, Acc c) { return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a.v, b.v, c); }
RF_DEV u32 tile_row(u32 i) { return (lane() >> 4) * 8 + i; }
RF_DEV u32 tile_col(u32) { return lane() & 15; }

#elif defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx942__)
// v_mfma_f32_16x16x16f16: lane l of 64 has row (column) l % 16, k from 4 (l / 16) on.
struct TileA { h4 v; };
struct TileB { h4 v; };
RF_DEV h4 tile_line(const f16* p, u32 ld) { return *(const h4*)(p + (wave_lane() & 15) * ld + (wave_lane() >> 4) * 4); }
RF_DEV TileA tile_load_a(const f16* a, u32 lda) { return {tile_line(a, lda)}; }
RF_DEV TileB tile_load_b(const f16* b, u32 ldb) { return {tile_line(b, ldb)}; }
RF_DEV Acc tile_mma(TileA a, TileB b, Acc c) { return __builtin_amdgcn_mfma_f32_16x16x16f16(a.v, b.v, c, 0, 0, 0); }
RF_DEV u32 tile_row(u32 i) { return (wave_lane() >> 4) * 4 + i; }
RF_DEV u32 tile_col(u32) { return wave_lane() & 15; }

#else
// No matrix unit: a thread has four rows of A and COLS columns of B, all k, and multiplies by pairs.
#define TILE_COLS (TILE_ACC / 4)
#define TILE_ACROSS (16 / TILE_COLS)
struct TileA { h8 v[4][2]; };
struct TileB { h8 v[TILE_COLS][2]; };
RF_DEV TileA tile_load_a(const f16* a, u32 lda) {
  TileA t;
  const f16* p = a + wave_lane() / TILE_ACROSS * 4 * lda;
#pragma unroll
  for (u32 r = 0; r < 4; r++) t.v[r][0] = *(const h8*)(p + r * lda), t.v[r][1] = *(const h8*)(p + r * lda + 8);
  return t;
}
RF_DEV TileB tile_load_b(const f16* b, u32 ldb) {
  TileB t;
  const f16* p = b + wave_lane() % TILE_ACROSS * ldb;
#pragma unroll
  for (u32 c = 0; c < TILE_COLS; c++) {
    const f16* q = p + c * TILE_ACROSS * ldb;
    t.v[c][0] = *(const h8*)q, t.v[c][1] = *(const h8*)(q + 8);
  }
  return t;
}
RF_DEV float tile_dot(h8 a, h8 b, float c) {
  c = dot2(a.s01, b.s01, c);
  c = dot2(a.s23, b.s23, c);
  c = dot2(a.s45, b.s45, c);
  return dot2(a.s67, b.s67, c);
}
RF_DEV Acc tile_mma(TileA a, TileB b, Acc c) {
#pragma unroll
  for (u32 i = 0; i < TILE_ACC; i++)
    c[i] = tile_dot(a.v[i % 4][1], b.v[i / 4][1], tile_dot(a.v[i % 4][0], b.v[i / 4][0], c[i]));
  return c;
}
RF_DEV u32 tile_row(u32 i) { return wave_lane() / TILE_ACROSS * 4 + i % 4; }
RF_DEV u32 tile_col(u32 i) { return wave_lane() % TILE_ACROSS + i / 4 * TILE_ACROSS; }
#endif

#endif  // AMD

// ---- For all three, from what they define ----------------------------------------------------

RF_DEV float f16_to_f32(u16 h) { return (float)__builtin_bit_cast(f16, h); }
RF_DEV u16 f32_to_f16(float f) { return __builtin_bit_cast(u16, (f16)f); }
RF_DEV float bf16_to_f32(u16 h) { return from_bits((u32)h << 16); }

#define RF_LOG2E 1.4426950408889634f
#define RF_INF __builtin_inff()

RF_DEV float rf_exp(float x) { return rf_exp2(x * RF_LOG2E); }

// Below a quarter by its series: 1 - 2 / (e^2x + 1) would cancel.
RF_DEV float rf_tanh(float x) {
  const float s = x * x;
  const float small = x * rf_fma(s, rf_fma(s, rf_fma(s, -17.f / 315.f, 2.f / 15.f), -1.f / 3.f), 1.f);
  const float large = 1.f - 2.f * rf_rcp(rf_exp(2.f * x) + 1.f);
  return rf_abs(x) < 0.25f ? small : large;
}

RF_DEV float rf_silu(float x) { return x * rf_rcp(1.f + rf_exp(-x)); }
// Hendrycks & Gimpel 2016, the tanh form: x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
RF_DEV float rf_gelu(float x) {
  const float u = rf_fma(0.044715f * x * x, x, x);
  return x * rf_rcp(1.f + rf_exp(-1.5957691216f * u));
}

// f(i) for this thread's elements of n, four of them and 256 apart: blocks of 256, grid
// (n / 1024, rounded up).
template <class F> RF_DEV void each_element(u32 n, F f) {
  const u32 first = bid_x() * 1024 + tid_x();
#pragma unroll
  for (u32 j = 0; j < 4; j++)
    if (first + j * 256 < n) f(first + j * 256);
}

// The sum over a block of 32 * TEAMS threads, in all of them; `scratch` has TEAMS elements that
// nothing else uses before the block's next barrier.
template <u32 TEAMS> RF_DEV float block_sum(float v, float* scratch) {
  v = team_sum(v);
  if (lane() == 0) scratch[team()] = v;
  barrier();
  float s = 0.f;
#pragma unroll
  for (u32 i = 0; i < TEAMS; i++) s += scratch[i];
  return s;
}
template <u32 TEAMS> RF_DEV u32 block_max(u32 v, u32* scratch) {
  v = team_max(v);
  if (lane() == 0) scratch[team()] = v;
  barrier();
  u32 m = 0;
#pragma unroll
  for (u32 i = 0; i < TEAMS; i++) m = __builtin_elementwise_max(m, scratch[i]);
  return m;
}

// An activation in i8, "q8": 32 elements share d = amax / 127 and s = d * sum(q). Eight
// neighbouring lanes hold such a block, four elements each. Nothing below Q8_LEAST is told from
// zero; a NaN or infinity goes into d.
#define Q8_LEAST 1e-35f
struct Q8 {
  u32 q;    // this lane's four
  float d;  // of the block
  float s;
};
RF_DEV Q8 q8_quantize(f4 x) {
  u32 top = bits(rf_abs(x[0]));
#pragma unroll
  for (u32 i = 1; i < 4; i++) top = __builtin_elementwise_max(top, bits(rf_abs(x[i])));
  const float amax = from_bits(team_max<8>(top));
  const bool zero = amax < Q8_LEAST;
  const float inverse = zero ? 0.f : 127.f * rf_rcp(amax);
  Q8 r = {0, zero ? 0.f : amax * (1.f / 127.f), 0.f};
  i32 sum = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    const i32 q = (i32)rf_round(x[i] * inverse);
    sum += q;
    r.q |= ((u32)q & 0xff) << (8 * i);
  }
  r.s = r.d * (float)team_sum<8>(sum);
  return r;
}

// A row in f16, for the matrix unit: x = scale * h with |h| at most 256.
struct F16Scale {
  float scale, inverse;
};
RF_DEV F16Scale f16_scale(float amax) {
  const bool zero = amax < Q8_LEAST;
  return {zero ? 0.f : amax * (1.f / 256.f), zero ? 0.f : 256.f * rf_rcp(amax)};
}

// -- K2 --

// Bytes 2i and 2i + 1 of `q` as the f16 numbers 1024 + byte: 0x6400 is 1024, whose last place is 1.
RF_DEV h2 byte_pair(u32 q, u32 i) {
#if defined(__AMDGCN__)
  return __builtin_bit_cast(h2, __builtin_amdgcn_perm(0x64646464u, q, i ? 0x04030402u : 0x04010400u));
#else
  const u32 b = q >> (16 * i);
  return __builtin_bit_cast(h2, (b & 0xff) | (b & 0xff00) << 8 | 0x64006400u);
#endif
}
RF_DEV h2 h2_fma(h2 a, h2 b, h2 c) { return __builtin_elementwise_fma(a, b, c); }
RF_DEV h2 f2_to_h2(f2 v) { return __builtin_convertvector(v, h2); }
