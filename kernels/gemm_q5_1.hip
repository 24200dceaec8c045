// The kernel of gemm.h for Q5_1 weights.
#include "gemm.h"
#include "quant/q5_1.h"

GEMM_FORMAT(q5_1, Q5_1)
