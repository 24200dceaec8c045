// The kernel of gemm.h for F16 weights.
#include "gemm.h"
#include "quant/f16.h"

GEMM_FORMAT(f16, F16)
