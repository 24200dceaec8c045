"""kernels/norm.hip against numpy in f64."""

import numpy as np

from hip import KernelTest, ceil_div

EPS = 1e-5


def rms(x, w, b):
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS)
    return y * (1 if w is None else w) + (0 if b is None else b)


def layer(x, w, b):
    d = x - x.mean(axis=-1, keepdims=True)
    y = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + EPS)
    return y * (1 if w is None else w) + (0 if b is None else b)


class Norm(KernelTest):
    def check(self, name, reference, group, n_groups, has_w, has_b, in_place):
        x = self.normal(n_groups, group, scale=2) + np.float32(5)
        x[n_groups - 1] *= 1e-3
        w = self.normal(group) if has_w else None
        b = self.normal(group) if has_b else None
        d_x = self.d.array(x)
        out = d_x if in_place else self.d.empty((n_groups, group))
        team = name.endswith("_team")
        self.d.launch(name, ceil_div(n_groups, 4) if team else n_groups, 128 if team else 256, d_x,
                      None if w is None else self.d.array(w), None if b is None else self.d.array(b), out,
                      group, 1, n_groups, EPS)
        want = reference(x.astype(np.float64), w, b)
        self.close(out.read(), want, 3e-6, f"{name} {n_groups} x {group}")
        self.d.release()

    def every(self, kind, reference):
        for group in [2, 7, 16, 64, 80, 127, 128, 500]:
            for n_groups in [1, 4, 5, 9]:
                self.check(f"norm_{kind}_team", reference, group, n_groups, group != 7, group % 3 == 1, n_groups == 5)
        for group in [513, 576, 2048, 4096, 5001]:
            for n_groups in [1, 3]:
                self.check(f"norm_{kind}", reference, group, n_groups, group != 513, group == 4096, n_groups == 3)

    def test_rms(self):
        self.every("rms", rms)

    def test_layer(self):
        self.every("layer", layer)

    def test_nan_stays_in_its_group(self):
        for name, block, grid in [("norm_rms_team", 128, 2), ("norm_rms", 256, 5)]:
            x = self.normal(5, 96)
            x[2, 40] = np.nan
            out = self.d.empty((5, 96))
            self.d.launch(name, grid, block, self.d.array(x), None, None, out, 96, 1, 5, EPS)
            self.assertEqual(np.isnan(out.read()).all(axis=1).tolist(), [False, False, True, False, False])
            self.assertEqual(np.isnan(out.read()).any(axis=1).tolist(), [False, False, True, False, False])
