#!/usr/bin/env python3
"""Makes tiny models with random weights: one for each row of src/model/archs.rs and each weight format.

    make_tiny.py [--out FOLDER] [NAME ...]      (none named: all)

They go to $ROCMFORGE_TEST_MODELS/tiny (see fetch.py) and are the same bytes wherever they are made: weights come
from numpy's frozen RandomState. Vocabularies are small but real (trained on a paragraph), so that a whole
request can run through them. The goldens of make_goldens.py belong to exactly these files.
"""

import argparse
import zlib
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

import fetch

TEXT = """the quick brown fox jumps over the lazy dog. a model is data: a row in a table plus numbers and tensors from
the file. nothing branches on the name of a model. what is the capital of italy? the capital of italy is rome.
once upon a time there was a little engine that could. it read the tokens one after the other, and then it wrote."""

CHATML = """{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# --- vocabularies -----------------------------------------------------------------------------------------------


def train_merges(words, count):
    """Plain byte-pair encoding: the most frequent pair first, ties in order of the text."""
    words = [list(w) for w in words]
    merges = []
    while len(merges) < count:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs.items(), key=lambda item: (item[1], item[0]))[0]
        merges.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [word[i] + word[i + 1]]
                else:
                    i += 1
    return merges


def spm_vocabulary(writer):
    """Control tokens, 256 bytes, characters, merges with falling scores: 347 tokens."""
    words = ["\u2581" + w for w in TEXT.split()]
    tokens = [("<unk>", 0.0, gguf.TokenType.UNKNOWN), ("<s>", 0.0, gguf.TokenType.CONTROL), ("</s>", 0.0, gguf.TokenType.CONTROL)]
    tokens += [(f"<0x{b:02X}>", 0.0, gguf.TokenType.BYTE) for b in range(256)]
    merged = [a + b for a, b in train_merges(words, 60)]
    tokens += [(t, -float(i), gguf.TokenType.NORMAL) for i, t in enumerate(merged)]
    characters = sorted(set("".join(words)))[: 347 - len(tokens)]
    tokens += [(c, -1000.0 - i, gguf.TokenType.NORMAL) for i, c in enumerate(characters)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([t for t, _, _ in tokens])
    writer.add_token_scores([s for _, s, _ in tokens])
    writer.add_token_types([int(k) for _, _, k in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    return len(tokens)


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), ord("\u00ff") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def bpe_vocabulary(writer, pre):
    """256 bytes, 47 merges, three control tokens: 306 tokens."""
    table = byte_characters()
    words = ["".join(table[b] for b in (" " + w).encode()) for w in TEXT.split()]
    merges = train_merges(words, 47)
    tokens = [table[b] for b in range(256)] + [a + b for a, b in merges]
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + controls)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(tokens) + [int(gguf.TokenType.CONTROL)] * 3)
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 2)
    writer.add_pad_token_id(len(tokens))
    writer.add_add_bos_token(False)
    return len(tokens) + 3


# --- weights ----------------------------------------------------------------------------------------------------

FORMATS = [Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]


def scale_min_6bit(sc, m):
    """Packs eight 6-bit scales and minima as Q4_K and Q5_K store them: (blocks, 8) twice to (blocks, 12)."""
    low = (sc[:, :4] & 63) | ((sc[:, 4:] >> 4) << 6)
    mid = (m[:, :4] & 63) | ((m[:, 4:] >> 4) << 6)
    high = (sc[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)
    return np.concatenate([low, mid, high], axis=1).astype(np.uint8)


def k_blocks(rng, kind, n, std):
    """`n` random blocks of a K format whose weights have about the standard deviation `std`."""

    def codes(count):
        return rng.randint(0, 256, (n, count)).astype(np.uint8)

    def halves(x):
        return x.astype(np.float16).reshape(n, 1).view(np.uint8)

    def minima(sc, most):
        # Near the scales, so that weights are centred about zero as in a trained model.
        return np.clip(sc + rng.randint(-most // 12 - 1, most // 12 + 2, sc.shape), 0, most)

    spread = rng.uniform(0.5, 1.5, n)
    if kind == Type.Q2_K:
        sc, qs = rng.randint(1, 16, (n, 16)), codes(64)
        scales = (sc | (minima(sc, 15) << 4)).astype(np.uint8)
        build = lambda d: np.concatenate([scales, qs, halves(d), halves(1.5 * d)], axis=1)
    elif kind == Type.Q3_K:
        rest = codes(32 + 64 + 12)
        build = lambda d: np.concatenate([rest, halves(d)], axis=1)
    elif kind in (Type.Q4_K, Type.Q5_K):
        sc = rng.randint(8, 64, (n, 8))
        scales = scale_min_6bit(sc, minima(sc, 63))
        rest = codes(128 if kind == Type.Q4_K else 32 + 128)
        centre = 7.5 if kind == Type.Q4_K else 15.5
        build = lambda d: np.concatenate([halves(d), halves(centre * d), scales, rest], axis=1)
    elif kind == Type.Q6_K:
        rest = codes(128 + 64 + 16)
        build = lambda d: np.concatenate([rest, halves(d)], axis=1)
    unit = gguf.quants.dequantize(build(spread * 0.01), kind).std() / 0.01
    # Rounded: the last digits of a sum depend on the machine.
    return build(spread * (std / float(f"{unit:.2g}")))


def matrix(rng, kind, rows, cols, std):
    """A random matrix in format `kind`, as gguf-py writes it (bytes of rows; floats for F32 and F16)."""
    if kind in (Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K):
        return k_blocks(rng, kind, rows * cols // 256, std).reshape(rows, -1)
    values = (rng.standard_normal((rows, cols)) * std).astype(np.float32)
    if kind == Type.F32:
        return values
    return gguf.quants.quantize(values, kind)


# --- models -----------------------------------------------------------------------------------------------------

# Every field of a row is a difference from this one. Sizes are odd on purpose where a format allows.
DEFAULT = dict(
    arch="llama", vocabulary="spm", layers=3, width=64, heads=4, heads_kv=2, head_dim=None, ff=160, tied=False,
    base=10000.0, biases=(), qk_norm=False, post_norms=False, fused_qkv=False, rope_factors=False, output_bias=False,
    keys={}, kinds={}, template=None,
)  # fmt: skip

GEMMA = dict(arch="gemma3", layers=8, heads_kv=1, head_dim=32, ff=96, tied=True, base=1e6, qk_norm=True, post_norms=True)
WIDE = dict(layers=2, width=256, heads=4, heads_kv=2, ff=256)

MODELS = {
    "llama-gqa": dict(),
    "llama-tied": dict(vocabulary="llama-bpe", heads_kv=1, tied=True, base=500000.0, rope_factors=True),
    "llama-headdim": dict(head_dim=32, base=1e6),
    "llama-mha": dict(heads_kv=None, base=None, keys={"rope.scale_linear": 2.0}),
    "llama-bias": dict(biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")),
    "llama-fused": dict(fused_qkv=True, biases=("attn_qkv",)),
    "qwen2": dict(arch="qwen2", vocabulary="qwen2", base=1e6, biases=("attn_q", "attn_k", "attn_v"), output_bias=True, template=CHATML),
    "qwen2-yarn": dict(
        arch="qwen2", vocabulary="qwen2", tied=True, biases=("attn_q", "attn_k", "attn_v"),
        keys={"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
    ),
    "qwen3": dict(
        arch="qwen3", vocabulary="qwen2", head_dim=32, base=1e6, qk_norm=True,
        keys={"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    ),
    "gemma3": dict(GEMMA, keys={"attention.sliding_window": 8, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    "gemma3-cap": dict(
        GEMMA, layers=4,
        keys={
            "attention.sliding_window": 9, "attention.sliding_window_pattern": [True, False, False, True],
            "rope.freq_base_swa": 5000.0, "final_logit_softcapping": 3.0,
        },
    ),
    # 62 layers: the attention scale of Gemma 3 27B, which follows the width and not the head.
    "gemma3-62": dict(GEMMA, layers=62, width=32, heads=2, head_dim=8, ff=32, keys={"attention.sliding_window": 16}),
    **{f"llama-{kind.name.lower()}": dict(WIDE, kinds={"*": kind}) for kind in FORMATS},
    "qwen2-mixed": dict(
        WIDE, arch="qwen2", vocabulary="qwen2", biases=("attn_q", "attn_k", "attn_v"),
        kinds={"*": Type.Q4_K, "attn_v": Type.Q6_K, "ffn_down": Type.Q6_K, "output": Type.Q6_K},
    ),
    "gemma3-mixed": dict(
        GEMMA, layers=7, width=256, head_dim=64, ff=256, keys={"attention.sliding_window": 8},
        kinds={"*": Type.Q5_0, "token_embd": Type.Q8_0, "attn_v": Type.Q8_0, "attn_output": Type.Q4_K, "ffn_down": Type.Q6_K},
    ),
}  # fmt: skip


def tensors(model, rng, n_vocab):
    """Yields (name, values, type) of every tensor."""
    m = model
    head_dim = m["head_dim"] or m["width"] // m["heads"]
    q, kv = m["heads"] * head_dim, (m["heads_kv"] or m["heads"]) * head_dim
    width, ff = m["width"], m["ff"]

    def weight(name, rows, cols, gain=1.0):
        kind = m["kinds"].get(name.split(".")[-1], m["kinds"].get("*", Type.F32))
        return f"{name}.weight", matrix(rng, kind, rows, cols, gain * cols**-0.5), kind

    def norm(name, n, gain=1.0):
        return f"{name}.weight", (gain * (1 + 0.2 * rng.standard_normal(n))).astype(np.float32), Type.F32

    def bias(name, n):
        return f"{name}.bias", (0.2 * rng.standard_normal(n)).astype(np.float32), Type.F32

    # Logits get a standard deviation of about 1.5.
    yield weight("token_embd", n_vocab, width, 1.5)
    yield norm("output_norm", width)
    if not m["tied"]:
        yield weight("output", n_vocab, width, 1.5)
    if m["output_bias"]:
        yield bias("output", n_vocab)
    if m["rope_factors"]:
        yield "rope_freqs.weight", llama3_factors(head_dim, m["base"]), Type.F32
    for layer in range(m["layers"]):
        at = f"blk.{layer}."
        yield norm(at + "attn_norm", width)
        shapes = {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, q)}
        if m["fused_qkv"]:
            shapes = {"attn_qkv": (q + 2 * kv, width), "attn_output": (width, q)}
        shapes |= {"ffn_gate": (ff, width), "ffn_up": (ff, width), "ffn_down": (width, ff)}
        for name, (rows, cols) in shapes.items():
            # What layers add outweighs the token's own embedding, so that greedy text does not repeat it.
            yield weight(at + name, rows, cols, 4.0 if name in ("attn_output", "ffn_down") else 1.0)
            if name in m["biases"]:
                yield bias(at + name, rows)
        if m["qk_norm"]:
            yield norm(at + "attn_q_norm", head_dim)
            yield norm(at + "attn_k_norm", head_dim)
        if m["post_norms"]:
            yield norm(at + "post_attention_norm", width, 4.0)
            yield norm(at + "post_ffw_norm", width, 4.0)
        yield norm(at + "ffn_norm", width)


def llama3_factors(head_dim, base, factor=8.0, low=1.0, high=4.0, context=64):
    """Divisors of the frequencies as Llama 3.1's converter writes them (for a small trained context)."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * base ** (i / head_dim)
        smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def make(name, path, twin=False):
    """Writes model `name`; `twin` writes the same weights dequantized to F32."""
    m = DEFAULT | MODELS[name]
    writer = gguf.GGUFWriter(path, m["arch"])
    # Temporary names of the writer do not get into the file; the order of keys is that of the calls.
    writer.add_name(f"tiny {name}")
    writer.add_context_length(512)
    writer.add_embedding_length(m["width"])
    writer.add_block_count(m["layers"])
    writer.add_feed_forward_length(m["ff"])
    writer.add_head_count(m["heads"])
    if m["heads_kv"]:
        writer.add_head_count_kv(m["heads_kv"])
    if m["head_dim"]:
        writer.add_key_length(m["head_dim"])
        writer.add_value_length(m["head_dim"])
    if m["base"]:
        writer.add_rope_freq_base(m["base"])
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in m["keys"].items():
        key = f"{m['arch']}.{key}"
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    n_vocab = spm_vocabulary(writer) if m["vocabulary"] == "spm" else bpe_vocabulary(writer, m["vocabulary"])
    if m["template"]:
        writer.add_chat_template(m["template"])
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    for tensor, values, kind in tensors(m, rng, n_vocab):
        if twin and kind != Type.F32:
            values, kind = gguf.quants.dequantize(values, kind), Type.F32
        if kind in (Type.F32, Type.F16):
            writer.add_tensor(tensor, np.ascontiguousarray(values))
        else:
            writer.add_tensor(tensor, np.ascontiguousarray(values).view(np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def folder():
    return fetch.cache_dir() / "tiny"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=folder(), help="default: %(default)s")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    arguments = parser.parse_args()
    if unknown := [n for n in arguments.names if n not in MODELS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or MODELS:
        path = arguments.out / f"{name}.gguf"
        part = path.with_suffix(".part")
        make(name, part)
        part.rename(path)
        print(path)


if __name__ == "__main__":
    main()
