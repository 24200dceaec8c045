#!/usr/bin/env python3
"""The unmodified daemon on an NVIDIA card, measured: card.py --library LIB --models FOLDER [STEP ...]

    card.py --library LIB/libamdhip64.so --models /tmp/models --out /tmp/results.json \\
        copy 8b-q4_k_m 8b-q8_0 1.5b-q4_k_m cycles memcheck racecheck

The binaries are those of $ROCMFORGE_TEST_BIN. Steps, in the order given:
    copy            what the card copies, read and written bytes a second (needs torch)
    NAME            a model of models.py, made if it is not in FOLDER: loaded, measured, evicted
    times:NAME      where a decode step of it goes: GPU time a step, and a table of kernels
    cycles          loads and evictions of a small model; the card's memory must come back to the byte
    memcheck, racecheck   compute-sanitizer over the worker while the models of --tiny answer; with
                    `:planted` over the library --planted, in which it must find mistakes
With --small the models are tiny: a rehearsal on another device, where what it cannot do is left out.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "client"))

import daemon  # noqa: E402
import models  # noqa: E402

SMALL = {"8b-q4_k_m": "small-q4_k_m", "8b-q8_0": "small-q8_0", "1.5b-q4_k_m": "small-qwen"}


class Card:
    """The card as another process sees it."""

    def __init__(self):
        try:
            import torch

            self.torch = torch if torch.cuda.is_available() else None
        except ImportError:
            self.torch = None

    def free(self):
        """Free bytes of device memory; None without a card."""
        return self.torch.cuda.mem_get_info()[0] if self.torch else None

    def copy(self):
        """Bytes read and written a second by a copy of 2 GiB, best of ten; a matrix product's f16 operations."""
        torch = self.torch
        a = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
        b = torch.empty_like(a)
        seconds = self.best(lambda: b.copy_(a))
        result = {"name": torch.cuda.get_device_name(0), "copy_gb_s": 2 * a.nbytes / seconds / 1e9}
        x = torch.randn(8192, 8192, dtype=torch.float16, device="cuda")
        y = torch.randn(8192, 8192, dtype=torch.float16, device="cuda")
        result["f16_tflop_s"] = 2 * 8192**3 / self.best(lambda: x @ y) / 1e12
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        result["host_to_card_gb_s"] = host.nbytes / self.best(lambda: a[: 1 << 30].copy_(host, non_blocking=True)) / 1e9
        del a, b, x, y, host
        torch.cuda.empty_cache()
        return result

    def best(self, work, rounds=10):
        torch = self.torch
        times = []
        for _ in range(rounds + 2):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        return min(times[2:])


class Daemon(daemon.Daemon):
    """A daemon whose GPU is the library; `wrap` is a command that it is started by."""

    def __init__(self, library, wrap=(), **more):
        super().__init__(env={"ROCMFORGE_HIP_LIBRARY": str(library)} | more)
        self.wrap = list(wrap)

    def spawn(self):
        command = self.wrap + [str(daemon.binaries() / "rocmforged"), "--config", str(self.config)]
        command += ["--listen", "127.0.0.1:0", "--admin-socket", str(self.socket), "--models-dir", self.models[0]]
        command += ["--state-dir", str(self.folder / "state"), "--cache-dir", str(self.folder / "cache")]
        with open(self.folder / "log", "ab", buffering=0) as out:
            self.process = subprocess.Popen(command, env=self.env, stdout=out, stderr=out)

    def stop(self, within=60):
        if not self.wrap:
            return super().stop(within)
        self.ask("drain")
        self.process.wait(within)

    def load(self, path, name, timeout=300):
        """Loads a model onto the GPU; the seconds it took."""
        start = time.monotonic()
        answer = self.ctl("load", path, "--name", name, "--device", "gpu", timeout=timeout)
        if answer.returncode:
            raise AssertionError(f"{answer.stderr}\n{self.logged()}")
        return time.monotonic() - start

    def rate(self, name, repetitions, *args):
        """Median, least and most tokens a second of a benchmark."""
        run = self.ask("bench", name, "--repetitions", repetitions, *args)["runs"][0]
        return {"median": statistics.median(run["rates"]), "min": min(run["rates"]), "max": max(run["rates"])}


def clients(d, name, count, n_prompt, n_gen):
    """`count` streamed completions at once: tokens a second in all, median time to the first, gaps."""
    results = []

    def client(seed):
        prompt = "".join(chr(97 + (seed * 31 + i * i) % 26) for i in range(n_prompt))
        start = time.monotonic()
        connection, answer = d.stream(name, prompt, max_tokens=n_gen, ignore_eos=True)
        times = [time.monotonic() for event in daemon.events(answer) if event["choices"]]
        connection.close()
        results.append((times[0] - start, [b - a for a, b in zip(times, times[1:])]))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(count)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    wall = time.monotonic() - start
    assert len(results) == count, f"only {len(results)} of {count} clients got an answer"
    gaps = sorted(g for _, all_gaps in results for g in all_gaps)
    return {
        "clients": count, "tokens_s": count * n_gen / wall,
        "first_token_s": statistics.median(first for first, _ in results),
        "gap_ms": 1000 * statistics.median(gaps), "gap_p95_ms": 1000 * gaps[int(0.95 * len(gaps))],
    }  # fmt: skip


class Steps:
    def __init__(self, options):
        self.options = options
        self.card = Card()
        self.copy_rate = None
        self.n_prompt, self.n_gen, self.repetitions = (64, 8, 1) if options.small else (512, 128, 3)

    def model(self, name):
        """The real name under --small, and the file, made if it is not there."""
        name = SMALL[name] if self.options.small else name
        path = Path(self.options.models) / f"{name}.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            models.make(name, path)
        return name, path

    def copy(self):
        result = self.card.copy()
        self.copy_rate = result["copy_gb_s"] * 1e9
        return result

    def measure(self, name):
        name, path = self.model(name)
        result = {"file_bytes": path.stat().st_size, "step_bytes": models.step_bytes(name)}
        with Daemon(self.options.library) as d:
            before = self.card.free()
            # Once to bring the file into the page cache and all that comes with the first model.
            d.load(path, name)
            d.complete(name, "Hello", max_tokens=2)
            d.ask("evict", name)
            between = self.card.free()
            result["load_s"] = d.load(path, name)
            result["load_gb_s"] = result["file_bytes"] / result["load_s"] / 1e9
            result["device_bytes"] = self.card.free() and between - self.card.free()
            result["decode"] = d.rate(name, self.repetitions, "-p", 0, "-n", self.n_gen)
            if self.copy_rate:
                result["decode_percent_of_copy"] = 100 * result["decode"]["median"] * result["step_bytes"] / self.copy_rate
            result["decode_deep"] = d.rate(name, 1, "-p", 0, "-n", self.n_gen, "-d", 8 * self.n_prompt)
            result["prefill"] = d.rate(name, self.repetitions, "-p", self.n_prompt, "-n", 0)
            result["decode_x8"] = d.rate(name, 1, "-p", 0, "-n", self.n_gen, "-b", 8)
            result["clients"] = clients(d, name, 8, self.n_prompt, self.n_gen)
            d.ask("evict", name)
            result["first_model_keeps"] = before and before - between
            # What the driver keeps for itself must not grow from model to model.
            left = [self.card.free()]
            for _ in range(3):
                d.load(path, name)
                d.rate(name, 1, "-p", self.n_prompt, "-n", self.n_gen, "-b", 8)
                d.ask("evict", name)
                left.append(self.card.free())
            result["left_after_evictions"] = between and [between - free for free in left]
        return result

    def times(self, name):
        name, path = self.model(name)
        result = {}
        for what, variable in [("step", "CUDAHIP_GRAPH_TIMES"), ("kernels", "CUDAHIP_KERNEL_TIMES")]:
            with tempfile.TemporaryDirectory() as folder:
                table = Path(folder) / "times"
                with Daemon(self.options.library, **{variable: str(table)}) as d:
                    d.load(path, name)
                    result[f"{what}_rate"] = d.rate(name, 1, "-p", 0, "-n", self.n_gen)["median"]
                    if table.exists():
                        result[what] = self.table(table)
                    if what == "kernels":
                        for _ in range(4):
                            result["prefill_rate"] = d.rate(name, 1, "-p", self.n_prompt, "-n", 0)["median"]
                        if table.exists():
                            result["with_prefill"] = self.table(table)
        return result

    @staticmethod
    def table(path):
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        rows = sorted(((n, int(calls), float(us)) for n, calls, us in rows), key=lambda r: -r[2])
        return [f"{n.strip()}: {calls} x {us / calls:.2f} us = {us / 1000:.1f} ms" for n, calls, us in rows]

    def cycles(self):
        name, path = self.model("8b-q4_k_m") if self.options.small else ("small-q4_k_m", None)
        if path is None:
            path = Path(self.options.models) / f"{name}.gguf"
            models.make(name, path)
        with Daemon(self.options.library) as d:
            seen, worker = [], []
            start = time.monotonic()
            while len(seen) < self.options.cycles and time.monotonic() < start + self.options.seconds:
                d.load(path, name)
                if len(seen) % 10 == 0:
                    d.complete(name, "Hello", max_tokens=4)
                d.ask("evict", name)
                seen.append(self.card.free())
                if len(seen) % 50 == 1:
                    worker.append(d.private())
            return {
                "cycles": len(seen), "seconds": time.monotonic() - start, "free_after_first": seen[0],
                "free_after_last": seen[-1], "different": len(set(seen[1:])), "daemon_private": [worker[0], worker[-1]],
            }  # fmt: skip

    def sanitizer(self, tool, planted):
        log = Path(tempfile.mkdtemp(prefix="card-")) / tool
        wrap = [] if self.options.small else ["compute-sanitizer", "--target-processes", "all", "--tool", tool, "--log-file", f"{log}.%p"]
        if wrap and not shutil.which(wrap[0]):
            return "compute-sanitizer is not there"
        paths = [self.model("8b-q4_k_m")[1]] if self.options.small else sorted(Path(self.options.tiny).glob("*.gguf"))
        done, fault, start = [], None, time.monotonic()
        try:
            with Daemon(self.options.planted if planted else self.options.library, wrap) as d:
                for path in paths:
                    if time.monotonic() > start + self.options.seconds:
                        break
                    d.load(path, path.stem)
                    d.complete(path.stem, "the quick brown fox " * 12, max_tokens=6)
                    clients(d, path.stem, 5, 20, 3)
                    d.ask("evict", path.stem)
                    done.append(path.stem)
        except Exception as e:  # A planted mistake ends the worker; what the tool saw is in its log.
            fault = str(e)[-1500:]
        lines = [line for part in sorted(log.parent.glob(f"{log.name}.*")) for line in part.read_text().splitlines()]
        counts = [line for line in lines if "SUMMARY" in line]
        return {
            "models": done, "seconds": time.monotonic() - start, "fault": fault, "summaries": counts,
            "log_lines": len(lines), "log": lines[:12] + lines[-4:],
        }  # fmt: skip

    def run(self, step):
        tool, _, planted = step.partition(":")
        if tool in ("memcheck", "racecheck"):
            return self.sanitizer(tool, planted)
        if step.startswith("times:"):
            return self.times(step.removeprefix("times:"))
        return {"copy": self.copy, "cycles": self.cycles}[step]() if step in ("copy", "cycles") else self.measure(step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="a libamdhip64.so")
    parser.add_argument("--models", required=True, help="folder for models")
    parser.add_argument("--tiny", help="folder of models for compute-sanitizer")
    parser.add_argument("--planted", help="a library like it with a write out of bounds and a missing barrier")
    parser.add_argument("--out", help="file of results, written after each step")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120, help="longest time of cycles and of compute-sanitizer")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("steps", nargs="+", metavar="STEP")
    options = parser.parse_args()
    options.library = os.path.abspath(options.library)
    steps, results, failed = Steps(options), {}, False
    for step in options.steps:
        start = time.monotonic()
        try:
            results[step] = steps.run(step)
        except Exception as e:  # The next step may work: the card is lent for minutes.
            results[step], failed = f"{type(e).__name__}: {e}", True
        print(f"{step} ({time.monotonic() - start:.1f} s): {json.dumps(results[step], indent=1)}", flush=True)
        if options.out:
            Path(options.out).write_text(json.dumps(results, indent=1))
    sys.exit(failed)


if __name__ == "__main__":
    main()
