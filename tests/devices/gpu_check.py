"""Runs a real model on a test device and on the CPU, and compares the greedy text: `make gpu-check`.

    python tests/devices/gpu_check.py --library libamdhip64.so [--model NAME] [--tokens N]

A first difference is allowed where the CPU's own two best tokens are within NEAR of each other: there the paths'
different activation formats (8 bits on the one, 8 bits in other groups or bf16 on the other) may decide.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "client"))

from daemon import Daemon, test_models  # noqa: E402

NEAR = 0.35
PROMPT = "The capital of France is Paris. The capital of Italy is"


def greedy(daemon, model, n):
    """Tokens as text, each with the two best log-probabilities, and the seconds it took."""
    began = time.monotonic()
    body = {"model": model, "prompt": PROMPT, "max_tokens": n, "temperature": 0, "logprobs": 2}
    status, answer = daemon.post("/v1/completions", body, timeout=3600)
    if status != 200:
        raise SystemExit(f"HTTP {status}: {answer}\n{daemon.logged()}")
    chosen = answer["choices"][0]["logprobs"]
    gaps = [max(t.values()) - min(t.values()) for t in chosen["top_logprobs"]]
    return chosen["tokens"], gaps, time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="a libamdhip64.so")
    parser.add_argument("--model", default="gemma-3-270m-Q4_K_M")
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    library = str(Path(args.library).resolve())
    with Daemon(models=[test_models()], env={"ROCMFORGE_HIP_LIBRARY": library}) as daemon:
        texts = {}
        for device in ("gpu", "cpu"):
            loaded = daemon.ctl("load", args.model, "--device", device, "--ctx", "512", timeout=3600)
            if loaded.returncode:
                raise SystemExit(loaded.stderr)
            print(loaded.stdout.strip(), flush=True)
            tokens, gaps, seconds = greedy(daemon, args.model, args.tokens)
            texts[device] = tokens
            print(f"{device}: {''.join(tokens)!r} in {seconds:.1f} s", flush=True)
            daemon.ask("evict", args.model)
    # The gaps are the CPU's, which came last.
    for i, (a, b) in enumerate(zip(texts["gpu"], texts["cpu"])):
        if a != b:
            verdict = f"token {i} differs ({a!r}, {b!r}); the CPU's two best are {gaps[i]:.3f} nat apart"
            if gaps[i] > NEAR:
                raise SystemExit(verdict)
            print(verdict + ": a near tie")
            return
    print(f"all {len(texts['gpu'])} tokens are the same")


if __name__ == "__main__":
    main()
