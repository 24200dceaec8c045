#!/usr/bin/env python3
"""Makes the goldens under tests/data/models with llama.cpp (PyPI llama-cpp-python), an independent implementation.

    make_goldens.py tiny        logits and greedy continuations of make_tiny.py's models
    make_goldens.py greedy      continuations of the two real models of fetch.py, with the gap of the two best
    make_goldens.py perplexity  perplexity of text.txt, as `llama-perplexity` counts it

Install with `--no-binary llama-cpp-python` and CC=clang-19 CXX=clang++-19.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

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
        entry = {"name": name, "tokens": tokens, "n_vocab": n_vocab, "offset": sum(x.size for x in blob)}
        blob.append(exact.astype("<f4"))
        entry["std"] = float(exact.std())
        if quantized:
            entry["llama_cpp_rms"] = rms(logits_of(path, tokens) - exact)
        else:
            entry["greedy"], entry["gap"] = greedy_f32(path, tokens, 32)
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
