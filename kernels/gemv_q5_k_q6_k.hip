// The products of gemv.h for matrices of Q5_K and a last one of Q6_K: query, key and value in one launch
// where files mix these formats, as llama.cpp's Q5_K_M does.
#include "gemv.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"

GEMV_TWO_FORMATS(q5_k_q6_k, Q5_K, Q6_K)
