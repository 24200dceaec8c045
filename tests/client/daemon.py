"""Starts rocmforged for a test: private socket, a free port, temporary folders, standard library only.

    with Daemon(models=[folder]) as daemon:
        daemon.ctl("load", "name")
        daemon.post("/v1/completions", {...})

The binaries are in the folder ROCMFORGE_TEST_BIN, else in target/release (or $CARGO_TARGET_DIR/release).
Leaving the block stops the daemon with SIGTERM and asserts that it ended with code 0.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def binaries():
    """The folder with rocmforged and forgectl."""
    if folder := os.environ.get("ROCMFORGE_TEST_BIN"):
        return Path(folder)
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"


def test_models():
    """The folder that tests/models/fetch.py and make_tiny.py fill."""
    if folder := os.environ.get("ROCMFORGE_TEST_MODELS"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rocmforge" / "test-models"


class Daemon:
    """A rocmforged in the foreground; `config` is the text of its file, `env` adds variables, `state` files by name."""

    def __init__(self, models=(), config="", env=None, args=(), log=None, state=None):
        self.folder = Path(tempfile.mkdtemp(prefix="rocmforge-test-"))
        self.socket = self.folder / "admin.sock"
        self.models = [str(folder) for folder in models] or [str(self.folder / "models")]
        (self.folder / "models").mkdir()
        self.state = self.folder / "state"
        self.state.mkdir()
        for name, content in (state or {}).items():
            (self.state / name).write_bytes(content)
        self.config = self.folder / "rocmforged.toml"
        self.config.write_text(config)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("ROCMFORGE_", "FORGECTL_"))}
        self.env |= env or {}
        self.args = list(args)
        self.log = log
        self.process = None
        self.base = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is None:
                self.stop()
        finally:
            self.remove()

    def spawn(self):
        """Starts the process and no more."""
        command = [str(binaries() / "rocmforged"), "--config", str(self.config), "--listen", "127.0.0.1:0"]
        command += ["--admin-socket", str(self.socket)]
        command += ["--state-dir", str(self.state), "--cache-dir", str(self.folder / "cache")]
        for folder in self.models:
            command += ["--models-dir", folder]
        out = open(self.log or self.folder / "log", "ab", buffering=0)
        with out:
            self.process = subprocess.Popen(command + self.args, env=self.env, stdout=out, stderr=out)

    def start(self, within=30):
        """Starts it and waits until it answers on its socket."""
        self.spawn()
        end = time.monotonic() + within
        while (answer := self.ctl("--json", "status")).returncode != 0:
            if self.process.poll() is not None:
                raise AssertionError(f"rocmforged ended with code {self.process.returncode}:\n{self.logged()}")
            if time.monotonic() > end:
                raise AssertionError(f"rocmforged does not answer: {answer.stderr}\n{self.logged()}")
            time.sleep(0.02)
        self.base = "http://" + json.loads(answer.stdout)["listen"][0]
        return self

    def stop(self, within=40):
        """Stops it with SIGTERM; it must end with code 0."""
        self.process.send_signal(signal.SIGTERM)
        self.ended(within)

    def ended(self, within=40):
        """Waits until it ended, which must be with code 0."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"rocmforged still runs {within} s after SIGTERM:\n{self.logged()}") from None
        if code != 0:
            raise AssertionError(f"rocmforged ended with code {code}:\n{self.logged()}")

    def kill(self):
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait()

    def remove(self):
        """Takes away what is left, the process too."""
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def logged(self):
        """The end of its log."""
        file = Path(self.log or self.folder / "log")
        return file.read_text(errors="replace")[-4000:] if file.is_file() else ""

    def ctl(self, *args, timeout=120, **more):
        """Runs forgectl; the completed process has its text."""
        command = [str(binaries() / "forgectl"), "--socket", str(self.socket), *map(str, args)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, **more)

    def ask(self, *args):
        """The JSON that `forgectl --json …` prints; it must succeed."""
        answer = self.ctl("--json", *args)
        if answer.returncode != 0:
            raise AssertionError(f"forgectl {args}: code {answer.returncode}: {answer.stderr}\n{self.logged()}")
        return json.loads(answer.stdout)

    def events(self):
        """The decisions it took so far."""
        return [json.loads(line) for line in self.ctl("--json", "events").stdout.splitlines()]

    @property
    def address(self):
        """Host and port of its OpenAI side."""
        host, port = self.base.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def connect(self, timeout=60):
        """An HTTP connection to it."""
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def request(self, method, path, body=None, timeout=60):
        """Status, headers and JSON body of one request."""
        connection = self.connect(timeout)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()

    def get(self, path):
        """Status and body of a GET."""
        status, _, body = self.request("GET", path)
        return status, body

    def post(self, path, body, timeout=60):
        """Status and body of a POST."""
        status, _, body = self.request("POST", path, body, timeout)
        return status, body

    def complete(self, model, prompt="Hello", **fields):
        """The text of a greedy completion, which must succeed."""
        body = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | fields
        status, answer = self.post("/v1/completions", body)
        if status != 200:
            raise AssertionError(f"HTTP {status}: {answer}\n{self.logged()}")
        return answer["choices"][0]["text"]

    def stream(self, model, prompt="Hello", **fields):
        """Begins a streamed completion: (connection, response), of which nothing is read yet."""
        body = {"model": model, "prompt": prompt, "temperature": 0, "stream": True} | fields
        connection = self.connect()
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"HTTP {answer.status}: {answer.read().decode()}")
        return connection, answer

    def private(self):
        """Its private memory in bytes: Private_Dirty and swap."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Swap:")))


def events(answer):
    """The events of a stream, parsed, without [DONE]."""
    for line in answer:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[6:])
