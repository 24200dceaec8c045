"""A paged cache in numpy, for the tests of kernels that write and read it."""

import numpy as np

BLOCK = 32


class Cache:
    """Blocks of some layers; block and layer numbers are shuffled so that no offset is right by luck."""

    def __init__(self, test, dtype, n_layer, layer, n_head_kv, head_dim, head_dim_v, n_blocks):
        self.dtype = np.dtype(dtype)
        self.shape = (n_head_kv, head_dim, head_dim_v)
        key, value = (n_head_kv * BLOCK * d * self.dtype.itemsize for d in (head_dim, head_dim_v))
        self.block_bytes = n_layer * (key + value)
        self.off_k = layer * (key + value)
        self.off_v = self.off_k + key
        self.key_bytes, self.value_bytes = key, value
        # A buffer a block: an overrun of one does not land in another. Undefined, NaN on device host.
        self.buffers = [test.d.empty(self.block_bytes, np.uint8) for _ in range(n_blocks)]

    def address(self, block):
        return self.buffers[block].address

    def read(self, block):
        """Keys and values of the layer, [n_head_kv][BLOCK][dim], and the rest of the block's bytes."""
        raw = self.buffers[block].read()
        heads, dim, dim_v = self.shape
        k = raw[self.off_k : self.off_v].view(self.dtype).reshape(heads, BLOCK, dim)
        end = self.off_v + self.value_bytes
        v = raw[self.off_v : end].view(self.dtype).reshape(heads, BLOCK, dim_v)
        return k, v, np.concatenate([raw[: self.off_k], raw[end:]])

    def write(self, block, k, v):
        """Fills the layer's first rows of a block; k and v are [tokens][n_head_kv][dim], at most BLOCK tokens."""
        raw = self.buffers[block].read()
        heads, dim, dim_v = self.shape
        end = self.off_v + self.value_bytes
        raw[self.off_k : self.off_v].view(self.dtype).reshape(heads, BLOCK, dim)[:, : len(k)] = k.swapaxes(0, 1)
        raw[self.off_v : end].view(self.dtype).reshape(heads, BLOCK, dim_v)[:, : len(v)] = v.swapaxes(0, 1)
        self.buffers[block].write(raw)
