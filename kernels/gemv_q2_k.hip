// The kernels of gemv.h for Q2_K weights.
#include "gemv.h"
#include "quant/q2_k.h"

GEMV_FORMAT(q2_k, Q2_K)
