// The kernel of gemm.h for Q3_K weights.
#include "gemm.h"
#include "quant/q3_k.h"

GEMM_FORMAT(q3_k, Q3_K)
