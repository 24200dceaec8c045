#!/usr/bin/env python3
"""The demonstration behind `make demo`: a model, from its file to a streamed answer.

    demo.py --rocmforged PATH --forgectl PATH --model FILE.gguf [--prompt TEXT]

Starts the daemon in the foreground on a private socket and port, loads the model through forgectl with its
progress on the terminal, streams an answer through the OpenAI endpoint, prints speed and memory, and stops
the daemon. Standard library only.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def wait_for(path, daemon, seconds=20):
    end = time.monotonic() + seconds
    while not path.exists():
        if daemon.poll() is not None:
            sys.exit(f"demo: rocmforged ended with code {daemon.returncode}; its log is above")
        if time.monotonic() > end:
            sys.exit(f"demo: {path} did not appear within {seconds} s")
        time.sleep(0.02)


def stream(address, path, body):
    """Yields (seconds since the request, event) for each event of the stream."""
    start = time.monotonic()
    connection = http.client.HTTPConnection(*address, timeout=600)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"demo: HTTP {answer.status}: {answer.read().decode()}")
    print(f"(device: {answer.headers['x-rocmforge-device']})", file=sys.stderr)
    for line in answer:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield time.monotonic() - start, json.loads(line[6:])
    connection.close()


def private_memory(pid):
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Dirty:", "Swap:")):
            total += int(line.split()[1])
    return total / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rocmforged", required=True)
    parser.add_argument("--forgectl", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", default="What is the capital of Italy?")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="rocmforge-demo-") as tmp:
        folder = Path(tmp)
        socket = folder / "admin.sock"
        (folder / "models").mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ROCMFORGE_")}
        config = folder / "demo.toml"
        config.write_text("")
        daemon = subprocess.Popen(
            [options.rocmforged, "--config", str(config), "--listen", "127.0.0.1:0", "--admin-socket", str(socket)]
            + ["--models-dir", str(folder / "models"), "--state-dir", tmp, "--cache-dir", tmp],
            env=environment,
        )
        try:
            wait_for(socket, daemon)
            ctl = [options.forgectl, "--socket", str(socket)]
            subprocess.run([*ctl, "load", os.path.abspath(options.model)], check=True)
            status = json.loads(subprocess.run([*ctl, "--json", "status"], check=True, capture_output=True).stdout)
            host, port = status["listen"][0].rsplit(":", 1)
            (model,) = [m for m in status["models"] if m["state"] == "ready"]

            print(f"\n> {options.prompt}", flush=True)
            base = {"model": model["id"], "max_tokens": 128, "temperature": 0, "stream": True}
            base["stream_options"] = {"include_usage": True}
            detail = json.loads(subprocess.run([*ctl, "--json", "show", model["id"]], check=True, capture_output=True).stdout)
            if detail["chat_template"].startswith("tokenizer.chat_template"):
                path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": options.prompt}]}
            else:
                path, body = "/v1/completions", {"prompt": options.prompt}
            first = last = usage = None
            for seconds, event in stream((host, int(port)), path, base | body):
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    text = choice.get("text") or choice.get("delta", {}).get("content") or ""
                    if text:
                        first, last = first or seconds, seconds
                        print(text, end="", flush=True)
            if first is None or usage is None:
                sys.exit("demo: the answer was empty")
            tokens = usage["completion_tokens"]
            rate = (tokens - 1) / (last - first) if last > first else 0.0
            print("\n")
            print(f"prompt               {usage['prompt_tokens']} tokens")
            print(f"time to first token  {first * 1000:.0f} ms")
            print(f"generation           {tokens} tokens, {rate:.1f} tokens/s")
            print(f"private memory       {private_memory(daemon.pid):.0f} MiB (weights are mapped, shared with the page cache)")
            subprocess.run([*ctl, "evict", model["id"]], check=True)
        finally:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(timeout=60)
        if code != 0:
            sys.exit(f"demo: rocmforged ended with code {code}")


if __name__ == "__main__":
    main()
