"""kernels/attention.hip against a plain softmax in f64, over a paged cache."""

import numpy as np

from hip import KernelTest, ceil_div
from paged import BLOCK, TYPES, Cache, kept, name, takes
from test_rope import frequencies, rotate


def capacity(head_dim, head_dim_v):
    return next(d for d in (64, 128, 256) if d >= max(head_dim, head_dim_v))


def softmax_attention(q, k, v, positions, scale, window, softcap):
    """q [tokens][n_head][dim], k and v [keys][n_head_kv][dim] in f64."""
    group = q.shape[1] // k.shape[1]
    keys = np.arange(len(k))
    out = np.empty(q.shape[:2] + v.shape[2:])
    for t, p in enumerate(positions):
        visible = keys <= p
        if window:
            visible &= p - keys < window
        for h in range(q.shape[1]):
            s = k[:, h // group] @ q[t, h] * scale
            if softcap:
                s = softcap * np.tanh(s / softcap)
            w = np.where(visible, np.exp(s - s[visible].max()), 0)
            out[t, h] = w @ np.where(visible[:, None], v[:, h // group], 0) / w.sum()
    return out


class Attention(KernelTest):
    def sequences(self, spans, dtype, n_head_kv, dim, dim_v, window):
        """A cache that holds all spans (pos, len) up to their last token, and what the kernels need to find it."""
        tables, starts, keys, values = [], [], [], []
        blocks = sum(ceil_div(pos + n, BLOCK) for pos, n in spans)
        cache = Cache(self, dtype, 2, 1, n_head_kv, dim, dim_v, blocks)
        order = list(self.rng.permutation(blocks))
        for pos, n in spans:
            k, v = self.normal(pos + n, n_head_kv, dim), self.normal(pos + n, n_head_kv, dim_v)
            starts.append(len(tables))
            for i in range(ceil_div(pos + n, BLOCK)):
                if window and (i + 1) * BLOCK <= max(0, pos + 1 - window):
                    tables.append(0)  # given back: nobody may look
                    continue
                block = order.pop()
                cache.write(block, k[i * BLOCK : (i + 1) * BLOCK], v[i * BLOCK : (i + 1) * BLOCK])
                tables.append(cache.address(block))
            keys.append(kept(k, dtype))
            values.append(kept(v, dtype))
        token = np.cumsum([0] + [n for _, n in spans])
        table = [(token[i], n, pos, starts[i]) for i, (pos, n) in enumerate(spans)]
        return cache, self.d.array(np.array(table, np.uint32)), self.d.array(np.array(tables, np.uint64)), keys, values

    def decode(self, dtype, n_head, n_head_kv, dim, dim_v, contexts, n_split, window=0, softcap=0.0, fresh=None):
        """`fresh`: n_rot and pairs, if keys and values of this step's tokens are not in the cache yet."""
        spans = [(c - 1, 1) for c in contexts]
        cache, d_spans, tables, keys, values = self.sequences(spans, dtype, n_head_kv, dim, dim_v, window)
        size, kv, n = capacity(dim, dim_v), name(dtype), len(contexts)
        q = self.normal(n, n_head, dim, scale=2)
        n_rot, pairs = fresh or (0, 0)
        turns, table = frequencies(max(n_rot, 2), 10_000.0)
        k = v = None
        if fresh:
            k, v = self.normal(n, n_head_kv, dim), self.normal(n, n_head_kv, dim_v)
            at = np.array([pos for pos, _ in spans])
            turned_q, turned_k = (rotate(x, at, turns[: n_rot // 2], n_rot, pairs, 1.25) for x in (q, k))
            for i in range(n):
                keys[i][-1], values[i][-1] = turned_k[i].astype(dtype), v[i].astype(dtype)
        before = [cache.read(b) for b in range(len(cache.buffers))]
        blocks = n_head_kv * ceil_div(n_head // n_head_kv, 8)
        part = self.d.empty((n, n_head, n_split, size + 2))
        ended = self.d.array(np.zeros((n, blocks), np.uint32))
        out = self.d.empty((n, n_head, dim_v))
        coded = dim_v % 32 == 0
        xq = self.d.empty((n, n_head * dim_v), np.int8) if coded else None
        xd = self.d.empty((n, n_head * dim_v // 32, 2)) if coded else None
        scale = float(np.float32(dim**-0.5))
        inputs = [self.d.array(q)] + [x if x is None else self.d.array(x) for x in (k, v)]

        def launch(codes, stored, numbers=1):
            self.d.launch(f"attend_split_{kv}_{size}", (n, blocks, n_split), 128, *inputs, part, ended, out,
                          *(codes or (None, None)), d_spans, tables, self.d.array(table), cache.off_k, cache.off_v, n_head,
                          n_head_kv, dim, dim_v, n_rot, pairs, 1.25, stored, numbers, scale, window, softcap, n_split)
            self.assertFalse(ended.read().any(), "counters start at zero again")

        launch((xq, xd) if coded else None, 0)
        queries = turned_q if fresh else q.astype(np.float64)
        want = np.concatenate([softmax_attention(queries[i : i + 1], keys[i], values[i], [spans[i][0]], scale, window, softcap)
                               for i in range(n)])
        # A key in f16 may be rounded the other way than numpy's.
        tolerance = 5e-6 if kv == "f32" or not fresh else 1e-3
        what = f"{kv} {n_head}/{n_head_kv} heads of {dim}, {dim_v}, splits {n_split}, contexts {contexts}, fresh {fresh}"
        got = out.read()
        self.close(got, want, tolerance, what)
        if coded:
            # As quantize_q8 makes them of these numbers.
            q8, scales = self.d.empty((n, n_head * dim_v), np.int8), self.d.empty((n, n_head * dim_v // 32, 2))
            k_out = n_head * dim_v
            self.d.launch("quantize_q8", (n, ceil_div(k_out, 1024)), 256, out, q8, scales, k_out)
            np.testing.assert_array_equal(xq.read(), q8.read())
            np.testing.assert_array_equal(xd.read(), scales.read())
            # Codes only; numbers only, and what another step left in the memory is no matter.
            out.write(np.full((n, n_head, dim_v), np.nan))
            launch((xq, xd), 0, 0)
            np.testing.assert_array_equal(xq.read(), q8.read())
            self.assertTrue(np.isnan(out.read()).all())
            launch(None, 0)
            np.testing.assert_array_equal(out.read(), got)
        self.cache_has(cache, before, tables.read(), d_spans.read(), spans, *((turned_k, v) if fresh else (None, None)), what)
        if fresh:
            # What is stored is not stored again, nor is the query rotated.
            inputs[0] = self.d.array(turned_q.astype(np.float32))
            inputs[1].write(np.full(k.shape, np.nan))
            launch(None, 1)
            self.close(out.read(), want, tolerance, what + ", stored")
        self.d.release()

    def cache_has(self, cache, before, tables, d_spans, spans, k, v, what):
        """Of all that the cache has, only the tokens' own keys and values changed, if they are given."""
        tolerance = 1e-3 if cache.dtype == np.float16 else 3e-6
        for i, (pos, _) in enumerate(spans if k is not None else []):
            address = tables[d_spans[i][3] + pos // BLOCK]
            block, at = next(b for b in range(len(before)) if cache.address(b) == address), pos % BLOCK
            got = cache.read(block)[0][:, at]
            self.close(got, k[i], tolerance, what)
            before[block][0][:, at], before[block][1][:, at] = got, v[i].astype(cache.dtype)
        for block, want in enumerate(before):
            for got, want in zip(cache.read(block), want):
                np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8), what)

    def test_decode_heads(self):
        for dtype in TYPES:
            for n_head, n_head_kv in [(1, 1), (4, 4), (4, 2), (6, 2), (7, 1), (16, 2), (9, 1), (17, 1)]:
                self.decode(dtype, n_head, n_head_kv, 64, 64, [1, 33, 200], 2)
            for dim in (128, 256):
                self.decode(dtype, 7, 1, dim, dim, [3, 150], 1)

    def test_decode_sizes(self):
        for dtype in TYPES:
            for dim, dim_v in [(8, 8), (16, 16), (32, 32), (80, 80), (96, 128), (32, 160), (112, 112), (128, 64), (192, 128), (256, 256), (66, 66)]:
                if takes(dtype, dim, dim_v):
                    self.decode(dtype, 4, 2, dim, dim_v, [5, 70], 2)

    def test_decode_splits(self):
        for n_split in [1, 2, 3, 7, 16]:
            for dtype in (np.float16, "q8_0"):
                self.decode(dtype, 4, 2, 128, 128, [1, 31, 32, 33, 129, 500], n_split)

    def test_decode_window_and_softcap(self):
        for window in [1, 5, 32, 33, 100]:
            for dtype in (np.float16, "q8_0"):
                self.decode(dtype, 4, 1, 64, 64, [3, 64, 101, 200], 3, window=window)
        self.decode(np.float16, 4, 2, 64, 64, [3, 64, 101], 2, softcap=2.0)
        self.decode(np.float32, 2, 1, 128, 128, [200], 2, window=40, softcap=30.0)

    def test_decode_of_fresh_tokens(self):
        for dtype in (np.float16, np.float32):
            for n_head, n_head_kv in [(1, 1), (4, 2), (6, 2), (7, 1), (17, 1)]:
                self.decode(dtype, n_head, n_head_kv, 64, 64, [1, 2, 33, 200], 2, fresh=(64, 0))
            for dim, dim_v, n_rot in [(8, 8, 8), (80, 96, 32), (128, 64, 126), (66, 66, 66), (192, 128, 192), (256, 256, 256)]:
                for pairs in [0, 1]:
                    self.decode(dtype, 8, 4, dim, dim_v, [1, 65], 1, fresh=(n_rot, pairs))
        for n_split in [1, 3, 16]:
            self.decode(np.float16, 4, 2, 128, 128, [1, 31, 32, 33, 129, 500], n_split, fresh=(128, 0))
        for window in [1, 2, 5, 32, 33, 34, 100]:
            self.decode(np.float16, 4, 1, 64, 64, [1, 3, 64, 101, 200], 3, window=window, fresh=(64, 0))
        self.decode(np.float16, 4, 2, 64, 64, [3, 64, 101], 2, softcap=2.0, fresh=(64, 1))

    def prefill(self, dtype, n_head, n_head_kv, dim, dim_v, spans, window=0, softcap=0.0):
        self.tiles("tile", 5e-6, dtype, n_head, n_head_kv, dim, dim_v, spans, window, softcap)
        if dtype != np.float32 and dim % 16 == 0 and dim_v % 16 == 0:
            # Queries and probabilities are f16, too, and what codes stand for.
            self.tiles("mma", 2e-3, dtype, n_head, n_head_kv, dim, dim_v, spans, window, softcap)

    def tiles(self, form, tolerance, dtype, n_head, n_head_kv, dim, dim_v, spans, window, softcap):
        cache, d_spans, tables, keys, values = self.sequences(spans, dtype, n_head_kv, dim, dim_v, window)
        size, kv = capacity(dim, dim_v), name(dtype)
        tokens = sum(n for _, n in spans)
        tiles = np.array([(i, t) for i, (_, n) in enumerate(spans) for t in range(0, n, 16)], np.uint32)
        q = self.normal(tokens, n_head, dim, scale=2)
        out = self.d.empty((tokens, n_head, dim_v))
        scale = float(np.float32(dim**-0.5))
        kernel = f"attend_{form}_{size}" if (form, kv) == ("mma", "f16") else f"attend_{form}_{kv}_{size}"
        self.d.launch(kernel, (len(tiles), n_head), 128, self.d.array(q), out, d_spans,
                      self.d.array(tiles), tables, cache.off_k, cache.off_v, n_head, n_head_kv, dim, dim_v, scale, window,
                      softcap)
        start, want = 0, []
        for i, (pos, n) in enumerate(spans):
            want.append(softmax_attention(q[start : start + n].astype(np.float64), keys[i], values[i], range(pos, pos + n),
                                          scale, window, softcap))
            start += n
        self.close(out.read(), np.concatenate(want), tolerance, f"{kernel} {n_head}/{n_head_kv} heads of {dim}, {dim_v}")
        self.d.release()

    def test_prefill_spans(self):
        for dtype in TYPES:
            self.prefill(dtype, 4, 2, 64, 64, [(0, 1), (0, 16), (0, 17), (40, 3), (31, 33), (95, 50)])

    def test_prefill_sizes(self):
        for dtype in TYPES:
            for dim, dim_v in [(8, 8), (16, 16), (32, 32), (80, 80), (96, 128), (32, 160), (112, 112), (128, 128), (192, 128), (256, 256), (66, 66)]:
                if takes(dtype, dim, dim_v):
                    self.prefill(dtype, 2, 1, dim, dim_v, [(3, 35)])

    def test_prefill_window_and_softcap(self):
        for window in [1, 5, 32, 33, 100]:
            for dtype in (np.float16, "q8_0"):
                self.prefill(dtype, 2, 1, 64, 64, [(0, 40), (150, 21)], window=window)
        self.prefill(np.float16, 2, 2, 128, 128, [(20, 40)], softcap=2.0)

    def test_nan_reaches_only_who_sees_it(self):
        spans = [(0, 40)]
        cache, d_spans, tables, keys, values = self.sequences(spans, np.float32, 1, 64, 64, 0)
        bad = self.normal(40, 1, 64)
        bad[20] = np.nan
        q = self.d.array(self.normal(40, 1, 64))
        for i in range(2):
            rows = bad[i * 32 : (i + 1) * 32]
            address = tables.read()[i]
            block = next(b for b in range(2) if cache.address(b) == address)
            cache.write(block, keys[0][i * 32 : (i + 1) * 32].astype(np.float32), rows)
        out = self.d.empty((40, 1, 64))
        tiles = self.d.array(np.array([(0, 0), (0, 16), (0, 32)], np.uint32))
        self.d.launch("attend_tile_f32_64", (3, 1), 128, q, out, d_spans, tiles, tables, cache.off_k, cache.off_v, 1, 1,
                      64, 64, 0.125, 0, 0.0)
        got = np.isnan(out.read()).reshape(40, 64)
        self.assertTrue(got[20:].all())
        self.assertFalse(got[:20].any())
