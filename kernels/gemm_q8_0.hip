// The kernel of gemm.h for Q8_0 weights.
#include "gemm.h"
#include "quant/q8_0.h"

GEMM_FORMAT(q8_0, Q8_0)
