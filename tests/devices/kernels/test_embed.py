"""kernels/embed.hip against PyPI's `gguf`."""

import numpy as np

from quants import FLOATS, FORMATS, ProductTest, random_rows, values


class Embed(ProductTest):
    def test_every_format(self):
        tokens = np.array([8, 0, 3, 3, 5], np.uint32)
        for fmt in FORMATS:
            for k in [1, 100, 257] if fmt in FLOATS else [FORMATS[fmt][0], 5 * FORMATS[fmt][0], 4608]:
                table = random_rows(self.rng, fmt, 9, k)
                out = self.d.empty((len(tokens), k))
                self.d.launch(f"embed_{fmt}", (len(tokens), 8), 128, self.d.array(table), self.d.array(tokens), out, k, 2.5)
                want = 2.5 * values(fmt, table)[tokens]
                # A scale times a code, less a min: two numbers that may cancel, each rounded.
                bound = np.full(want.shape, 4e-7 * np.abs(want).max())
                self.within(out.read(), want, bound, f"embed_{fmt} k {k}")
                self.d.release()

    def test_scale_of_one_is_exact(self):
        for fmt in ["f32", "f16", "bf16", "q4_0", "q5_0", "q8_0"]:
            k = 160
            table = random_rows(self.rng, fmt, 2, k)
            out = self.d.empty((1, k))
            self.d.launch(f"embed_{fmt}", (1, 8), 128, self.d.array(table), self.d.array(np.array([1], np.uint32)), out, k, 1.0)
            np.testing.assert_array_equal(out.read(), values(fmt, table)[1:], fmt)
