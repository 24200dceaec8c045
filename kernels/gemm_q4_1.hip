// The kernel of gemm.h for Q4_1 weights.
#include "gemm.h"
#include "quant/q4_1.h"

GEMM_FORMAT(q4_1, Q4_1)
