#!/usr/bin/env python3
"""Counts what a prefill step and the decode step after it do, on test device B: instructions, bytes, cache lines.

    gpu_counts.py --library .../rdna3/libamdhip64.so --model FILE.gguf --prompt 32
    gpu_counts.py --library .../rdna3/libamdhip64.so --shape llama-3.1-8b --prompt 32 512

Device B interprets the gfx1100 code, so these are counts of what the card would execute, and no times. For each
prompt length a request of so many tokens is a prefill step, its second token a decode step with that context. A shape
(shapes.py) is counted with two and with four layers of random weights, and continued to all of its layers: all
counts are affine in the layers. `--layers N` counts N of them instead.

Lines are unique within a launch and added up over launches: what a card reads from memory if a launch keeps what it
has read and nothing stays from launch to launch. The floor is the weights that the step needs, read once, and the
keys and values of the context. Needs gguf and numpy; ROCMFORGE_TEST_BIN as in tests/client/daemon.py.
"""

import argparse
import csv
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "client"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import gguf  # noqa: E402
import shapes  # noqa: E402
from daemon import Daemon  # noqa: E402

# What is added up for each kernel: columns of RDNA3_STATS.
COUNTS = {
    "wave_instructions": "wave instructions, M",
    "bytes_loaded": "loaded by lanes, MB",
    "bytes_stored": "stored, MB",
    "lines_64": "64-byte lines, MB",
    "lines_128": "128-byte lines, MB",
    "lds_conflicts": "LDS conflicts, M",
}
LINE = {"lines_64": 64, "lines_128": 128}
CONTEXT = 1024
# A Radeon RX 7900 XTX: bytes a second by its data sheet; wave instructions a second if each of its 192 SIMDs issues
# one a cycle at the clock that device B reports.
BANDWIDTH, ISSUE = 960e9, 192 * 2.482e9


# --- what a step needs at least ---------------------------------------------------------------------------------


class Needs:
    """Bytes that a step of a model cannot do without."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        arch = self.field("general.architecture")
        number = lambda key, default=None: self.field(f"{arch}.{key}", default)
        heads = number("attention.head_count")
        head_dim = number("attention.key_length", number("embedding_length") // heads)
        self.layers = number("block_count")
        self.kv_token = 2 * 2 * self.layers * number("attention.head_count_kv", heads) * head_dim
        self.window = number("attention.sliding_window")
        self.vocab = len(self.reader.get_field("tokenizer.ggml.tokens").data)

    def field(self, key, default=None):
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def weights(self, tokens):
        """Weights of a step of so many different tokens: an embedding that is not the output too is read by rows."""
        tied = not any(t.name == "output.weight" for t in self.reader.tensors)
        total = 0
        for t in self.reader.tensors:
            rows = int(t.n_bytes) // int(t.shape[1]) if len(t.shape) > 1 else 0
            total += rows * tokens if t.name == "token_embd.weight" and not tied else int(t.n_bytes)
        return total

    def cache(self, context):
        """Keys and values of so many tokens, in f16."""
        if self.window and context > self.window:
            raise SystemExit(f"a context of {context} is over the window of {self.window}: its floor is not computed")
        return self.kv_token * context


# --- counting ---------------------------------------------------------------------------------------------------


class Step:
    """Counters of one step, by kernel."""

    def __init__(self, tokens, context, weights, cache):
        self.tokens, self.context, self.weights, self.cache = tokens, context, weights, cache
        self.launches = Counter()
        self.counts = {name: Counter() for name in COUNTS}

    def add(self, row):
        self.launches[row["kernel"]] += 1
        for name, counter in self.counts.items():
            counter[row["kernel"]] += int(row[name])

    def total(self, name):
        return sum(self.counts[name].values())

    def ratio(self, name):
        return self.total(name) * LINE[name] / (self.weights + self.cache)


def continued(two, four, layers):
    """The step of so many layers, from those of two and of four."""

    def line(a, b):
        return a + (b - a) * (layers - 2) // 2

    def lines(a, b):
        return Counter({key: line(a[key], b[key]) for key in a | b})

    step = Step(two.tokens, two.context, line(two.weights, four.weights), line(two.cache, four.cache))
    step.launches = lines(two.launches, four.launches)
    step.counts = {name: lines(two.counts[name], four.counts[name]) for name in COUNTS}
    return step


def rows(path, start):
    """Launches that the device has written down from byte `start` on."""
    with open(path, newline="") as file:
        columns = file.readline().split()
        file.seek(max(start, file.tell()))
        return list(csv.DictReader(file, columns, delimiter="\t"))


def steps(needs, launches, prompt):
    """The prefill and the decode step: each begins with an embedding."""
    starts = [i for i, row in enumerate(launches) if row["kernel"].startswith("embed_")]
    sizes = [int(launches[i]["grid"].split(",")[0]) for i in starts]
    if sizes != [prompt, 1]:
        raise SystemExit(f"steps of {sizes} tokens, not of {prompt} and 1")
    shapes_of = ((prompt, prompt), (1, prompt + 1))
    found = [Step(n, context, needs.weights(n), needs.cache(context)) for n, context in shapes_of]
    for step, begin, end in zip(found, starts, starts[1:] + [len(launches)]):
        for row in launches[begin:end]:
            step.add(row)
    return found


def count(library, model, prompts):
    """The steps of each prompt length on the device."""
    needs, rng = Needs(model), random.Random(1)
    found = []
    with tempfile.TemporaryDirectory(prefix="rocmforge-counts-") as folder:
        stats = Path(folder) / "stats.tsv"
        env = {"ROCMFORGE_HIP_LIBRARY": library, "RDNA3_STATS": str(stats), "RDNA3_WAITS": "0", "RDNA3_RACES": "0"}
        with Daemon(env=env) as daemon:
            options = ("--name", "counted", "--device", "gpu", "--ctx", CONTEXT)
            loaded = daemon.ctl("load", Path(model).resolve(), *options, timeout=1800)
            if loaded.returncode:
                raise SystemExit(loaded.stderr)
            for prompt in prompts:
                start = stats.stat().st_size
                # No beginning that the cache knows, and no token twice: their rows are counted.
                tokens = rng.sample(range(needs.vocab // 2), prompt)
                body = {"model": "counted", "prompt": tokens, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
                status, answer = daemon.post("/v1/completions", body, timeout=3600)
                if status != 200:
                    raise SystemExit(f"HTTP {status}: {answer}\n{daemon.logged()}")
                found += steps(needs, rows(stats, start), prompt)
    return found


def count_shape(library, name, layers, prompts):
    """The same of a shape with so many layers."""
    with tempfile.TemporaryDirectory(prefix="rocmforge-shape-") as folder:
        path = Path(folder) / f"{name}-{layers}.gguf"
        shapes.write(name, path, layers)
        return count(library, path, prompts)


# --- tables -----------------------------------------------------------------------------------------------------


def cell(name, value):
    """A count as the table has it: millions, of bytes where it is lines."""
    return f"{value * LINE.get(name, 1) / 1e6:,.2f}"


def table(step):
    """Prints a step's kernels, those with the most lines first."""
    print("| kernel | launches | " + " | ".join(COUNTS.values()) + " |")
    print("|---|" + "---:|" * (1 + len(COUNTS)))
    lines = step.counts["lines_128"]
    for kernel in sorted(step.launches, key=lambda k: -lines[k]):
        values = [cell(name, counter[kernel]) for name, counter in step.counts.items()]
        print(f"| `{kernel}` | {step.launches[kernel]} | " + " | ".join(values) + " |")
    totals = [cell(name, step.total(name)) for name in COUNTS]
    print(f"| all | {sum(step.launches.values())} | " + " | ".join(totals) + " |\n")


def report(title, step):
    """Prints a step."""
    kind = "decode" if step.tokens == 1 else "prefill"
    print(f"### {title}: {kind} of {step.tokens}, {step.context} tokens of context\n")
    table(step)
    ratios = " and ".join(f"{size}-byte lines are {step.ratio(name):.4f} of it" for name, size in LINE.items())
    print(f"Floor: weights {step.weights / 1e6:,.2f} MB + KV {step.cache / 1e6:,.2f} MB; {ratios}.")
    memory = step.total("lines_128") * LINE["lines_128"] / BANDWIDTH
    issue = step.total("wave_instructions") / ISSUE
    print(f"Arithmetic: {1e3 * memory:.3f} ms of memory at 960 GB/s, {1e3 * issue:.3f} ms of issue at one a cycle.\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True, help="device B's libamdhip64.so")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a GGUF file, counted whole")
    what.add_argument("--shape", choices=shapes.SHAPES, help="random weights of this shape")
    parser.add_argument("--layers", type=int, help="layers of the shape: an even number, counted and not continued")
    parser.add_argument("--prompt", type=int, nargs="+", default=[32], help="lengths of prompts: 1 to 512 tokens")
    args = parser.parse_args()
    library = str(Path(args.library).resolve())
    if args.model:
        title, found = Path(args.model).stem, count(library, args.model, args.prompt)
    elif args.layers:
        title = f"{args.shape}, {args.layers} layers"
        found = count_shape(library, args.shape, args.layers, args.prompt)
    else:
        layers = shapes.SHAPES[args.shape]["layers"]
        title = f"{args.shape}, continued to {layers} layers"
        pairs = zip(*(count_shape(library, args.shape, n, args.prompt) for n in (2, 4)))
        found = [continued(two, four, layers) for two, four in pairs]
    for step in found:
        report(title, step)


if __name__ == "__main__":
    main()
