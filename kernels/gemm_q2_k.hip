// The kernel of gemm.h for Q2_K weights.
#include "gemm.h"
#include "quant/q2_k.h"

GEMM_FORMAT(q2_k, Q2_K)
