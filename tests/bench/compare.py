#!/usr/bin/env python3
"""Ours against llama.cpp on this machine: interleaved runs, ratios with their spread.

    compare.py --model FILE.gguf --bin target/release --llama-bench PATH --llama-server PATH [--rounds 5] [--threads 2]

Every round runs both engines one after the other, so that what else the machine does hits both; figures are
medians, and each ratio is given with its smallest and largest round. Load average and stolen CPU time are printed
with the table. llama-bench and llama-server are whatever build the reader wants to compare with. Standard library only.
"""

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = (
    "river stone engine window silent market orange paper cloud hammer winter garden copper signal bridge "
    "letter forest circle mirror shadow planet velvet thunder ladder basket candle desert harbor island jacket"
).split()


def prompt(seed, words):
    rng = random.Random(seed)
    return f"[{seed}] Continue this list: " + " ".join(rng.choice(WORDS) for _ in range(words))


def cpu_times():
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields), fields[7]


class Ours:
    name = "rocmforge"

    def __init__(self, options, folder):
        self.socket = folder / "admin.sock"
        config = folder / "bench.toml"
        config.write_text("")
        (folder / "models").mkdir()
        self.ctl = [str(Path(options.bin) / "forgectl"), "--socket", str(self.socket)]
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROCMFORGE_")}
        self.process = subprocess.Popen(
            [str(Path(options.bin) / "rocmforged"), "--config", str(config), "--listen", "127.0.0.1:0"]
            + ["--admin-socket", str(self.socket), "--models-dir", str(folder / "models")]
            + ["--state-dir", str(folder), "--cache-dir", str(folder)],
            env=env | {"ROCMFORGE_CPU_THREADS": str(options.threads), "ROCMFORGE_LOG_LEVEL": "warn"},
        )
        while not self.socket.exists():
            if self.process.poll() is not None:
                sys.exit("compare: rocmforged did not start")
            time.sleep(0.05)
        subprocess.run([*self.ctl, "load", os.path.abspath(options.model), "--name", "bench"], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        status = json.loads(self.run("status"))
        host, port = status["listen"][0].rsplit(":", 1)
        self.address = (host, int(port))
        self.device = status["models"][0]["device"]

    def run(self, *args):
        return subprocess.run([*self.ctl, "--json", *args], check=True, capture_output=True, text=True).stdout

    def rates(self, n_prompt, n_gen):
        result = json.loads(self.run("bench", "bench", "--n-prompt", str(n_prompt), "--n-gen", str(n_gen), "--repetitions", "1"))
        rates = {run["test"][:2]: run["rates"][0] for run in result["runs"]}
        return rates["pp"], rates["tg"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Theirs:
    name = "llama.cpp"

    def __init__(self, options):
        self.options = options

    def rates(self, n_prompt, n_gen):
        o = self.options
        command = [o.llama_bench, "-m", o.model, "-p", str(n_prompt), "-n", str(n_gen), "-r", "1", "-t", str(o.threads)]
        out = subprocess.run([*command, "-o", "json"], check=True, capture_output=True, text=True).stdout
        runs = {("pp" if r["n_prompt"] else "tg"): r["avg_ts"] for r in json.loads(out)}
        return runs["pp"], runs["tg"]

    def serve(self, clients):
        o = self.options
        port = 20000 + os.getpid() % 20000
        self.address = ("127.0.0.1", port)
        command = [o.llama_server, "-m", o.model, "-t", str(o.threads), "--parallel", str(clients), "-c", str(1024 * clients)]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--alias", "bench", "--no-webui"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                c = http.client.HTTPConnection(*self.address, timeout=2)
                c.request("GET", "/health")
                if c.getresponse().status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                sys.exit("compare: llama-server did not start")
            time.sleep(0.1)
        sys.exit("compare: llama-server did not become healthy in 60 s")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def client(address, seed, words, n_gen, result):
    body = {"model": "bench", "prompt": prompt(seed, words), "max_tokens": n_gen, "temperature": 0, "stream": True}
    body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    start = time.monotonic()
    c = http.client.HTTPConnection(*address, timeout=600)
    c.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    answer = c.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"HTTP {answer.status}: {answer.read()[:300]}")
    times, usage = [], None
    for line in answer:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if any(c.get("text") for c in event.get("choices", [])):
                times.append(time.monotonic())
    result.append((times[0] - start, [b - a for a, b in zip(times, times[1:])], usage["completion_tokens"]))


def load_test(address, round_number, clients, words, n_gen):
    results = []
    threads = [
        threading.Thread(target=client, args=(address, round_number * 1000 + i, words, n_gen, results)) for i in range(clients)
    ]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    wall = time.monotonic() - start
    if len(results) != clients:
        sys.exit("compare: a client failed")
    gaps = sorted(g for _, gs, _ in results for g in gs)
    return {
        "tokens/s": sum(n for _, _, n in results) / wall,
        "TTFT p50 s": statistics.median(t for t, _, _ in results),
        "gap p50 ms": 1000 * statistics.median(gaps),
        "gap p95 ms": 1000 * gaps[int(0.95 * (len(gaps) - 1))],
    }


def row(name, ours, theirs):
    ratios = [a / b for a, b in zip(ours, theirs)]
    print(
        f"| {name} | {statistics.median(ours):.4g} | {statistics.median(theirs):.4g} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    total0, steal0 = cpu_times()
    with tempfile.TemporaryDirectory(prefix="rocmforge-bench-") as tmp:
        ours, theirs = Ours(options, Path(tmp)), Theirs(options)
        try:
            rates = {"ours": [], "theirs": []}
            for _ in range(options.rounds):
                rates["ours"].append(ours.rates(options.prompt, options.gen))
                rates["theirs"].append(theirs.rates(options.prompt, options.gen))
            theirs.serve(options.clients)
            loads = {"ours": [], "theirs": []}
            try:
                for n in range(options.rounds):
                    loads["ours"].append(load_test(ours.address, n, options.clients, 120, 64))
                    loads["theirs"].append(load_test(theirs.address, n, options.clients, 120, 64))
            finally:
                theirs.stop()
        finally:
            ours.stop()
    total1, steal1 = cpu_times()
    print(f"{Path(options.model).name}, {options.threads} threads, {ours.device}, {options.rounds} interleaved rounds; ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, stolen {100 * (steal1 - steal0) / max(1, total1 - total0):.1f} %\n")
    print("| figure | rocmforge | llama.cpp | ratio, median (min-max) |\n|---|---|---|---|")
    for i, name in enumerate([f"prefill {options.prompt}, tokens/s", f"decode {options.gen}, tokens/s"]):
        row(name, [r[i] for r in rates["ours"]], [r[i] for r in rates["theirs"]])
    for figure in loads["ours"][0]:
        row(f"{options.clients} clients, {figure}", [r[figure] for r in loads["ours"]], [r[figure] for r in loads["theirs"]])


if __name__ == "__main__":
    main()
