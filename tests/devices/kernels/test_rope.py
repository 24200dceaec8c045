"""kernels/rope.hip against numpy in f64."""

import numpy as np

from hip import KernelTest
from paged import Cache


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

    def test_on_the_way_to_the_cache(self):
        slots, positions = np.array([2, 0, 0, 3, 1]), np.array([5, 31 + 64, 30 + 64, 32, 0], np.uint32)
        for dtype, name, tolerance in [(np.float16, "rope_store_f16", 1e-3), (np.float32, "rope_store_f32", 3e-6)]:
            for n_head, n_head_kv, dim, dim_v, n_rot in [(1, 1, 8, 8, 8), (4, 2, 64, 64, 64), (3, 3, 80, 96, 32), (4, 1, 256, 128, 256)]:
                for pairs in [0, 1]:
                    cache = Cache(self, dtype, 3, 1, n_head_kv, dim, dim_v, 4)
                    for block in range(4):
                        cache.buffers[block].write(self.rng.integers(0, 256, cache.block_bytes, dtype=np.uint8))
                    before = [cache.read(b) for b in range(4)]
                    q, k, v = self.normal(5, n_head, dim), self.normal(5, n_head_kv, dim), self.normal(5, n_head_kv, dim_v)
                    turns, table = frequencies(n_rot, 10_000.0)
                    addresses = np.array([cache.address(s) for s in slots], np.uint64)
                    d_q, d_k = self.d.array(q), self.d.array(k)
                    self.d.launch(name, (5, n_head + 2 * n_head_kv), 64, d_q, d_k, self.d.array(v), self.d.array(positions),
                                  self.d.array(table), self.d.array(addresses), cache.off_k, cache.off_v, n_head, n_head_kv,
                                  dim, dim_v, n_rot, pairs, 1.25)
                    what = f"{name} {n_head}/{n_head_kv} heads of {dim}, {dim_v}, n_rot {n_rot}, pairs {pairs}"
                    self.close(d_q.read(), rotate(q, positions, turns, n_rot, pairs, 1.25), 3e-6, what)
                    np.testing.assert_array_equal(d_k.read(), k)
                    rotated = rotate(k, positions, turns, n_rot, pairs, 1.25)
                    for block in range(4):
                        want_k, want_v, rest = before[block]
                        got_k, got_v, got_rest = cache.read(block)
                        for token in np.nonzero(slots == block)[0]:
                            at = positions[token] % 32
                            self.close(got_k[:, at], rotated[token], tolerance, what)
                            want_k[:, at], want_v[:, at] = got_k[:, at], v[token].astype(dtype)
                        for got, want in [(got_k, want_k), (got_v, want_v), (got_rest, rest)]:
                            np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
                    self.d.release()

    def test_on_the_way_to_a_cache_in_q8_0(self):
        slots, positions = np.array([2, 0, 0, 3, 1]), np.array([5, 31 + 64, 30 + 64, 32, 0], np.uint32)
        for n_head, n_head_kv, dim, dim_v, n_rot in [(1, 1, 32, 32, 32), (4, 2, 64, 64, 64), (3, 3, 96, 160, 40), (4, 1, 256, 128, 256), (2, 1, 288, 32, 54)]:
            for pairs in [0, 1]:
                cache = Cache(self, "q8_0", 3, 1, n_head_kv, dim, dim_v, 4)
                before = [self.rng.integers(0, 256, cache.block_bytes, dtype=np.uint8) for _ in range(4)]
                for buffer, raw in zip(cache.buffers, before):
                    buffer.write(raw)
                q, k, v = self.normal(5, n_head, dim), self.normal(5, n_head_kv, dim), self.normal(5, n_head_kv, dim_v)
                turns, table = frequencies(n_rot, 10_000.0)
                addresses = np.array([cache.address(s) for s in slots], np.uint64)
                d_q = self.d.array(q)
                self.d.launch("rope_store_q8_0", (5, n_head + 2 * n_head_kv), 64, d_q, self.d.array(k), self.d.array(v),
                              self.d.array(positions), self.d.array(table), self.d.array(addresses), cache.off_k, cache.off_v,
                              n_head, n_head_kv, dim, dim_v, n_rot, pairs, 1.25)
                what = f"{n_head}/{n_head_kv} heads of {dim}, {dim_v}, n_rot {n_rot}, pairs {pairs}"
                self.close(d_q.read(), rotate(q, positions, turns, n_rot, pairs, 1.25), 3e-6, what)
                rotated = rotate(k, positions, turns, n_rot, pairs, 1.25)
                for block in range(4):
                    tokens = [(positions[t] % 32, rotated[t], v[t]) for t in np.nonzero(slots == block)[0]]
                    cache.check_coded(self, before[block], block, tokens, what)
                self.d.release()
