"""What a daemon must survive: crashes, hostile files and clients, full disks, tight memory.

Standard library only; the models are those of tests/models/make_tiny.py and, for what needs a request that
takes its time, gemma-3-270m. See daemon.py for the environment.
"""

import concurrent.futures
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from daemon import Daemon, binaries, events, test_models

TINY = test_models() / "tiny"
SLOW = test_models() / "gemma-3-270m-Q4_K_M.gguf"
LONG = {"max_tokens": 4000, "logit_bias": {"1": -100, "106": -100}}


def wait_until(what, within=20):
    """Polls until `what()` is true; its last value."""
    end = time.monotonic() + within
    while not (value := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not true within {within} s: {what}")
        time.sleep(0.02)
    return value


class Case(unittest.TestCase):
    """A temporary folder `self.models` and daemons that serve it."""

    def setUp(self):
        self.models = Path(tempfile.mkdtemp(prefix="rocmforge-models-"))
        self.addCleanup(shutil.rmtree, self.models, ignore_errors=True)

    def put(self, *names):
        """Copies tiny models into the folder."""
        for name in names:
            shutil.copy(TINY / f"{name}.gguf", self.models)

    def stream(self, daemon, model, **fields):
        """The events of a streamed completion that has begun; closed at the end of the test."""
        connection, answer = daemon.stream(model, **fields)
        self.addCleanup(connection.close)
        self.addCleanup(answer.close)
        return events(answer)

    def slow(self):
        """Puts gemma into the folder; its id."""
        (self.models / SLOW.name).symlink_to(SLOW)
        return SLOW.stem

    def daemon(self, **more):
        """Starts a daemon that is stopped, with code 0, at the end of the test."""
        daemon = Daemon(models=[self.models], **more)
        self.addCleanup(daemon.remove)
        return daemon.start()

    def assert_one_line(self, text, *parts):
        """One line, with all of these in it."""
        self.assertEqual(len(text.strip().splitlines()), 1, text)
        for part in parts:
            self.assertIn(part, text)


class Crash(Case):
    def test_kill_in_the_middle_of_a_stream(self):
        model = self.slow()
        daemon = self.daemon()
        feed = self.stream(daemon, model, **LONG)
        next(feed)
        daemon.kill()
        with self.assertRaises((http.client.HTTPException, OSError)):
            list(feed)
        self.assertTrue(daemon.socket.exists(), "the socket of the killed one is what is tested")
        daemon.start()
        self.assertTrue(daemon.complete(model, "The capital of France is"))
        daemon.stop()
        self.assertFalse(daemon.socket.exists())

    def test_a_second_daemon_does_not_take_the_socket(self):
        self.put("llama-gqa")
        daemon = self.daemon()
        second = Daemon(models=[self.models])
        self.addCleanup(second.remove)
        second.socket = daemon.socket
        second.spawn()
        self.assertEqual(second.process.wait(20), 1, second.logged())
        self.assertIn(str(daemon.socket), second.logged())
        self.assertTrue(daemon.complete("llama-gqa"))
        daemon.stop()


class Files(Case):
    def test_cut_anywhere(self):
        whole = (TINY / "qwen2.gguf").read_bytes()
        numbers = random.Random(1)
        cuts = [0, 1, 3, 4, 7, 8, 15, 16, 23, 24, 100, len(whole) // 2, len(whole) - 1]
        # Metadata and tensor list are at the front: half of the cuts fall there.
        cuts += [numbers.randrange(20_000) for _ in range(14)]
        cuts += [numbers.randrange(len(whole)) for _ in range(13)]
        self.put("llama-gqa")
        daemon = self.daemon()
        text = daemon.complete("llama-gqa")
        for cut in cuts:
            with self.subTest(cut=cut):
                file = self.models / f"cut-{cut}.gguf"
                file.write_bytes(whole[:cut])
                answer = daemon.ctl("load", file)
                self.assertEqual(answer.returncode, 1, answer.stderr)
                self.assertEqual(answer.stdout, "")
                self.assert_one_line(answer.stderr.splitlines()[-1], "forgectl: ", str(file))
                (model,) = [m for m in daemon.ask("ps") if m["id"] == file.stem]
                self.assertEqual(model["state"], "failed")
                self.assert_one_line(model["reason"], str(file))
                file.unlink()
        self.assertEqual(daemon.complete("llama-gqa"), text)
        daemon.stop()

    def test_flipped_bytes_never_end_the_daemon(self):
        whole = (TINY / "llama-q4_k.gguf").read_bytes()
        numbers = random.Random(2)
        self.put("llama-gqa")
        daemon = self.daemon()
        for turn in range(40):
            data = bytearray(whole)
            for _ in range(numbers.choice([1, 4, 30])):
                data[numbers.randrange(12_000)] = numbers.randrange(256)
            file = self.models / f"flip-{turn}.gguf"
            file.write_bytes(data)
            answer = daemon.ctl("load", file, timeout=30)
            self.assertIn(answer.returncode, (0, 1), answer.stderr)
            if answer.returncode == 0:
                # It may load and say nonsense; it may not hang or crash.
                daemon.post("/v1/completions", {"model": file.stem, "prompt": "a", "max_tokens": 4})
                daemon.ctl("evict", file.stem)
            file.unlink()
        self.assertTrue(daemon.complete("llama-gqa"))
        daemon.stop()

    def test_replaced_by_rename(self):
        self.put("llama-gqa")
        file = self.models / "llama-gqa.gguf"
        daemon = self.daemon()
        old = daemon.complete("llama-gqa", max_tokens=24)
        new_file = self.models / "new"
        shutil.copy(TINY / "llama-mha.gguf", new_file)
        new_file.rename(file)
        self.assertEqual(daemon.complete("llama-gqa", max_tokens=24), old)
        daemon.ask("evict", "llama-gqa")
        new = daemon.complete("llama-gqa", max_tokens=24)
        self.assertNotEqual(new, old)
        shutil.copy(TINY / "llama-mha.gguf", self.models)
        time.sleep(1.1)  # the folders are looked into once a second at most
        self.assertEqual(daemon.complete("llama-mha", max_tokens=24), new)
        daemon.stop()

    def test_cut_in_place_while_loaded(self):
        self.put("llama-gqa", "qwen2")
        daemon = self.daemon()
        text = daemon.complete("qwen2", max_tokens=24)
        daemon.complete("llama-gqa")
        self.assertEqual(daemon.get("/health")[0], 200)
        os.truncate(self.models / "llama-gqa.gguf", 20_000)
        status, body = daemon.post("/v1/completions", {"model": "llama-gqa", "prompt": "Hello", "max_tokens": 8})
        self.assertGreaterEqual(status, 500, body)
        self.assertIn("llama-gqa", body["error"]["message"])
        self.assertEqual(daemon.complete("qwen2", max_tokens=24), text)
        (model,) = [m for m in daemon.ask("ps") if m["id"] == "llama-gqa"]
        self.assertEqual(model["state"], "failed")
        self.assert_one_line(model["reason"])
        # A whole file again: it can be loaded.
        self.put("llama-gqa")
        self.assertEqual(daemon.ctl("load", "llama-gqa").returncode, 0)
        self.assertTrue(daemon.complete("llama-gqa"))
        self.assertEqual(daemon.get("/health")[0], 200)
        daemon.stop()

    def test_cut_in_place_in_the_middle_of_streams(self):
        self.put("qwen2")
        shutil.copy(SLOW, self.models / "slow.gguf")
        daemon = self.daemon()
        text = daemon.complete("qwen2", max_tokens=24)
        feed = self.stream(daemon, "slow", **LONG)
        next(feed)
        os.truncate(self.models / "slow.gguf", 1_000_000)
        last = list(feed)[-1]
        self.assertIn("error", last, "a stream whose model is gone ends with an error event")
        self.assertIn("slow", last["error"]["message"])
        self.assertEqual(daemon.complete("qwen2", max_tokens=24), text)
        wait_until(lambda: daemon.ask("requests") == [])
        daemon.stop()


class Clients(Case):
    def setUp(self):
        super().setUp()
        self.put("llama-gqa")

    def raw(self, daemon, data, half=False):
        """What the daemon answers to these bytes, until it closes."""
        with socket.create_connection(daemon.address, timeout=30) as s:
            try:
                s.sendall(data)
                if half:
                    s.shutdown(socket.SHUT_WR)
                parts = []
                while part := s.recv(65536):
                    parts.append(part)
                return b"".join(parts)
            except OSError:
                # Closed without an answer, perhaps while we were sending.
                return b""

    def test_garbage(self):
        daemon = self.daemon()
        text = daemon.complete("llama-gqa")
        numbers = random.Random(3)
        for size in (1, 10, 1000, 100_000):
            answer = self.raw(daemon, numbers.randbytes(size), half=True)
            self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:100])
        self.assertTrue(self.raw(daemon, b"GET / HTTP/9.9\r\n\r\n").startswith(b"HTTP/1.1 400"))
        for half in (b"POST", b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-le", b"\x16\x03\x01\x02"):
            self.raw(daemon, half, half=True)
        body = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        self.raw(daemon, body, half=True)
        huge = b"GET /health HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 2_000_000 + b"\r\n\r\n"
        answer = self.raw(daemon, huge)
        self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 431"), answer[:100])
        many = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: y\r\n" % i for i in range(5000)) + b"\r\n"
        answer = self.raw(daemon, many)
        self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 431"), answer[:100])
        deep = b"[" * 100_000
        status, _, body = self.bytes(daemon, deep)
        self.assertEqual((status, body["error"]["type"]), (400, "invalid_request_error"))
        status, _, body = self.bytes(daemon, b'{"model":"llama-gqa","prompt":"\xff\xfe"}')
        self.assertEqual((status, body["error"]["type"]), (400, "invalid_request_error"))
        self.assertEqual(daemon.complete("llama-gqa"), text)
        daemon.stop()

    def bytes(self, daemon, data, path="/v1/completions"):
        connection = daemon.connect()
        self.addCleanup(connection.close)
        connection.request("POST", path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())

    def test_a_body_too_large(self):
        daemon = self.daemon(config='[http]\nmax_body = "64KiB"\n')
        status, headers, body = self.bytes(daemon, json.dumps({"model": "llama-gqa", "prompt": "a" * 70_000}).encode())
        self.assertEqual((status, body["error"]["type"]), (413, "invalid_request_error"))
        self.assertIn("65536", body["error"]["message"].replace("64 KiB", "65536").replace("64KiB", "65536"))
        self.assertIn("x-request-id", headers)
        # Announced only: refused before it is sent.
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
        with socket.create_connection(daemon.address, timeout=20) as s:
            s.sendall(head)
            self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 413"))
        self.assertTrue(daemon.complete("llama-gqa"))
        daemon.stop()

    def test_idle_and_slow_connections(self):
        daemon = self.daemon()
        text = daemon.complete("llama-gqa")
        idle = []
        try:
            for turn in range(500):
                idle.append(socket.create_connection(daemon.address, timeout=10))
                if turn % 2:
                    idle[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
            began = time.monotonic()
            self.assertEqual(daemon.complete("llama-gqa"), text)
            self.assertEqual(daemon.get("/health")[0], 200)
            self.assertEqual(daemon.ctl("status").returncode, 0)
            self.assertLess(time.monotonic() - began, 5)
            # One that sends its request a byte at a time gets its answer.
            body = json.dumps({"model": "llama-gqa", "prompt": "Hello", "temperature": 0, "max_tokens": 8}).encode()
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
            with socket.create_connection(daemon.address, timeout=20) as slow:
                for byte in head + b"content-length: %d\r\n\r\n" % len(body) + body:
                    slow.sendall(bytes([byte]))
                    time.sleep(0.002)
                answer = b""
                while part := slow.recv(65536):
                    answer += part
            self.assertEqual(json.loads(answer.split(b"\r\n\r\n", 1)[1])["choices"][0]["text"], text)
            # Idle connections do not hold up the stop.
            daemon.stop(within=15)
        finally:
            for s in idle:
                s.close()

    def test_who_leaves_is_cancelled(self):
        model = self.slow()
        daemon = self.daemon()
        for whole in (False, True):
            if whole:
                connection = daemon.connect()
                body = {"model": model, "prompt": "Hello", "temperature": 0} | LONG
                connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
                wait_until(lambda: daemon.ask("requests"))
            else:
                connection, answer = daemon.stream(model, **LONG)
                next(events(answer))
                answer.close()
            self.assertEqual([r["model"] for r in daemon.ask("requests")], [model])
            connection.close()
            began = time.monotonic()
            wait_until(lambda: daemon.ask("requests") == [], within=5)
            self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(daemon.ask("stats", model)[0]["cancelled"], 2)
        daemon.stop()

    def test_a_reader_that_stands_still_holds_up_nobody(self):
        model = self.slow()
        daemon = self.daemon()
        held = daemon.stream(model, **LONG)
        self.assertTrue(daemon.complete(model, "The capital of France is"))
        self.assertTrue(daemon.complete("llama-gqa"))
        held[0].close()
        held[1].close()
        wait_until(lambda: daemon.ask("requests") == [])
        daemon.stop()

    def test_many_at_once(self):
        daemon = self.daemon()
        text = daemon.complete("llama-gqa", max_tokens=32)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda _: daemon.complete("llama-gqa", max_tokens=32), range(128)))
        self.assertEqual(set(answers), {text})
        daemon.stop()

    def test_too_many_are_refused_with_a_time(self):
        model = self.slow()
        daemon = self.daemon(config="[engine]\nqueue = 2\nmax_batch = 1\n")
        self.assertEqual(daemon.ctl("load", model).returncode, 0)
        held = [daemon.stream(model, **LONG) for _ in range(1)]
        next(events(held[0][1]))
        threads = []
        refused = []

        def ask():
            status, headers, body = daemon.request(
                "POST", "/v1/completions", {"model": model, "prompt": "x", "max_tokens": 1}, timeout=60
            )
            if status != 200:
                refused.append((status, headers.get("retry-after"), body["error"]["code"]))

        for _ in range(6):
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
        wait_until(lambda: len(refused) >= 4)
        for status, retry, code in refused:
            self.assertEqual((status, code), (429, "queue_full"))
            self.assertGreaterEqual(int(retry), 1)
        held[0][0].close()
        held[0][1].close()
        for thread in threads:
            thread.join(60)
        self.assertEqual(len(refused), 4)
        daemon.stop()

    def test_refusals_of_requests(self):
        daemon = self.daemon()
        status, body = daemon.post("/v1/completions", {"model": "llama-gqb", "prompt": "x"})
        self.assertEqual((status, body["error"]["code"]), (404, "model_not_found"))
        self.assertIn("llama-gqa", body["error"]["message"])
        status, body = daemon.post("/v1/completions", {"model": "llama-gqa", "prompt": "many words " * 400})
        self.assertEqual((status, body["error"]["code"]), (400, "context_length_exceeded"))
        self.assertIn(str(body["error"]["n_prompt_tokens"]), body["error"]["message"])
        self.assertIn("512", body["error"]["message"])
        # Streamed: refused with a status all the same.
        status, body = daemon.post("/v1/completions", {"model": "llama-gqa", "prompt": "a b " * 800, "stream": True})
        self.assertEqual(status, 400)
        daemon.stop()


class Running(Case):
    def test_a_full_disk_for_the_log(self):
        self.put("llama-gqa")
        for form in ("text", "json"):
            daemon = self.daemon(log="/dev/full", config=f'[log]\nlevel = "debug"\nformat = "{form}"\n')
            for _ in range(20):
                self.assertTrue(daemon.complete("llama-gqa"))
            self.assertEqual(daemon.get("/health")[0], 200)
            daemon.stop()

    def test_stopped_in_the_middle_of_a_stream(self):
        model = self.slow()
        daemon = self.daemon()
        feed = self.stream(daemon, model, max_tokens=60, logit_bias=LONG["logit_bias"])
        first = next(feed)
        daemon.process.send_signal(signal.SIGTERM)
        # New requests are refused, the one that runs ends as if nothing had happened.
        chunks = [first, *feed]
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "length")
        daemon.ended()

    def test_a_stop_does_not_wait_for_ever(self):
        model = self.slow()
        daemon = self.daemon(config="[http]\ndrain_secs = 1\n")
        feed = self.stream(daemon, model, **LONG)
        next(feed)
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        last = list(feed)[-1]
        self.assertIn("error", last)
        daemon.ended(within=15)
        self.assertGreater(time.monotonic() - began, 0.9)

    def test_wishes_of_a_failed_load_are_not_kept(self):
        self.put("llama-gqa")
        daemon = self.daemon()
        for wish in (["--device", "gpu"], ["--gpu-layers", "3"], ["--kv-type", "nonsense"]):
            with self.subTest(wish=wish):
                self.assertEqual(daemon.ctl("load", "llama-gqa", *wish).returncode, 1)
                self.assertTrue(daemon.complete("llama-gqa"))
                daemon.ask("evict", "llama-gqa")
        daemon.stop()

    def test_hangup_keeps_models(self):
        self.put("llama-gqa")
        daemon = self.daemon(config='[models]\nautoload = true\n')
        text = daemon.complete("llama-gqa")
        used = daemon.ask("stats")[0]["requests"]
        self.put("qwen2")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(m["id"] == "qwen2" for m in daemon.ask("ls")))
        self.assertEqual(daemon.complete("llama-gqa"), text)
        self.assertEqual(daemon.ask("stats")[0]["requests"], used + 1, "the engine is still the same")
        self.assertEqual(daemon.ctl("reload").returncode, 0)
        # A broken file changes nothing, and the daemon goes on.
        daemon.config.write_text("[models]\nautolaod = false\n")
        answer = daemon.ctl("reload")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("autoload", answer.stderr)
        daemon.process.send_signal(signal.SIGHUP)
        self.assertEqual(daemon.complete("llama-gqa"), text)
        daemon.stop()

    def test_loads_are_joined(self):
        model = self.slow()
        daemon = self.daemon()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            loads = [pool.submit(daemon.ctl, "load", model) for _ in range(4)]
            texts = [pool.submit(daemon.complete, model) for _ in range(2)]
            self.assertEqual([load.result().returncode for load in loads], [0] * 4)
            self.assertEqual(len({text.result() for text in texts}), 1)
        ready = [e for e in daemon.events() if e["kind"] == "load" and " is ready " in e["message"]]
        self.assertEqual(len(ready), 1, ready)
        daemon.stop()


class Memory(Case):
    def need(self, *names):
        """What each of these models takes when it is loaded."""
        self.put(*names)
        daemon = self.daemon()
        for name in names:
            self.assertEqual(daemon.ctl("load", name).returncode, 0)
        models = {m["id"]: sum(m["bytes"].values()) for m in daemon.ask("ps")}
        daemon.stop()
        return [models[name] for name in names]

    def test_a_budget_for_one(self):
        names = ("llama-gqa", "qwen2")
        needs = self.need(*names)
        budget = max(needs) + min(needs) // 2
        daemon = self.daemon(env={"ROCMFORGE_MEMORY_RAM_BUDGET": str(budget)})
        texts = {name: daemon.complete(name) for name in names}
        for _ in range(10):
            for name in names:
                self.assertEqual(daemon.complete(name), texts[name])
        # At once, too: they wait for each other.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            wanted = list(names) * 12
            self.assertEqual(list(pool.map(daemon.complete, wanted)), [texts[name] for name in wanted])
        self.assertLessEqual(daemon.ask("devices")[0]["used"], budget)

        # A pinned one stays, and a refusal says who holds what.
        self.assertEqual(daemon.ctl("load", names[0], "--pin").returncode, 0)
        answer = daemon.ctl("load", names[1])
        self.assertEqual(answer.returncode, 1)
        self.assert_one_line(answer.stderr.splitlines()[-1], "forgectl: ", names[0], "pinned", "MiB")
        status, headers, body = daemon.request("POST", "/v1/completions", {"model": names[1], "prompt": "x"})
        self.assertEqual((status, body["error"]["code"]), (507, "insufficient_memory"))
        self.assertIn(names[0], body["error"]["message"])
        self.assertEqual(headers["x-should-retry"], "false")
        self.assertEqual(daemon.complete(names[0]), texts[names[0]])
        self.assertEqual(daemon.ctl("unpin", names[0]).returncode, 0)
        self.assertEqual(daemon.complete(names[1]), texts[names[1]])
        daemon.stop()

    def test_memory_comes_back(self):
        model = self.slow()
        daemon = self.daemon()
        self.put("llama-gqa")
        before = daemon.private()
        daemon.complete(model, "word " * 2000, max_tokens=4)
        during = daemon.private()
        self.assertGreater(during, before + (20 << 20))
        for _ in range(3):
            # Other threads load and free: nothing may add up.
            evicted = daemon.ask("evict", model)
            daemon.complete(model)
        evicted = daemon.ask("evict", model)
        self.assertLess(evicted["private_after"], before + (16 << 20))
        self.assertLess(daemon.private(), before + (16 << 20))
        self.assertGreater(evicted["ledger_freed"], 100 << 20)
        self.assertEqual(daemon.ask("devices")[0]["used"], 0)
        daemon.stop()

    def test_evict_waits_for_requests_and_now_does_not(self):
        model = self.slow()
        daemon = self.daemon()
        feed = self.stream(daemon, model, max_tokens=40, logit_bias=LONG["logit_bias"])
        next(feed)
        daemon.ask("evict", model)
        self.assertEqual(list(feed)[-1]["choices"][0]["finish_reason"], "length")
        feed = self.stream(daemon, model, **LONG)
        next(feed)
        daemon.ask("evict", model, "--now")
        self.assertIn("error", list(feed)[-1])
        self.assertEqual(daemon.ask("ps"), [])
        daemon.stop()


class Forgectl(Case):
    def failed(self, answer, code, *parts):
        self.assertEqual(answer.returncode, code, answer.stderr)
        self.assertEqual(answer.stdout, "")
        self.assert_one_line(answer.stderr, "forgectl: ", *parts)

    def test_exit_codes(self):
        self.put("llama-gqa")
        daemon = self.daemon()
        for verb in ("status", "ps", "ls", "stats", "requests", "events", "why", "devices", "reload"):
            with self.subTest(verb=verb):
                answer = daemon.ctl(verb)
                self.assertEqual((answer.returncode, answer.stderr), (0, ""))
                self.assertTrue(answer.stdout)
                if verb != "events":
                    daemon.ask(verb)
        for verb in ("show", "load", "evict", "pin", "unpin"):
            with self.subTest(verb=verb):
                self.failed(daemon.ctl(verb, "llama-gqb"), 5, "llama-gqb", "llama-gqa")
        answer = daemon.ctl("bench", "llama-gqb")
        self.assertEqual(answer.returncode, 5)
        self.assert_one_line(answer.stderr.splitlines()[-1], "forgectl: ", "llama-gqb", "llama-gqa")
        self.failed(daemon.ctl("run", "llama-gqb", "x"), 5, "llama-gqb", "llama-gqa")
        self.failed(daemon.ctl("load", "/nonexistent.gguf"), 5, "/nonexistent.gguf")
        self.failed(daemon.ctl("cancel", "req-1"), 5, "req-1")
        self.failed(daemon.ctl("evict", "llama-gqa"), 1, "not loaded")
        for wrong in (["lod"], ["load"], ["status", "x"], ["load", "x", "--ctx", "many"], ["--timeout", "x", "ps"]):
            self.assertEqual(daemon.ctl(*wrong).returncode, 2)
        for verb in ("status", "ps", "ls", "stats"):
            self.assertEqual(daemon.ctl("--help").returncode, 0)
            self.assertEqual(daemon.ctl(verb, "--help").returncode, 0)
        daemon.stop()
        self.failed(daemon.ctl("status"), 3, str(daemon.socket))
        self.failed(daemon.ctl("run", "llama-gqa", "x"), 3, str(daemon.socket))

    def test_drain_ends_the_daemon(self):
        model = self.slow()
        daemon = self.daemon()
        feed = self.stream(daemon, model, max_tokens=20, logit_bias=LONG["logit_bias"])
        next(feed)
        self.assertEqual(daemon.ctl("drain").returncode, 0)
        self.assertEqual(list(feed)[-1]["choices"][0]["finish_reason"], "length")
        daemon.ended()

    def test_run_and_bench(self):
        self.put("llama-gqa")
        daemon = self.daemon()
        answer = daemon.ctl("run", "llama-gqa", "Hello", "--max-tokens", "8", "--temperature", "0", "-q")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual(answer.stdout.rstrip("\n"), daemon.complete("llama-gqa").rstrip("\n"))
        piped = daemon.ctl("run", "llama-gqa", "--max-tokens", "8", "--temperature", "0", "-q", input="Hello")
        self.assertEqual(piped.stdout, answer.stdout)
        tests = daemon.ask("bench", "llama-gqa", "--n-prompt", "64", "--n-gen", "16")["runs"]
        self.assertEqual([t["test"] for t in tests], ["pp64", "tg16"])
        self.assertTrue(all(rate > 0 for t in tests for rate in t["rates"]))
        daemon.stop()

    def test_a_closed_pipe_is_no_crash(self):
        self.put("llama-gqa")
        daemon = self.daemon()
        command = f'"{binaries()}/forgectl" --socket "{daemon.socket}" ls | true; exit ${{PIPESTATUS[0]}}'
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        self.assertNotIn("panic", answer.stderr)
        daemon.stop()


if __name__ == "__main__":
    unittest.main()
