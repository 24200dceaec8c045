"""kernels/quantize.hip against numpy."""

import numpy as np

from hip import ceil_div
from quants import ProductTest

EPS = 1e-6


class Quantize(ProductTest):
    def q8(self, rows, k):
        return self.d.empty((rows, k), np.int8), self.d.empty((rows, k // 32, 2))

    def f16(self, rows, k):
        return self.d.empty((rows, k), np.float16), self.d.empty(rows)

    def check_q8(self, x, xq, xd, slack, what):
        """x is d * q to half a step, d is the largest of 32 over 127, s their sum."""
        q, d, s = xq.read().astype(np.float64), xd.read()[..., 0], xd.read()[..., 1]
        groups = np.asarray(x, np.float64).reshape(len(x), -1, 32)
        np.testing.assert_allclose(d, np.abs(groups).max(-1) / 127, rtol=1e-6 + slack, err_msg=what)
        step = np.repeat(d.astype(np.float64), 32, axis=-1).reshape(x.shape)
        self.within(q * step, np.asarray(x, np.float64), step * 0.501 + slack * np.abs(x), what)
        np.testing.assert_allclose(s, d * q.reshape(groups.shape).sum(-1), rtol=1e-6, err_msg=what)
        self.assertTrue((np.abs(q.reshape(groups.shape)).max(-1) == 127).all(), what)

    def check_f16(self, x, xh, xs, slack, what):
        h, s = xh.read().astype(np.float64), xs.read().astype(np.float64)
        x = np.asarray(x, np.float64)
        np.testing.assert_allclose(s, np.abs(x).max(-1) / 256, rtol=1e-6 + slack, err_msg=what)
        self.within(h * s[:, None], x, np.abs(x) * (2**-11 + 1e-6 + slack) + 2**-24 * s[:, None], what)

    def test_q8(self):
        for rows, k in [(1, 32), (3, 96), (2, 1024), (2, 1056), (5, 4128)]:
            for size in [1.0, 1e-30, 1e30]:
                x = (self.activations(rows, k) * size).astype(np.float32)
                xq, xd = self.q8(rows, k)
                self.d.launch("quantize_q8", (rows, ceil_div(k, 1024)), 256, self.d.array(x), xq, xd, k)
                self.check_q8(x, xq, xd, 0, f"quantize_q8 {rows} x {k}, size {size}")
                self.d.release()

    def test_f16(self):
        for rows, k in [(1, 1), (3, 30), (2, 1024), (2, 1027), (5, 4128)]:
            for size in [1.0, 1e-30, 1e30]:
                x = (self.activations(rows, k) * size).astype(np.float32)
                xh, xs = self.f16(rows, k)
                self.d.launch("quantize_f16", rows, 256, self.d.array(x), xh, xs, k)
                self.check_f16(x, xh, xs, 0, f"quantize_f16 {rows} x {k}, size {size}")
                self.d.release()

    def test_nothing_and_what_is_not_finite(self):
        x = self.normal(6, 64)
        x[0], x[1], x[2, :32] = 0, 9e-36, 0
        x[3, 40], x[4, 3], x[5, 63] = np.nan, np.inf, -np.inf
        xq, xd = self.q8(6, 64)
        self.d.launch("quantize_q8", 6, 256, self.d.array(x), xq, xd, 64)
        q, d = xq.read(), xd.read()
        self.assertTrue((q[:2] == 0).all() and (d[:2] == 0).all() and (q[2, :32] == 0).all() and (d[2, 0] == 0).all())
        finite = [[True, True], [True, True], [True, True], [True, False], [False, True], [True, False]]
        self.assertEqual(np.isfinite(d[..., 0]).tolist(), finite)
        self.assertEqual(np.isfinite(d[..., 1]).tolist(), finite)
        xh, xs = self.f16(6, 64)
        self.d.launch("quantize_f16", 6, 256, self.d.array(x), xh, xs, 64)
        h, s = xh.read(), xs.read()
        self.assertTrue((h[:2] == 0).all() and (s[:2] == 0).all())
        with np.errstate(invalid="ignore"):
            self.assertEqual(np.isfinite(h * s[:, None]).all(-1).tolist(), [True, True, True, False, False, False])
        self.assertEqual(np.isfinite(s).tolist(), [True, True, True, False, False, False])

    def norms(self, name, shapes, make, check):
        """The norm of rows, quantized, with weights and without, in f32 too and not."""
        for i, (rows, k) in enumerate(shapes):
            x = self.normal(rows, k, scale=3)
            x[-1] *= 1e-3
            w = self.normal(k) if i % 2 == 0 else None
            y = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + EPS) * (1 if w is None else w)
            d_w = None if w is None else self.d.array(w)
            for out in [None, self.d.empty((rows, k))]:
                values, scales = make(rows, k)
                self.d.launch(name, rows, 256, self.d.array(x), d_w, out, values, scales, k, EPS)
                check(y, values, scales, 2e-6, f"{name} {rows} x {k}")
                if out:
                    self.close(out.read(), y, 3e-6, f"{name} in f32")
            self.d.release()

    def test_norm_rms(self):
        shapes = [(1, 32), (3, 96), (2, 1024), (2, 1056), (2, 4096), (3, 4128), (1, 8224)]
        self.norms("norm_rms_q8", shapes, self.q8, self.check_q8)

    def test_norm_rms_f16(self):
        shapes = [(1, 3), (3, 30), (2, 1024), (2, 1027), (3, 4128)]
        self.norms("norm_rms_f16", shapes, self.f16, self.check_f16)

    def test_norm_keeps_nan_in_its_row(self):
        x = self.normal(3, 64)
        x[1, 7] = np.nan
        xq, xd = self.q8(3, 64)
        self.d.launch("norm_rms_q8", 3, 256, self.d.array(x), None, None, xq, xd, 64, EPS)
        self.assertEqual(np.isnan(xd.read()[..., 0]).all(-1).tolist(), [False, True, False])
        xh, xs = self.f16(3, 64)
        self.d.launch("norm_rms_f16", 3, 256, self.d.array(x), None, None, xh, xs, 64, EPS)
        self.assertEqual(np.isnan(xs.read()).tolist(), [False, True, False])
