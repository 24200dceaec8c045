"""A paged cache in numpy, for the tests of kernels that write and read it."""

import numpy as np

BLOCK = 32
# Types of caches: numpy's, or the name of one that is coded.
TYPES = (np.float16, np.float32, "q8_0")


def name(dtype):
    """What kernels call it."""
    return {np.float16: "f16", np.float32: "f32"}.get(dtype, dtype)


def takes(dtype, *dims):
    """Whether heads of these sizes can be kept."""
    return dtype != "q8_0" or all(d % 32 == 0 for d in dims)


def quantized(x):
    """Codes and scales of the last axis' groups of 32."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    d = np.abs(groups).max(axis=-1) / 127
    codes = np.rint(groups / d[..., None])
    return codes.astype(np.int8).reshape(x.shape), d.astype(np.float16)


def kept(x, dtype):
    """What a cache makes of numbers, in f64."""
    if dtype != "q8_0":
        return x.astype(dtype).astype(np.float64)
    codes, d = quantized(x)
    return codes.astype(np.float64) * np.repeat(d, 32, axis=-1)


class Cache:
    """Blocks of some layers; block and layer numbers are shuffled so that no offset is right by luck."""

    def __init__(self, test, dtype, n_layer, layer, n_head_kv, head_dim, head_dim_v, n_blocks):
        self.dtype = dtype
        self.shape = (n_head_kv, head_dim, head_dim_v)
        # Of 32 elements.
        group = 34 if dtype == "q8_0" else 32 * np.dtype(dtype).itemsize
        key, value = (n_head_kv * BLOCK * d * group // 32 for d in (head_dim, head_dim_v))
        self.block_bytes = n_layer * (key + value)
        self.off_k = layer * (key + value)
        self.off_v = self.off_k + key
        self.key_bytes, self.value_bytes = key, value
        # A buffer a block: an overrun of one does not land in another. Undefined, NaN on device host.
        self.buffers = [test.d.empty(self.block_bytes, np.uint8) for _ in range(n_blocks)]

    def address(self, block):
        return self.buffers[block].address

    def read(self, block):
        """Keys and values of the layer, [n_head_kv][BLOCK][dim] or bytes in q8_0, and the rest of the block's bytes."""
        raw = self.buffers[block].read()
        heads, dim, dim_v = self.shape
        if self.dtype == "q8_0":
            end = self.off_v + self.value_bytes
            return raw[self.off_k : self.off_v], raw[self.off_v : end], np.concatenate([raw[: self.off_k], raw[end:]])
        k = raw[self.off_k : self.off_v].view(self.dtype).reshape(heads, BLOCK, dim)
        end = self.off_v + self.value_bytes
        v = raw[self.off_v : end].view(self.dtype).reshape(heads, BLOCK, dim_v)
        return k, v, np.concatenate([raw[: self.off_k], raw[end:]])

    def write(self, block, k, v):
        """Fills the layer's first rows of a block; k and v are [tokens][n_head_kv][dim], at most BLOCK tokens."""
        raw = self.buffers[block].read()
        if self.dtype == "q8_0":
            for (codes, scales), x in zip(self.coded(raw), (k, v)):
                q, d = quantized(x)
                codes[:, : len(x)], scales[:, :, : len(x)] = q.swapaxes(0, 1), d.transpose(1, 2, 0)
            self.buffers[block].write(raw)
            return
        heads, dim, dim_v = self.shape
        end = self.off_v + self.value_bytes
        raw[self.off_k : self.off_v].view(self.dtype).reshape(heads, BLOCK, dim)[:, : len(k)] = k.swapaxes(0, 1)
        raw[self.off_v : end].view(self.dtype).reshape(heads, BLOCK, dim_v)[:, : len(v)] = v.swapaxes(0, 1)
        self.buffers[block].write(raw)

    def coded(self, raw):
        """Of a block in q8_0 the layer's keys and values: codes [n_head_kv][BLOCK][dim], scales [n_head_kv][dim / 32][BLOCK]."""
        heads, dim, dim_v = self.shape
        parts = []
        for start, dim in ((self.off_k, dim), (self.off_v, dim_v)):
            part = raw[start : start + heads * 34 * dim].reshape(heads, 34 * dim)
            codes, scales = part[:, : 32 * dim].view(np.int8), part[:, 32 * dim :].view(np.float16)
            parts.append((codes.reshape(heads, BLOCK, dim), scales.reshape(heads, dim // 32, BLOCK)))
        return parts

    def check_coded(self, test, before, block, tokens, what):
        """That a block in q8_0 has `tokens`, [(place, k, v)], and else what it had before."""
        after = self.buffers[block].read()
        for at, *rows in tokens:
            for (codes, scales), (old, old_scales), x in zip(self.coded(after), self.coded(before), rows):
                groups = x.astype(np.float64).reshape(len(x), -1, 32)
                d = np.abs(groups).max(axis=-1)[..., None] / 127
                got = codes[:, at].reshape(groups.shape)
                test.assertTrue((np.abs(got * d - groups) <= 0.5001 * d).all(), f"{what}: codes")
                test.assertTrue((np.abs(scales[:, :, at, None] - d) <= d / 2000 + 2.0**-25).all(), f"{what}: scales")
                old[:, at], old_scales[:, :, at] = codes[:, at], scales[:, :, at]
        np.testing.assert_array_equal(after, before, what)
