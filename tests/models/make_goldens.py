#!/usr/bin/env python3
"""Makes the goldens under tests/data/models with independent implementations: llama.cpp, and transformers.

    make_goldens.py tiny        logits and greedy continuations of make_tiny.py's models
    make_goldens.py greedy      continuations of the two real models of fetch.py, with the gap of the two best
    make_goldens.py perplexity  perplexity of text.txt, as `llama-perplexity` counts it

Needs PyPI llama-cpp-python (with `--no-binary llama-cpp-python` and CC=clang-19 CXX=clang++-19). llama.cpp takes GELU
from a table of f16 on CPUs, which moves logits by up to 0.01; the exact logits of models with GELU therefore come from
PyPI transformers (with torch), and llama.cpp's must be near them.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

import fetch
import make_tiny

DATA = Path(__file__).resolve().parent.parent / "data" / "models"
THREADS = 2
F32, F16 = 0, 1
REAL = {"qwen": "qwen2.5-coder-1.5b", "gemma": "gemma-3-270m"}


def load(path, context, kv, batch=512, logits_all=False):
    return llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=batch, n_threads=THREADS, n_threads_batch=THREADS, logits_all=logits_all,
        type_k=kv, type_v=kv, flash_attn=False, n_gpu_layers=0, verbose=False,
    )  # fmt: skip


def logits_of(path, tokens, kv=F32):
    model = load(path, 256, kv, logits_all=True)
    model.eval(tokens)
    return model.scores[: len(tokens)].copy()


def two_best(model):
    """The best id after what was evaluated last, and how far its logit is above the second's."""
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(model.n_vocab(),))
    second, best = sorted(np.argpartition(logits, -2)[-2:], key=lambda i: logits[i])
    return int(best), float(logits[best] - logits[second])


def rms(x):
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))


def real_path(name):
    return fetch.cache_dir() / fetch.MODELS[REAL[name]]["file"]


class Torch:
    """A gemma3 model in transformers, in f32, with the weights and numbers of a GGUF file."""

    PARTS = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "post_ffw_norm": "post_feedforward_layernorm",
    }  # fmt: skip

    def __init__(self, path, row):
        import torch
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        m = make_tiny.DEFAULT | row
        keys = m["keys"]
        pattern = keys.get("attention.sliding_window_pattern", [i % 6 < 5 for i in range(m["layers"])])
        full = {"rope_type": "default", "rope_theta": m["base"]}
        if "rope.scaling.factor" in keys:
            full |= {"rope_type": "linear", "factor": keys["rope.scaling.factor"]}
        reader = gguf.GGUFReader(path)
        weights = {t.name.removesuffix(".weight"): np.array(t.data) for t in reader.tensors}
        config = Gemma3TextConfig(
            vocab_size=len(weights["token_embd"]), hidden_size=m["width"], intermediate_size=m["ff"],
            num_hidden_layers=m["layers"], num_attention_heads=m["heads"], num_key_value_heads=m["heads_kv"],
            head_dim=m["head_dim"], rms_norm_eps=1e-5, max_position_embeddings=512,
            # The largest Gemma 3 has 62 layers and scales by its width.
            query_pre_attn_scalar=m["width"] // m["heads"] if m["layers"] == 62 else m["head_dim"],
            sliding_window=keys["attention.sliding_window"],
            layer_types=["sliding_attention" if local else "full_attention" for local in pattern],
            final_logit_softcapping=keys.get("final_logit_softcapping"),
            rope_parameters={
                "full_attention": full,
                "sliding_attention": {"rope_type": "default", "rope_theta": keys.get("rope.freq_base_swa", 10000.0)},
            },
        )  # fmt: skip
        self.model = Gemma3ForCausalLM(config).float().eval()
        state = {"model.embed_tokens.weight": weights.pop("token_embd"), "model.norm.weight": weights.pop("output_norm") - 1}
        for name, values in weights.items():
            _, layer, part = name.split(".")
            # Files hold 1 + w for norms.
            state[f"model.layers.{layer}.{self.PARTS[part]}.weight"] = values - 1 if part.endswith("norm") else values
        state = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert missing in ([], ["lm_head.weight"]) and not unexpected, (missing, unexpected)
        self.model.tie_weights()
        self.torch = torch

    def logits(self, tokens):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([tokens]), use_cache=False).logits[0].numpy()

    def greedy(self, tokens, count):
        out, gap = [], math.inf
        for _ in range(count):
            last = self.logits(tokens + out)[-1]
            second, best = np.argsort(last)[-2:]
            gap = min(gap, float(last[best] - last[second]))
            out.append(int(best))
        return out, gap


# --- tiny models ------------------------------------------------------------------------------------------------


def fixed_tokens(name, n_vocab, count):
    rng = np.random.RandomState(7)
    return [int(t) for t in rng.randint(3, n_vocab - 3, count)]


def greedy_f32(path, tokens, count):
    """Ids, and the smallest distance of the two best logits on the way."""
    model = load(path, 256, F32)
    model.eval(tokens)
    out, gap = [], math.inf
    for _ in range(count):
        best, distance = two_best(model)
        gap = min(gap, distance)
        out.append(best)
        model.eval([best])
    return out, gap


def tiny():
    """tiny.json says what is where; logits lie as f32 in tiny.f32, row after row, model after model."""
    DATA.mkdir(parents=True, exist_ok=True)
    entries, blob = [], []
    for name, row in make_tiny.MODELS.items():
        path = make_tiny.folder() / f"{name}.gguf"
        quantized = "kinds" in row
        with tempfile.TemporaryDirectory() as tmp:
            exact_path = path
            if quantized:
                exact_path = Path(tmp) / "twin.gguf"
                make_tiny.make(name, exact_path, twin=True)
            n_vocab = load(path, 256, F32).n_vocab()
            tokens = fixed_tokens(name, n_vocab, 20 if quantized else 36)
            exact = logits_of(exact_path, tokens)
            gelu = row.get("arch") == "gemma3"
            if gelu:
                model = Torch(exact_path, row)
                near, exact = exact, model.logits(tokens)
                print(f"{name}: llama.cpp differs by at most {abs(near - exact).max()}")
                assert abs(near - exact).max() < 0.03
        entry = {"name": name, "tokens": tokens, "n_vocab": n_vocab, "offset": sum(x.size for x in blob)}
        blob.append(exact.astype("<f4"))
        entry["std"] = float(exact.std())
        if quantized:
            entry["llama_cpp_rms"] = rms(logits_of(path, tokens) - exact)
        else:
            entry["greedy"], entry["gap"] = greedy_f32(path, tokens, 32)
            if gelu:
                theirs, entry["gap"] = model.greedy(tokens, 32)
                assert theirs == entry["greedy"], f"{name}: two best logits are too close"
        print({k: v for k, v in entry.items() if k not in ("tokens", "greedy")})
        entries.append(entry)
    (DATA / "tiny.json").write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n")
    (DATA / "tiny.f32").write_bytes(b"".join(x.tobytes() for x in blob))


# --- real models ------------------------------------------------------------------------------------------------


def chat(*turns):
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for i, turn in enumerate(turns):
        text += f"<|im_start|>{'user' if i % 2 == 0 else 'assistant'}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


SIX_TURNS = chat(
    "Hi! I am learning to cook. Where do I start?",
    "Start with eggs: they are cheap, quick and forgiving.",
    "How do I boil one?",
    "Put it in boiling water: six minutes for a soft yolk, ten for a hard one.",
    "And which pan do I need for an omelette?",
    "A small non-stick pan, about 20 cm wide.",
    "What should I put into it?",
    "Cheese, herbs and a little butter are enough.",
    "Can I use olive oil instead of butter?",
    "Yes, the taste is a little different.",
    "Write the whole recipe in five short steps.",
)


def prompts(name):
    text = (DATA / "text.txt").read_text()
    if name == "qwen":
        return {
            "english": chat("What is the capital of Italy, and what is it known for?"),
            "code": chat("Write a Python function that returns the n-th Fibonacci number without recursion."),
            "chinese": chat("请用中文简单介绍一下长城。"),
            "six turns": SIX_TURNS,
            "completion": "// Reads a file and counts its lines.\nfn count_lines(path: &Path) -> io::Result<usize> {\n",
            "3000 tokens": chat("Summarize this text:\n\n" + text[:11700]),
        }
    return {
        "english": "The capital of Italy is",
        "story": "Once upon a time, in a small village by the sea, there lived",
        "code": "def fibonacci(n):\n",
        "chinese": "长城是",
        "german": "Die Hauptstadt von Deutschland ist",
        "past the window": text[:6000],
    }


def greedy():
    """greedy.json: prompt ids and 64 greedy ids, with the distance of the two best logits at each step (nat)."""
    out = {}
    for name in REAL:
        model = load(real_path(name), 4096, F16)
        out[name] = []
        for label, prompt in prompts(name).items():
            started = time.time()
            tokens = model.tokenize(prompt.encode(), add_bos=name == "gemma", special=True)
            model.reset()
            model.eval(tokens)
            ids, gaps = [], []
            for _ in range(64):
                best, gap = two_best(model)
                ids.append(best)
                gaps.append(round(gap, 3))
                if best == model.token_eos():
                    break
                model.eval([best])
            text = model.detokenize(ids).decode(errors="replace")
            print(name, label, len(tokens), f"{time.time() - started:.1f} s", min(gaps), repr(text[:70]))
            out[name].append({"label": label, "prompt": tokens, "ids": ids, "gaps": gaps, "text": text})
    lines = [json.dumps(name) + ": [\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]" for name, entries in out.items()]
    (DATA / "greedy.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def perplexity():
    """perplexity.json, counted as INTERFACE.md's `rocmforged eval` says, of text.txt (own prose, pages and code; over 8,000 tokens)."""
    context, out = 512, {}
    for name in REAL:
        started = time.time()
        model = load(real_path(name), context, F16, logits_all=True)
        bos = model.token_bos() if name == "gemma" else None
        tokens = model.tokenize((DATA / "text.txt").read_bytes(), add_bos=bos is not None, special=False)
        logs = []
        for start in range(0, len(tokens) - context + 1, context):
            window = tokens[start : start + context]
            if bos is not None:
                window[0] = bos
            model.reset()
            model.eval(window)
            for i in range(context // 2, context - 1):
                logits = model.scores[i].astype(np.float64)
                top = logits.max()
                logs.append(top + math.log(np.exp(logits - top).sum()) - logits[window[i + 1]])
        mean = float(np.mean(logs))
        error = math.sqrt(float(np.var(logs)) / (len(logs) - 1)) * math.exp(mean)
        out[name] = {"tokens": len(tokens), "scored": len(logs), "context": context, "perplexity": math.exp(mean), "error": error}
        print(name, out[name], f"{time.time() - started:.1f} s")
    (DATA / "perplexity.json").write_text(json.dumps(out, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tiny", "greedy", "perplexity"])
    {"tiny": tiny, "greedy": greedy, "perplexity": perplexity}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
