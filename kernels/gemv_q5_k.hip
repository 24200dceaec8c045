// The kernels of gemv.h for Q5_K weights.
#include "gemv.h"
#include "quant/q5_k.h"

GEMV_FORMAT(q5_k, Q5_K)
