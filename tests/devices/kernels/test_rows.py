"""kernels/rows.hip and kernels/activation.hip against numpy in f64."""

import numpy as np

from hip import KernelTest, ceil_div

SIZES = [1, 3, 255, 256, 1023, 1024, 1025, 5000]


class Rows(KernelTest):
    def test_add(self):
        for n in SIZES:
            a, b = self.normal(n), self.normal(n, scale=3)
            out = self.d.empty(n)
            self.d.launch("add_rows", ceil_div(n, 1024), 256, self.d.array(a), self.d.array(b), out, n)
            np.testing.assert_array_equal(out.read(), a + b)

    def test_add_in_place(self):
        a, b = self.normal(1500), self.normal(1500)
        buffer = self.d.array(a)
        self.d.launch("add_rows", 2, 256, buffer, self.d.array(b), buffer, 1500)
        np.testing.assert_array_equal(buffer.read(), a + b)

    def test_scale(self):
        for n in SIZES:
            x = self.normal(n)
            buffer = self.d.array(x)
            self.d.launch("scale_rows", ceil_div(n, 1024), 256, buffer, 0.37, n)
            np.testing.assert_array_equal(buffer.read(), x * np.float32(0.37))

    def test_softcap(self):
        for n in SIZES:
            x = self.normal(n, scale=40)
            x[: min(n, 4)] = [0.0, 1e-3, -1e4, 3.0][: min(n, 4)]
            buffer = self.d.array(x)
            self.d.launch("softcap_rows", ceil_div(n, 1024), 256, buffer, 30.0, n)
            want = 30 * np.tanh(x.astype(np.float64) / 30)
            # Small numbers keep their digits, too.
            np.testing.assert_allclose(buffer.read(), want, rtol=2e-6)

    def test_select(self):
        for width in [1, 5, 256, 777]:
            x = self.normal(9, width)
            rows = np.array([8, 0, 3, 3], np.uint32)
            out = self.d.empty((4, width))
            self.d.launch("select_rows", 4, 256, self.d.array(x), self.d.array(rows), out, width)
            np.testing.assert_array_equal(out.read(), x[rows])

    def test_nan_and_infinity_stay(self):
        x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
        buffer = self.d.array(x)
        self.d.launch("softcap_rows", 1, 256, buffer, 30.0, 4)
        got = buffer.read()
        self.assertTrue(np.isnan(got[0]))
        np.testing.assert_allclose(got[1:3], [30.0, -30.0], rtol=1e-6)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


class Glu(KernelTest):
    def check(self, name, act):
        for n in SIZES:
            gate, up = self.normal(n, scale=4), self.normal(n)
            gate[0] = 40.0
            out = self.d.empty(n)
            self.d.launch(name, ceil_div(n, 1024), 256, self.d.array(gate), self.d.array(up), out, n)
            want = act(gate.astype(np.float64)) * up
            np.testing.assert_allclose(out.read(), want, rtol=5e-6, atol=1e-7)
        in_place = self.d.array(gate)
        self.d.launch(name, ceil_div(n, 1024), 256, in_place, self.d.array(up), in_place, n)
        np.testing.assert_array_equal(in_place.read(), out.read())
        bad = self.d.array(np.array([np.nan, 1.0, 3.0], np.float32))
        ups = self.d.array(np.array([1.0, np.nan, 1.0], np.float32))
        self.d.launch(name, 1, 256, bad, ups, bad, 3)
        self.assertEqual(np.isnan(bad.read()).tolist(), [True, True, False])

    def test_silu(self):
        self.check("glu_silu", silu)

    def test_gelu(self):
        self.check("glu_gelu", gelu)
