// rf_prelude.h — everything a rocmforge kernel needs, with no ROCm, no libc, no
// device libs:  clang++-19 -x hip -nogpuinc -nogpulib --cuda-device-only
// The same kernel sources build three ways:
//   RF_AMD   clang -x hip           -> .hsaco                (product)
//   RF_CUDA  nvcc                   -> cubin                 (test tier on an NVIDIA card)
//   RF_HOST  g++/clang++ as C++17   -> lockstep CPU emulator (test tier, no GPU)
#pragma once
#if defined(__HIP__) && !defined(RF_CUDA) && !defined(RF_HOST)
#define RF_AMD 1
typedef unsigned char u8; typedef signed char i8; typedef unsigned short u16; typedef short i16;
typedef unsigned int u32; typedef int i32; typedef unsigned long u64; typedef long i64;
typedef _Float16 f16; typedef __bf16 bf16;
#define __global__     __attribute__((global))
#define __device__     __attribute__((device))
#define __host__       __attribute__((host))
#define __shared__     __attribute__((shared))
#define __constant__   __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define RF_BOUNDS(t, b) __attribute__((amdgpu_flat_work_group_size(1, t), amdgpu_waves_per_eu(b)))
#define RF_DEV  static __device__ __forceinline__
#define RF_KERNEL extern "C" __global__
#define RF_SHARED(T, name, n) __shared__ T name[n]
#if defined(__GFX12__) || defined(__GFX11__) || defined(__GFX10__)
#define RF_WAVE 32
#else
#define RF_WAVE 64
#endif
typedef f16   h2   __attribute__((ext_vector_type(2)));
typedef f16   h8   __attribute__((ext_vector_type(8)));
typedef f16   h16  __attribute__((ext_vector_type(16)));
typedef f16   h4   __attribute__((ext_vector_type(4)));
typedef float f4   __attribute__((ext_vector_type(4)));
typedef float f2   __attribute__((ext_vector_type(2)));
typedef float f8   __attribute__((ext_vector_type(8)));
typedef float f16v __attribute__((ext_vector_type(16)));
typedef i32   i2v  __attribute__((ext_vector_type(2)));
typedef i32   i4v  __attribute__((ext_vector_type(4)));
typedef i32   i8v  __attribute__((ext_vector_type(8)));
typedef i32   i16v __attribute__((ext_vector_type(16)));
typedef i16   s8v  __attribute__((ext_vector_type(8)));
typedef i16   s16v __attribute__((ext_vector_type(16)));

RF_DEV u32 tid_x() { return __builtin_amdgcn_workitem_id_x(); }
RF_DEV u32 tid_y() { return __builtin_amdgcn_workitem_id_y(); }
RF_DEV u32 tid_z() { return __builtin_amdgcn_workitem_id_z(); }
RF_DEV u32 bid_x() { return __builtin_amdgcn_workgroup_id_x(); }
RF_DEV u32 bid_y() { return __builtin_amdgcn_workgroup_id_y(); }
RF_DEV u32 bid_z() { return __builtin_amdgcn_workgroup_id_z(); }
RF_DEV u32 bdim_x(){ return __builtin_amdgcn_workgroup_size_x(); }
RF_DEV u32 gdim_x(){ return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
RF_DEV u32 lane()  {
  u32 l = __builtin_amdgcn_mbcnt_lo(~0u, 0u);
  if constexpr (RF_WAVE == 64) l = __builtin_amdgcn_mbcnt_hi(~0u, l);
  return l;
}
RF_DEV void barrier() {                       // __syncthreads() for LDS: global loads stay in flight across it
#if defined(__GFX12__)
  asm volatile("s_wait_dscnt 0x0\n\ts_barrier_signal -1\n\ts_barrier_wait -1" ::: "memory");
#else
  asm volatile("s_waitcnt lgkmcnt(0)\n\ts_barrier" ::: "memory");
#endif
}
RF_DEV void barrier_global() {                // also orders global memory inside the work group (buffer_gl0_inv on RDNA)
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
RF_DEV i32 shfl_i(i32 v, u32 src) { return __builtin_amdgcn_ds_bpermute((i32)(src << 2), v); }
RF_DEV float shfl(float v, u32 src) { return __builtin_bit_cast(float, shfl_i(__builtin_bit_cast(i32, v), src)); }
RF_DEV float shfl_xor(float v, u32 m) { return shfl(v, lane() ^ m); }
RF_DEV i32   shfl_xor_i(i32 v, u32 m) { return shfl_i(v, lane() ^ m); }
RF_DEV u64   ballot(bool p) {
#if RF_WAVE == 32
  return (u64)__builtin_amdgcn_ballot_w32(p);
#else
  return __builtin_amdgcn_ballot_w64(p);
#endif
}
// ---- fast cross-lane (DPP within 16 lanes; no LDS unit) ----
template <int CTRL> RF_DEV float dpp(float v) {
  i32 i = __builtin_bit_cast(i32, v);
  return __builtin_bit_cast(float, __builtin_amdgcn_update_dpp(i, i, CTRL, 0xf, 0xf, true));
}
RF_DEV float wave_sum32(float v) {            // sum over 32 lanes, result in all lanes
#ifdef RF_NO_DPP                              // (tinygrad's emulator mis-executes DPP when vdst == vsrc0)
  for (u32 m = 1; m < 32; m <<= 1) v += shfl_xor(v, m);
  return v;
#endif
  v += dpp<0xB1>(v);                          // quad_perm [1,0,3,2]  (xor 1)
  v += dpp<0x4E>(v);                          // quad_perm [2,3,0,1]  (xor 2)
  v += dpp<0x141>(v);                         // row_half_mirror      (xor 4, sums equal in quads)
  v += dpp<0x140>(v);                         // row_mirror           (xor 8)
  v += shfl_xor(v, 16);                       // permlanex16/ds_bpermute
  return v;
}
// ---- math: straight to the instruction / to LLVM lowering, no ocml ----
RF_DEV float rf_exp2(float x) { return __builtin_amdgcn_exp2f(x); }
RF_DEV float rf_exp (float x) { return __builtin_amdgcn_exp2f(x * 1.4426950408889634f); }
RF_DEV float rf_log2(float x) { return __builtin_amdgcn_logf(x); }
RF_DEV float rf_rsqrt(float x){ return __builtin_amdgcn_rsqf(x); }
RF_DEV float rf_rcp (float x) { return __builtin_amdgcn_rcpf(x); }
RF_DEV float rf_sqrt(float x) { return __builtin_amdgcn_sqrtf(x); }
RF_DEV float rf_sin_turns(float x) { return __builtin_amdgcn_sinf(x); }  // argument in revolutions
RF_DEV float rf_cos_turns(float x) { return __builtin_amdgcn_cosf(x); }
RF_DEV float rf_max(float a, float b) { return __builtin_fmaxf(a, b); }
RF_DEV float rf_min(float a, float b) { return __builtin_fminf(a, b); }
RF_DEV float rf_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
RF_DEV float rf_tanh(float x) { float e = rf_exp(2.f * x); return 1.f - 2.f * rf_rcp(e + 1.f); }
RF_DEV h2 h2_fma(h2 a, h2 b, h2 c) { return __builtin_elementwise_fma(a, b, c); }
// ---- packed dots ----
RF_DEV float dot2(h2 a, h2 b, float c) {
#if defined(__gfx1010__) || defined(__gfx900__)
  return c + (float)a.x * (float)b.x + (float)a.y * (float)b.y;
#else
  return __builtin_amdgcn_fdot2(a, b, c, false);
#endif
}
RF_DEV i32 dp4a(i32 a, i32 b, i32 c) {        // 4 x i8*i8 + i32
#if defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(true, a, true, b, c, false);
#else
  return __builtin_amdgcn_sdot4(a, b, c, false);
#endif
}
RF_DEV i32 dp4a_us(u32 a, i32 b, i32 c) {     // u8*i8: only RDNA3+ has it in one instruction
#if defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(false, (i32)a, true, b, c, false);
#else
  return __builtin_amdgcn_sdot4((i32)a, b, c, false);   // valid while a's bytes < 128 (q4/q5/q6)
#endif
}
#if defined(__GFX11__)
RF_DEV f8 wmma_f32_f16(h16 a, h16 b, f8 c) { return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c); }
#endif
// ---- atomics ----
RF_DEV void atomic_add(float* p, float v) { __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
RF_DEV u32  atomic_inc(u32* p, u32 v)     { return __hip_atomic_fetch_add(p, v, __ATOMIC_ACQ_REL, __HIP_MEMORY_SCOPE_AGENT); }
RF_DEV void fence_agent() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }
// ---- bit casts / loads ----
RF_DEV float f16_to_f32(u16 h) { return (float)__builtin_bit_cast(f16, h); }
RF_DEV u16   f32_to_f16(float f) { return __builtin_bit_cast(u16, (f16)f); }
RF_DEV float bf16_to_f32(u16 h) { return __builtin_bit_cast(float, (u32)h << 16); }
#endif

#if defined(RF_HOST)
#include "host.h"
#endif

#if defined(RF_CUDA)
#include "cuda.h"
#endif
