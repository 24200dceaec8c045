// The kernels of gemv.h for BF16 weights.
#include "gemv.h"
#include "quant/bf16.h"

GEMV_FORMAT(bf16, BF16)
