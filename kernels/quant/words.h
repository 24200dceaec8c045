// Loads of several dwords from an address of known alignment: how the quant headers read a block.
// A block of GGUF lies at a multiple of what its size allows (18 bytes: 2, 20: 4, 144: 16). The
// alignment is part of the type, so that each target gets the widest load it may use: AMD cards
// read 16 bytes at any even address, NVIDIA cards (the test device) only at a multiple of 16.
#pragma once
#include "../prelude.h"

template <u32 ALIGN, u32 N> struct __attribute__((packed, aligned(ALIGN))) Words { u32 v[N]; };

#if defined(RF_CUDA)
// Words at an odd multiple of two are parts of aligned ones: fewer loads than one for each half.
template <u32 ALIGN, u32 N> RF_DEV Words<ALIGN, N> words(const u8* p) {
  if constexpr (ALIGN == 2) {
    const u32 odd = (u32)(u64)p & 2;
    const u32* a = (const u32*)(p - odd);
    u32 w[N + 1];
    for (u32 i = 0; i < N; i++) w[i] = a[i];
    w[N] = a[odd ? N : N - 1];
    Words<ALIGN, N> r;
    for (u32 i = 0; i < N; i++) asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(r.v[i]) : "r"(w[i]), "r"(w[i + 1]), "r"(8 * odd));
    return r;
  } else {
    return *(const Words<ALIGN, N>*)p;
  }
}
#else
template <u32 ALIGN, u32 N> RF_DEV Words<ALIGN, N> words(const u8* p) { return *(const Words<ALIGN, N>*)p; }
#endif

RF_DEV float half_at(const u8* p) { return f16_to_f32(*(const u16*)p); }
RF_DEV float low_half(u32 w) { return f16_to_f32((u16)(w & 0xffff)); }
RF_DEV float high_half(u32 w) { return f16_to_f32((u16)(w >> 16)); }
RF_DEV float byte_of(u32 w, u32 i) { return (float)(w >> (8 * i) & 0xff); }

// Bits 0..3 of n become bit 4 of bytes 0..3: the fifth bit of four codes. The three shifted copies
// that the product adds do not overlap, and both factors fit in 24 bits, where AMD multiplies fastest.
RF_DEV u32 fifth_bits(u32 n) { return ((n & 15) * 0x204081u & 0x01010101u) << 4; }
