// The kernel of gemm.h for Q5_K weights.
#include "gemm.h"
#include "quant/q5_k.h"

GEMM_FORMAT(q5_k, Q5_K)
