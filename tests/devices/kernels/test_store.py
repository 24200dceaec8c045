"""kernels/store.hip: where each element goes, and that nothing else changes."""

import numpy as np

from hip import KernelTest
from paged import Cache


class Store(KernelTest):
    def test_every_element_has_its_place(self):
        for dtype, name in [(np.float16, "store_f16"), (np.float32, "store_f32")]:
            for n_head_kv, dim, dim_v in [(1, 8, 8), (2, 64, 64), (3, 80, 96), (1, 256, 128), (8, 16, 32)]:
                cache = Cache(self, dtype, 3, 1, n_head_kv, dim, dim_v, 4)
                for block in range(4):
                    cache.buffers[block].write(self.rng.integers(0, 256, cache.block_bytes, dtype=np.uint8))
                before = [cache.read(b) for b in range(4)]
                # Token, block, position: three sequences, one over two blocks.
                slots = np.array([2, 0, 0, 3, 1])
                positions = np.array([5, 31 + 64, 30 + 64, 32, 0], np.uint32)
                k, v = self.normal(5, n_head_kv, dim), self.normal(5, n_head_kv, dim_v)
                addresses = np.array([cache.address(s) for s in slots], np.uint64)
                self.d.launch(name, 5, 256, self.d.array(k), self.d.array(v), self.d.array(addresses),
                              self.d.array(positions), cache.off_k, cache.off_v, n_head_kv, dim, dim_v)
                for block in range(4):
                    want_k, want_v, rest = before[block]
                    for token in np.nonzero(slots == block)[0]:
                        want_k[:, positions[token] % 32] = k[token].astype(dtype)
                        want_v[:, positions[token] % 32] = v[token].astype(dtype)
                    got_k, got_v, got_rest = cache.read(block)
                    # By their bits: the random bytes around are NaN here and there.
                    for got, want in [(got_k, want_k), (got_v, want_v), (got_rest, rest)]:
                        np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
                self.d.release()

    def test_q8_0(self):
        for n_head_kv, dim, dim_v in [(1, 32, 32), (2, 64, 64), (3, 96, 160), (1, 256, 128), (8, 128, 128), (5, 288, 32)]:
            cache = Cache(self, "q8_0", 3, 1, n_head_kv, dim, dim_v, 4)
            before = [self.rng.integers(0, 256, cache.block_bytes, dtype=np.uint8) for _ in range(4)]
            for buffer, raw in zip(cache.buffers, before):
                buffer.write(raw)
            slots = np.array([2, 0, 0, 3, 1])
            positions = np.array([5, 31 + 64, 30 + 64, 32, 0], np.uint32)
            k, v = self.normal(5, n_head_kv, dim), self.normal(5, n_head_kv, dim_v)
            # Sizes far apart from group to group; a group of zeros has a scale of zero.
            k[1] *= 1e-4
            v[3] = 0
            addresses = np.array([cache.address(s) for s in slots], np.uint64)
            self.d.launch("store_q8_0", 5, 256, self.d.array(k), self.d.array(v), self.d.array(addresses),
                          self.d.array(positions), cache.off_k, cache.off_v, n_head_kv, dim, dim_v)
            for block in range(4):
                tokens = [(positions[t] % 32, k[t], v[t]) for t in np.nonzero(slots == block)[0]]
                cache.check_coded(self, before[block], block, tokens, f"{n_head_kv} heads of {dim}, {dim_v}")
            self.d.release()
