// The kernel of gemm.h for Q5_0 weights.
#include "gemm.h"
#include "quant/q5_0.h"

GEMM_FORMAT(q5_0, Q5_0)
