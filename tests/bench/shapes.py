"""Writes models of known shapes with random weights in the mix of Q4_K_M, for counts that need no trained ones.

    shapes.write("llama-3.1-8b", path, layers=2)

Every matrix repeats a few random rows. Half of the layers have `attn_v` and `ffn_down` in Q6_K, as llama.cpp's
quantizer chooses them, for any even number of layers: what a step does is then affine in the number of layers.
"""

import os
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from make_tiny import byte_characters, llama3_factors, matrix  # noqa: E402

# Rows of a matrix before they repeat.
ROWS = 64

SHAPES = {
    "qwen2.5-1.5b": dict(
        arch="qwen2", pre="qwen2", layers=28, width=1536, heads=12, heads_kv=2, ff=8960, vocab=151936, base=1e6,
        biases=("attn_q", "attn_k", "attn_v"), factors=False,
    ),
    "llama-3.1-8b": dict(
        arch="llama", pre="llama-bpe", layers=32, width=4096, heads=32, heads_kv=8, ff=14336, vocab=128256, base=5e5,
        biases=(), factors=True,
    ),
}  # fmt: skip


def more_bits(layer, layers):
    """Whether llama.cpp's Q4_K_M gives this layer's `attn_v` and `ffn_down` six bits."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


class Writer:
    """A file in the making; matrices of one shape and type are the same memory."""

    def __init__(self, path, shape, layers):
        self.shape, self.layers = shape, layers
        self.out = gguf.GGUFWriter(path, shape["arch"])
        self.rng = np.random.RandomState(zlib.crc32(shape["arch"].encode()))
        self.made = {}

    def matrix(self, name, kind, rows, cols):
        if (kind, rows, cols) not in self.made:
            few = np.asarray(matrix(self.rng, kind, ROWS, cols, cols**-0.5)).view(np.uint8)
            self.made[kind, rows, cols] = np.resize(few, (rows, few.shape[1]))
        self.out.add_tensor(f"{name}.weight", self.made[kind, rows, cols], raw_dtype=kind)

    def vector(self, name, values):
        self.out.add_tensor(name, np.asarray(values, dtype=np.float32))

    def numbers(self):
        s = self.shape
        self.out.add_name(s["arch"])
        self.out.add_context_length(8192)
        self.out.add_embedding_length(s["width"])
        self.out.add_block_count(self.layers)
        self.out.add_feed_forward_length(s["ff"])
        self.out.add_head_count(s["heads"])
        self.out.add_head_count_kv(s["heads_kv"])
        self.out.add_rope_freq_base(s["base"])
        self.out.add_layer_norm_rms_eps(1e-5)

    def vocabulary(self):
        """Bytes, a merge, and as many words that never occur as the shape wants."""
        tokens = list(byte_characters().values())
        merge = tokens[:2]
        tokens.append("".join(merge))
        tokens += [f"<unused{i}>" for i in range(self.shape["vocab"] - len(tokens))]
        self.out.add_tokenizer_model("gpt2")
        self.out.add_tokenizer_pre(self.shape["pre"])
        self.out.add_token_list(tokens)
        self.out.add_token_types([int(gguf.TokenType.NORMAL)] * len(tokens))
        self.out.add_token_merges([" ".join(merge)])
        self.out.add_eos_token_id(len(tokens) - 1)
        self.out.add_add_bos_token(False)

    def layer(self, i):
        s, at = self.shape, f"blk.{i}."
        head_dim = s["width"] // s["heads"]
        kv, wide = s["heads_kv"] * head_dim, Type.Q6_K if more_bits(i, self.layers) else Type.Q4_K
        shapes = {"attn_q": (s["width"], s["width"]), "attn_k": (kv, s["width"]), "attn_v": (kv, s["width"])}
        shapes |= {"attn_output": (s["width"], s["width"]), "ffn_gate": (s["ff"], s["width"])}
        shapes |= {"ffn_up": (s["ff"], s["width"]), "ffn_down": (s["width"], s["ff"])}
        for name, (rows, cols) in shapes.items():
            self.matrix(at + name, wide if name in ("attn_v", "ffn_down") else Type.Q4_K, rows, cols)
            if name in s["biases"]:
                self.vector(f"{at}{name}.bias", np.zeros(rows))
        for name in ("attn_norm", "ffn_norm"):
            self.vector(f"{at}{name}.weight", np.ones(s["width"]))

    def tensors(self):
        s = self.shape
        self.matrix("token_embd", Type.Q4_K, s["vocab"], s["width"])
        self.matrix("output", Type.Q6_K, s["vocab"], s["width"])
        self.vector("output_norm.weight", np.ones(s["width"]))
        if s["factors"]:
            self.vector("rope_freqs.weight", llama3_factors(s["width"] // s["heads"], s["base"], context=8192))
        for i in range(self.layers):
            self.layer(i)

    def close(self):
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def write(name, path, layers):
    """Writes the shape `name` with so many layers, an even number. A hole follows that makes the file about as long
    as with all layers: the daemon gives a step time by the file's size, and an interpreter needs that time."""
    shape = SHAPES[name]
    writer = Writer(path, shape, layers)
    writer.numbers()
    writer.vocabulary()
    writer.tensors()
    writer.close()
    size = os.path.getsize(path)
    os.truncate(path, max(size, size * shape["layers"] // layers))
