// The kernels of gemv.h for Q4_1 weights.
#include "gemv.h"
#include "quant/q4_1.h"

GEMV_FORMAT(q4_1, Q4_1)
