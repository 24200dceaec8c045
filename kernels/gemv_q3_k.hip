// The kernels of gemv.h for Q3_K weights.
#include "gemv.h"
#include "quant/q3_k.h"

GEMV_FORMAT(q3_k, Q3_K)
