"""Weights in GGUF formats and activations in the kernels' own, in numpy.

Values of weights come from an independent implementation, PyPI's `gguf`.
"""

import numpy as np
from gguf import GGMLQuantizationType, quants

from hip import KernelTest

# Weights and bytes of a block, and where it has f16 numbers (random bytes would be NaN now and then).
FORMATS = {
    "f32": (1, 4, []), "f16": (1, 2, []), "bf16": (1, 2, []),
    "q4_0": (32, 18, [0]), "q4_1": (32, 20, [0, 2]), "q5_0": (32, 22, [0]), "q5_1": (32, 24, [0, 2]),
    "q8_0": (32, 34, [0]), "q2_k": (256, 84, [80, 82]), "q3_k": (256, 110, [108]), "q4_k": (256, 144, [0, 2]),
    "q5_k": (256, 176, [0, 2]), "q6_k": (256, 210, [208]),
}
FLOATS = ["f32", "f16", "bf16"]
CODED = [f for f in FORMATS if f not in FLOATS]


def pack(fmt, weights):
    """Rows of numbers as bytes of a float format."""
    if fmt == "bf16":
        words = (weights.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        words = weights.astype({"f32": np.float32, "f16": np.float16}[fmt])
    return words.view(np.uint8).reshape(len(weights), -1)


def random_rows(rng, fmt, n, k, size=1.0):
    """`n` rows of `k` weights as bytes: codes and integer scales take every value, f16 scales both signs."""
    block, size_of, scales = FORMATS[fmt]
    if fmt in FLOATS:
        return pack(fmt, rng.standard_normal((n, k)) * size + 0.1 * size)
    rows = rng.integers(0, 256, (n, k // block, size_of), dtype=np.uint8)
    for at in scales:
        d = size * rng.uniform(0.005, 0.02, (n, k // block)) * rng.choice([-1, 1], (n, k // block))
        rows[:, :, at:at + 2] = d.astype("<f2")[..., None].view(np.uint8)
    return rows.reshape(n, -1)


def values(fmt, rows):
    """The weights of rows, in f64."""
    if fmt == "bf16":
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if fmt in FLOATS:
        return rows.view({"f32": np.float32, "f16": np.float16}[fmt]).astype(np.float64)
    return quants.dequantize(rows, GGMLQuantizationType[fmt.upper()]).astype(np.float64)


def quantize_q8(x):
    """Rows of activations as gemv takes them: codes, and {d, s} for each 32 of them."""
    groups = x.reshape(len(x), -1, 32)
    d = (np.abs(groups).max(-1) / np.float32(127)).astype(np.float32)
    q = np.rint(groups / d[..., None]).astype(np.int8)
    xd = np.stack([d, d * q.sum(-1, dtype=np.int32).astype(np.float32)], -1)
    return q.reshape(x.shape), xd.astype(np.float32)


def quantize_f16(x):
    """Rows of activations as gemm takes them: f16 of at most 256, and the scale of each row."""
    xs = (np.abs(x).max(-1) / np.float32(256)).astype(np.float32)
    return (x / xs[:, None]).astype(np.float16), xs


class ProductTest(KernelTest):
    def activations(self, rows, k):
        """Numbers of which some are much larger than others."""
        return (self.normal(rows, k) * np.exp(self.rng.standard_normal((rows, k)))).astype(np.float32)

    def inputs(self, fmt, columns, k):
        """Activations for gemv: their values in f64, and the two buffers that hold them."""
        x = self.activations(columns, k)
        if fmt in FLOATS:
            return x.astype(np.float64), self.d.array(x), None
        q, xd = quantize_q8(x)
        exact = (q.reshape(columns, -1, 32) * xd[..., :1].astype(np.float64)).reshape(columns, k)
        return exact, self.d.array(q), self.d.array(xd)

    def within(self, got, want, bound, what):
        """Every element no further from `want` than its `bound`."""
        self.assertEqual(got.shape, want.shape, what)
        error = np.abs(got - want)
        bad = ~(error <= bound)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            self.fail(f"{what}: {bad.sum()} of {bad.size} elements are off, first at {at}: "
                      f"{got[at]} instead of {want[at]} (allowed {bound[at]})")
