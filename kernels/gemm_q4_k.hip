// The kernel of gemm.h for Q4_K weights.
#include "gemm.h"
#include "quant/q4_k.h"

GEMM_FORMAT(q4_k, Q4_K)
