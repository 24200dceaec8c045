// The kernels of gemv.h for Q6_K weights.
#include "gemv.h"
#include "quant/q6_k.h"

GEMV_FORMAT(q6_k, Q6_K)
