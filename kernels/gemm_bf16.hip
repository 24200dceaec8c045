// The kernel of gemm.h for BF16 weights.
#include "gemm.h"
#include "quant/bf16.h"

GEMM_FORMAT(bf16, BF16)
