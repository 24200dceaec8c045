"""Clients of every kind: hostile, slow, many, gone; and forgectl as scripts use it."""

import concurrent.futures
import json
import random
import socket
import subprocess
import threading
import time
import unittest

from cases import LONG, Case, wait_until
from daemon import binaries, events


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

    def test_doctor_asks_the_daemon_and_does_without(self):
        daemon = self.daemon()
        for down in (False, True):
            answer = daemon.ctl("doctor", "--json")
            report = json.loads(answer.stdout)
            # What this machine has is not known here; that the exit status says it, is.
            self.assertEqual(answer.returncode, 0 if report["ok"] else 1, answer.stderr)
            self.assertEqual(report["devices"] is None, down)
            self.assertTrue(all({"check", "severity", "what", "fix"} == set(f) for f in report["findings"]))
            if not down:
                self.assertIn("cpu", [d["id"] for d in report["devices"]])
                daemon.stop()

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
