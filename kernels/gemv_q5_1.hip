// The kernels of gemv.h for Q5_1 weights.
#include "gemv.h"
#include "quant/q5_1.h"

GEMV_FORMAT(q5_1, Q5_1)
