// The scalars and vectors that kernels are written in, the same for all three ways to build them
// (prelude.h): what a buffer holds must not depend on who runs the kernel.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long u64;
typedef long i64;
typedef _Float16 f16;

#define RF_VECTOR(T, n) T __attribute__((ext_vector_type(n)))
typedef RF_VECTOR(f16, 2) h2;
typedef RF_VECTOR(f16, 4) h4;
typedef RF_VECTOR(f16, 8) h8;
typedef RF_VECTOR(f16, 16) h16;
typedef RF_VECTOR(float, 2) f2;
typedef RF_VECTOR(float, 4) f4;
typedef RF_VECTOR(float, 8) f8;
typedef RF_VECTOR(u32, 2) u2;
typedef RF_VECTOR(u32, 4) u4;
