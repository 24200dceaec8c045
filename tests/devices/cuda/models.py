"""Models of real shapes with random weights, written where a card is: models.py FOLDER NAME...

Only numpy is needed. Blocks of weights come from a pool of random ones, so that a file is written as
fast as the disk takes it; numbers are as large as a trained model's, so that logits are finite.
"""

import struct
import sys
from pathlib import Path

import numpy as np

F32, Q8_0, Q4_K, Q6_K = 0, 8, 12, 14
# Elements and bytes of a block.
BLOCKS = {F32: (1, 4), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210)}
POOL_BYTES = 32 << 20
STD = 1 / 64

LLAMA_8B = dict(arch="llama", pre="llama-bpe", vocab=128256, layers=32, width=4096, ff=14336, heads=32, heads_kv=8, base=500000.0)
QWEN_1_5B = dict(arch="qwen2", pre="qwen2", vocab=151936, layers=28, width=1536, ff=8960, heads=12, heads_kv=2, base=1e6, tied=True, biases=True)
SMALL = dict(vocab=1000, layers=2, width=512, ff=1024, heads=4, heads_kv=2)

# `mix` is what llama.cpp's quantizer makes of it: Q4_K_M has the output, and the values and ffn_down of
# every second layer or so, in Q6_K.
MODELS = {
    "8b-q4_k_m": dict(LLAMA_8B, mix="q4_k_m"),
    "8b-q8_0": dict(LLAMA_8B, mix="q8_0"),
    "1.5b-q4_k_m": dict(QWEN_1_5B, mix="q4_k_m"),
    "small-q4_k_m": dict(LLAMA_8B | SMALL, mix="q4_k_m"),
    "small-q8_0": dict(LLAMA_8B | SMALL, mix="q8_0"),
    "small-qwen": dict(QWEN_1_5B | SMALL, mix="q4_k_m"),
}


def pool(kind, rng):
    """Random blocks of a format, about POOL_BYTES of them, with STD as their standard deviation."""
    n = POOL_BYTES // BLOCKS[kind][1]

    def codes(count):
        return rng.integers(0, 256, (n, count), np.uint8)

    def halves(value):
        return np.full((n, 1), value, np.float16).view(np.uint8)

    if kind == Q8_0:
        return np.concatenate([halves(STD / 74), codes(32)], axis=1)
    if kind == Q6_K:
        scales = rng.integers(48, 127, (n, 16), np.int8).view(np.uint8)
        return np.concatenate([codes(192), scales, halves(STD / 18.5 / 90)], axis=1)
    # Scales and minima of 6 bits alike, packed in 12 bytes; a minimum is 7.5 of 15 codes.
    low = codes(4) | 0x10
    nibbles = codes(4) & 0x0F
    nibbles |= nibbles << 4
    d = STD / (4.61 * 38)
    return np.concatenate([halves(d), halves(7.5 * d), low, low, nibbles, codes(128)], axis=1)


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in range(256)]


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    """A value with its type before it."""
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    kind, items = (8, b"".join(map(text, v))) if isinstance(v[0], str) else (5, np.array(v, "<i4").tobytes())
    return struct.pack("<IIQ", 9, kind, len(v)) + items


def metadata(name, m):
    """Keys: hyperparameters and a vocabulary of bytes, one merge, and names without meaning."""
    a = m["arch"]
    tokens = byte_characters() + ["\u0120t"]
    tokens += [f"<{i}>" for i in range(len(tokens), m["vocab"] - 1)] + ["<|end|>"]
    return {
        "general.architecture": a, "general.name": name,
        f"{a}.context_length": 32768, f"{a}.embedding_length": m["width"], f"{a}.block_count": m["layers"],
        f"{a}.feed_forward_length": m["ff"], f"{a}.attention.head_count": m["heads"],
        f"{a}.attention.head_count_kv": m["heads_kv"], f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.rope.freq_base": m["base"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": m["pre"], "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3], "tokenizer.ggml.merges": ["\u0120 t"],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1, "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip


def tensors(m):
    """(name, dimensions with the row's length first, type) of each."""
    width, ff, layers = m["width"], m["ff"], m["layers"]
    head = width // m["heads"]
    kv = m["heads_kv"] * head
    plain, better = (Q4_K, Q6_K) if m["mix"] == "q4_k_m" else (Q8_0, Q8_0)
    tied = m.get("tied")
    yield "token_embd.weight", (width, m["vocab"]), better if tied else plain
    yield "output_norm.weight", (width,), F32
    if not tied:
        yield "output.weight", (width, m["vocab"]), better
    for i in range(layers):
        more = i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2
        special = better if more else plain
        at = f"blk.{i}."
        yield at + "attn_norm.weight", (width,), F32
        for part, n, kind in [("attn_q", width, plain), ("attn_k", kv, plain), ("attn_v", kv, special)]:
            yield f"{at}{part}.weight", (width, n), kind
            if m.get("biases"):
                yield f"{at}{part}.bias", (n,), F32
        yield at + "attn_output.weight", (width, width), plain
        yield at + "ffn_norm.weight", (width,), F32
        yield at + "ffn_gate.weight", (width, ff), plain
        yield at + "ffn_up.weight", (width, ff), plain
        yield at + "ffn_down.weight", (ff, width), special


def size(dims, kind):
    elements, block = BLOCKS[kind]
    return int(np.prod(dims)) // elements * block


def step_bytes(name):
    """Bytes of weights that a token's step must read: all matrices but an embedding that is only looked up."""
    m = MODELS[name]
    return sum(size(d, k) for n, d, k in tensors(m) if m.get("tied") or n != "token_embd.weight")


def make(name, path):
    """Writes model `name` to `path`."""
    m = MODELS[name]
    rng = np.random.default_rng(1)
    pools = {}
    keys, infos, places, offset = metadata(name, m), b"", [], 0
    for tensor, dims, kind in tensors(m):
        infos += text(tensor) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        places.append((dims, kind))
        offset += -(-size(dims, kind) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(places), len(keys))
    head += b"".join(text(k) + value(v) for k, v in keys.items()) + infos
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for dims, kind in places:
            left = size(dims, kind)
            pad = bytes(-left % 32)
            if kind == F32:
                f.write((1 + 0.1 * rng.standard_normal(dims[0])).astype("<f4").tobytes())
                left = 0
            elif kind not in pools:
                pools[kind] = pool(kind, rng).reshape(-1)
            while left:
                blocks, block = pools[kind], BLOCKS[kind][1]
                start = int(rng.integers(0, len(blocks) // block)) * block
                piece = blocks[start : start + left]
                f.write(piece.data)
                left -= len(piece)
            f.write(pad)


if __name__ == "__main__":
    for model in sys.argv[2:]:
        make(model, Path(sys.argv[1]) / f"{model}.gguf")
