"""What a daemon must survive: crashes, hostile files, full disks, signals, tight memory."""

import concurrent.futures
import http.client
import os
import random
import shutil
import signal
import time
import unittest

from cases import LONG, SLOW, TINY, Case, wait_until
from daemon import Daemon


class Crash(Case):
    def test_kill_in_the_middle_of_a_stream(self):
        model = self.slow()
        daemon = self.daemon()
        feed = self.stream(daemon, model, **LONG)
        next(feed)
        daemon.kill()
        try:
            self.assertEqual({c["choices"][0]["finish_reason"] for c in feed} - {None}, set())
        except (http.client.HTTPException, OSError):
            # Cut in the middle of a chunk; else it is an end without an end.
            pass
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
                (model,) = [m for m in daemon.ask("ls") if m["id"] == file.stem]
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


if __name__ == "__main__":
    unittest.main()
