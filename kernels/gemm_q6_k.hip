// The kernel of gemm.h for Q6_K weights.
#include "gemm.h"
#include "quant/q6_k.h"

GEMM_FORMAT(q6_k, Q6_K)
