"""kernels/gemv*.hip against sums in f64 over what PyPI's `gguf` says the weights are."""

import numpy as np

from hip import ceil_div
from quants import CODED, FLOATS, FORMATS, ProductTest, pack, quantize_q8, random_rows, values

COLUMNS = [1, 2, 4, 8]


def activate(x, act):
    if act == 0:
        return x / (1 + np.exp(-np.clip(x, -700, 700)))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


class Gemv(ProductTest):
    def sizes(self, fmt):
        """One block, a few, a length that fills the lanes unevenly, and one of several rounds; any for floats."""
        block = FORMATS[fmt][0]
        return [1, 7, 8, 257, 2059] if fmt in FLOATS else [block, 3 * block, 37 * 256]

    def bound(self, x, w):
        """Rounding of sums in f32: a small part of the sum of magnitudes."""
        return 1e-5 * (np.abs(x) @ np.abs(w).T) + 2e-6

    def matrices(self, fmt, columns, n_cols, k, n):
        """Three matrices of n rows, with biases for the first and last and a residual that is the first's output."""
        self.together(f"gemv_{fmt}_c{columns}", [fmt] * 3, n_cols, k, n)

    def together(self, name, formats, n_cols, k, n):
        x, xq, xd = self.inputs(formats[0], n_cols, k)
        rows = [random_rows(self.rng, fmt, m, k) if m else None for fmt, m in zip(formats, n)]
        bias = [self.normal(n[0]), None, self.normal(max(n[2], 1))]
        residual = self.normal(n_cols, n[0])
        d_w = [None if w is None else self.d.array(w) for w in rows]
        d_b = [None if b is None else self.d.array(b) for b in bias]
        # A last matrix of another format has blocks of its own.
        plain = ceil_div(n[0] + n[1], 4) + ceil_div(n[2], 4) if formats[2] != formats[0] else ceil_div(sum(n), 4)
        for suffix, grid in [("", plain), ("_k4", sum(n))]:
            y = [self.d.array(residual)] + [self.d.empty((n_cols, m)) if m else None for m in n[1:]]
            self.d.launch(name + suffix, grid, 128, *d_w, *y, *d_b, y[0], *n, k, xq, xd, n_cols)
            for i, m in enumerate(n):
                if m == 0:
                    continue
                w = values(formats[i], rows[i])
                want = x @ w.T + (0 if bias[i] is None else bias[i]) + (residual if i == 0 else 0)
                self.within(y[i].read(), want, self.bound(x, w), f"{name}{suffix} {n_cols} columns, k {k}, matrix {i} of {n}")
        self.d.release()

    def glu(self, fmt, columns, n_cols, k, n, act):
        x, xq, xd = self.inputs(fmt, n_cols, k)
        gate, up = random_rows(self.rng, fmt, n, k, 0.05), random_rows(self.rng, fmt, n, k)
        y = self.d.empty((n_cols, n))
        self.d.launch(f"gemv_glu_{fmt}_c{columns}", ceil_div(n, 4), 128, self.d.array(gate), self.d.array(up), y, n, k,
                      xq, xd, n_cols, act)
        g, u = values(fmt, gate), values(fmt, up)
        a, b = activate(x @ g.T, act), x @ u.T
        bound = 1.2 * self.bound(x, g) * np.abs(b) + self.bound(x, u) * np.abs(a) + 5e-6 * np.abs(a * b) + 1e-6
        self.within(y.read(), a * b, bound, f"gemv_glu_{fmt}_c{columns} {n_cols} columns, k {k}, n {n}, act {act}")
        self.d.release()

    def every(self, fmt):
        for k in self.sizes(fmt):
            for columns in COLUMNS:
                for n_cols in range(columns // 2 + 1, columns + 1):
                    n = [int(m) for m in self.rng.integers(1, 8, 3)]
                    n[1 + n_cols % 2] *= int(k % 3 > 0)
                    self.matrices(fmt, columns, n_cols, k, n)
                    self.glu(fmt, columns, n_cols, k, n[0], n_cols % 2)

    def test_rows_in_number(self):
        """Teams have one to four rows at once."""
        for n in range(1, 19):
            self.matrices("q4_0", COLUMNS[n % 4], COLUMNS[n % 4], 64, [n, 0, 0])
            self.glu("q4_0", COLUMNS[n % 4], COLUMNS[n % 4], 64, n, n % 2)

    def two(self, fmt, last):
        for k in [256, 3 * 256, 37 * 256]:
            for columns in COLUMNS:
                for n_cols in range(columns // 2 + 1, columns + 1):
                    n = [int(m) for m in self.rng.integers(1, 10, 3)]
                    n[1] *= int(k % 3 > 0)
                    self.together(f"gemv_{fmt}_{last}_c{columns}", [fmt, fmt, last], n_cols, k, n)

    def test_two_q4_k_q6_k(self):
        self.two("q4_k", "q6_k")

    def test_two_q5_k_q6_k(self):
        self.two("q5_k", "q6_k")

    def test_fewer_columns_than_half(self):
        for n_cols in range(1, 8):
            self.matrices("q6_k", 8, n_cols, 256, [5, 0, 0])

    def test_neither_bias_nor_residual(self):
        x, xq, xd = self.inputs("q4_1", 1, 96)
        w = random_rows(self.rng, "q4_1", 3, 96)
        y = self.d.empty((1, 3))
        self.d.launch("gemv_q4_1_c1", 1, 128, self.d.array(w), None, None, y, None, None, None, None, None, None,
                      3, 0, 0, 96, xq, xd, 1)
        self.within(y.read(), x @ values("q4_1", w).T, self.bound(x, values("q4_1", w)), "gemv_q4_1_c1")

    def test_nan_stays_in_its_row_and_column(self):
        for fmt in FORMATS:
            k = 2 * max(FORMATS[fmt][0], 32)
            x = self.activations(4, k)
            if fmt in FLOATS:
                x[2, 3] = np.nan
                xq, xd = self.d.array(x), None
                w = values(fmt, random_rows(self.rng, fmt, 6, k))
                w[1, k - 1] = np.nan
                rows = pack(fmt, w)
            else:
                q, xd = quantize_q8(x)
                xd[2, 1, :] = np.nan
                xq, xd = self.d.array(q), self.d.array(xd)
                rows = random_rows(self.rng, fmt, 6, k)
                at = FORMATS[fmt][2][0]
                rows[1, at:at + 2] = np.array([np.nan], "<f2").view(np.uint8)
            y = self.d.empty((4, 6))
            self.d.launch(f"gemv_{fmt}_c4", 2, 128, self.d.array(rows), None, None, y, None, None, None, None, None,
                          None, 6, 0, 0, k, xq, xd, 4)
            want = np.zeros((4, 6), bool)
            want[2, :], want[:, 1] = True, True
            np.testing.assert_array_equal(np.isnan(y.read()), want, fmt)
            self.d.release()


for _fmt in FLOATS + CODED:
    setattr(Gemv, f"test_{_fmt}", lambda self, fmt=_fmt: self.every(fmt))
