// The kernel of gemm.h for F32 weights.
#include "gemm.h"
#include "quant/f32.h"

GEMM_FORMAT(f32, F32)
