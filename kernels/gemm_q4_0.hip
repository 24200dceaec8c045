// The kernel of gemm.h for Q4_0 weights.
#include "gemm.h"
#include "quant/q4_0.h"

GEMM_FORMAT(q4_0, Q4_0)
