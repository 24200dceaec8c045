"""kernels/rope.hip against numpy in f64."""

import numpy as np

from hip import KernelTest


def frequencies(n_rot, base):
    turns = base ** (-2.0 * np.arange(n_rot // 2) / n_rot) / (2 * np.pi)
    high = turns.astype(np.float32)
    return turns, np.stack([high, (turns - high).astype(np.float32)], axis=-1)


def rotate(x, positions, turns, n_rot, pairs, mscale):
    angle = (positions[:, None].astype(np.float64) * turns)[:, None, :] * 2 * np.pi
    c, s = np.cos(angle) * mscale, np.sin(angle) * mscale
    y = x.astype(np.float64)
    a = (Ellipsis, slice(0, n_rot, 2)) if pairs else (Ellipsis, slice(0, n_rot // 2))
    b = (Ellipsis, slice(1, n_rot, 2)) if pairs else (Ellipsis, slice(n_rot // 2, n_rot))
    u, v = y[a].copy(), y[b].copy()
    y[a], y[b] = u * c - v * s, u * s + v * c
    return y


class Rope(KernelTest):
    def test_both_styles(self):
        for head_dim, n_rot, n_head in [(8, 8, 1), (64, 64, 3), (80, 32, 2), (128, 128, 2), (256, 256, 1), (128, 126, 5)]:
            for pairs in [0, 1]:
                positions = np.array([0, 1, 7, 4095, 100_003, 1_048_575, (1 << 24) - 1], np.uint32)
                turns, table = frequencies(n_rot, 10_000.0)
                x = self.normal(len(positions), n_head, head_dim)
                buffer = self.d.array(x)
                self.d.launch("rope", (len(positions), n_head), 64, buffer, self.d.array(positions), self.d.array(table),
                              head_dim, n_rot, n_head, pairs, 1.25)
                want = rotate(x, positions, turns, n_rot, pairs, 1.25)
                got = buffer.read()
                # hi + lo is exact to 2^-49 of a turn a position.
                self.close(got, want, 3e-6, f"head_dim {head_dim}, n_rot {n_rot}, pairs {pairs}")
                np.testing.assert_array_equal(got[..., n_rot:], x[..., n_rot:])
                self.d.release()
