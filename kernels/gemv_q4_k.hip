// The kernels of gemv.h for Q4_K weights.
#include "gemv.h"
#include "quant/q4_k.h"

GEMV_FORMAT(q4_k, Q4_K)
