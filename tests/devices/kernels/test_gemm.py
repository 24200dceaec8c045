"""kernels/gemm*.hip against sums in f64 over what PyPI's `gguf` says the weights are."""

import numpy as np

from hip import ceil_div
from quants import CODED, FORMATS, ProductTest, pack, quantize_f16, random_rows, values

# f32 weights go through gemv, whose products are as exact as they are.
HALVES = ["f16", "bf16"]


class Gemm(ProductTest):
    def launch(self, fmt, rows, y, bias, residual, n, k, xh, xs, n_cols):
        self.d.launch(f"gemm_{fmt}", (ceil_div(n, 128), ceil_div(n_cols, 64)), 256, self.d.array(rows), y, bias, residual,
                      n, k, self.d.array(xh), self.d.array(xs), n_cols)

    def product(self, fmt, rows, n_cols, extras, what):
        """With a bias and a residual that is the output, or with neither."""
        w = values(fmt, rows)
        n, k = w.shape
        xh, xs = quantize_f16(self.activations(n_cols, k))
        x = xh.astype(np.float64) * xs[:, None]
        bias, residual = self.normal(n), self.normal(n_cols, n)
        y = self.d.array(residual)
        self.launch(fmt, rows, y, self.d.array(bias) if extras else None, y if extras else None, n, k, xh, xs, n_cols)
        want = x @ w.T + (bias + residual if extras else 0)
        # Each weight is rounded to 11 bits, and its scale before that.
        bound = 2**-9 * np.sqrt(x**2 @ (w**2).T) + 1e-6 * (np.abs(x) @ np.abs(w).T) + (2e-6 if extras else 0)
        self.within(y.read(), want, bound, f"gemm_{fmt} {n_cols} columns, k {k}, n {n}, {what}")
        self.d.release()

    def every(self, fmt):
        block = FORMATS[fmt][0]
        lengths = [1, 40, 63, 257] if fmt in HALVES else [block, 2 * block, 3 * block, 5 * block]
        shapes = [(1, 1), (70, 33), (129, 65), (300, 130)]
        for i, (k, (n, n_cols)) in enumerate(zip(lengths, shapes)):
            self.product(fmt, random_rows(self.rng, fmt, n, k), n_cols, i % 2 == 1, "")
        if fmt in HALVES:
            self.changing(fmt)

    def test_weights_of_every_size(self):
        """From where f16 has few bits to where it has no number."""
        for size in [1e-30, 1e-6, 1e7, 1e30]:
            self.product("bf16", random_rows(self.rng, "bf16", 20, 200, size), 5, False, f"size {size}")
        for fmt in CODED:
            for size in [1e-5, 1e5]:
                self.product(fmt, random_rows(self.rng, fmt, 20, 2 * FORMATS[fmt][0], size), 5, False, f"size {size}")

    def changing(self, fmt):
        """The first weights of a row choose its factor; later ones that are larger lower it."""
        w = self.normal(150, 330)
        w[::7, :70] *= 1e-4
        w[1::7, :200] = 0
        w[2::7, 100:] *= 1e-4
        w[3::7, :] *= np.exp(np.linspace(-9, 10, 330))
        w[4::7, :64] *= 1e-3
        w[4::7, 200:] *= 1e4
        w[5::7, :] = 0
        if fmt != "f16":
            w[6::7, 128:] *= 1e20
        self.product(fmt, pack(fmt, w), 3, False, "sizes that change")

    def test_what_is_not_finite_stays_in_its_row_and_column(self):
        for fmt in HALVES:
            w = self.normal(140, 100)
            w[3, 90], w[7, 5], w[131, 66] = np.nan, np.inf, -np.inf
            xh, xs = quantize_f16(self.activations(70, 100))
            xs[66] = np.nan
            y = self.d.empty((70, 140))
            self.launch(fmt, pack(fmt, w), y, None, None, 140, 100, xh, xs, 70)
            want = np.ones((70, 140), bool)
            want[66, :], want[:, [3, 7, 131]] = False, False
            np.testing.assert_array_equal(np.isfinite(y.read()), want, fmt)
            self.d.release()


for _fmt in HALVES + CODED:
    setattr(Gemm, f"test_{_fmt}", lambda self, fmt=_fmt: self.every(fmt))
