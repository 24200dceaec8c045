"""A daemon on a GPU: where models run and why, what comes back, and what a lost device costs."""

import array
import json
import os
import signal
import socket
import subprocess
import threading
import unittest
from pathlib import Path

from cases import TINY, Case, wait_until
from daemon import Daemon, binaries
from gpu import LIBRARY, RECORD, needs_gpu, on_gpu, record, untested

GPU = "gpu gfx1100"


def worker(daemon):
    """The process ids of the daemon's GPU workers."""
    children = Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
    ids = [int(i) for file in children for i in file.read_text().split()]
    return [i for i in ids if b"gpu-worker" in Path(f"/proc/{i}/cmdline").read_bytes()]


def alive(pid):
    """Whether a process runs: there, and no zombie."""
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def device(daemon, name):
    """What `ps` says a model runs on; None if it is not there."""
    return {m["id"]: m.get("device") for m in daemon.ask("ps")}.get(name)


def metrics(daemon):
    """What Prometheus would read."""
    connection = daemon.connect()
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def plants_faults():
    """Whether the test device plants faults on demand."""
    return b"HOSTHIP_FAIL_MALLOC" in Path(LIBRARY).read_bytes()


def reserved(daemon, name):
    """Bytes in the ledger of a device."""
    return {d["id"]: d["used"] for d in daemon.ask("devices")}[name]


def tests_run(daemon):
    """How often a daemon's workers tested kernels, as its log says."""
    log = (daemon.folder / "log").read_text()
    return sum("self-test" in line and "kernels=" in line for line in log.splitlines())


@needs_gpu
class Placement(Case):
    def test_a_chat_runs_on_the_gpu_and_everything_comes_back(self):
        self.put("llama-q4_0", "qwen2", "gemma3")
        daemon = self.daemon(**on_gpu())
        texts = {}
        for model in ("llama-q4_0", "qwen2", "gemma3"):
            status, headers, body = daemon.request("POST", "/v1/chat/completions", {
                "model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0})
            self.assertEqual(status, 200, body)
            self.assertEqual(headers["x-rocmforge-device"], GPU)
            self.assertEqual(device(daemon, model), GPU)
            self.assertIn(f'rocmforge_model_device{{device="{GPU}",model="{model}"}} 1', metrics(daemon))
            texts[model] = body["choices"][0]["message"]["content"]
        self.assertGreater(reserved(daemon, "gpu0"), 0)
        self.assertEqual(len(worker(daemon)), 1, "one worker for all models of a device")
        for model in texts:
            held = sum(daemon.ask("show", model)["shares"][0]["bytes"].values())
            # What the device says it got back is at least what the ledger counted.
            self.assertGreaterEqual(daemon.ask("evict", model)["device_freed"], held)
        for name in ("gpu0", "cpu"):
            self.assertEqual(reserved(daemon, name), 0)
        # The same on the CPU, said so.
        for model in texts:
            self.assertEqual(daemon.ctl("load", model, "--device", "cpu").returncode, 0)
            self.assertTrue(device(daemon, model).startswith("cpu "), device(daemon, model))
        # F32 models agree to rounding, so that the greedy text is the same.
        _, body = daemon.post("/v1/chat/completions", {
            "model": "qwen2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0})
        self.assertEqual(body["choices"][0]["message"]["content"], texts["qwen2"])
        (pid,) = worker(daemon)
        daemon.stop()
        self.assertFalse(Path(f"/proc/{pid}").exists(), "the worker ends with its daemon")

    def test_what_does_not_fit_the_gpu_goes_to_the_cpu_unless_the_gpu_was_demanded(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu(), config="[memory]\ngpu_budget = \"1MiB\"\n")
        self.assertTrue(daemon.complete("qwen2"))
        self.assertTrue(device(daemon, "qwen2").startswith("cpu "))
        self.assertIn("gpu0", daemon.ask("show", "qwen2")["device_reason"])
        daemon.ask("evict", "qwen2")
        refused = daemon.ctl("load", "qwen2", "--device", "gpu")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("1.0 MiB", refused.stderr)
        daemon.stop()

    def test_layers_on_both_devices_give_the_same_text(self):
        self.put("qwen2", "gemma3")
        daemon = self.daemon(**on_gpu())
        for model in ("qwen2", "gemma3"):
            whole = daemon.complete(model, max_tokens=12)
            self.assertEqual(device(daemon, model), GPU)
            daemon.ask("evict", model)
            n_layer = int(dict(daemon.ask("show", model)["hparams"])["layers"])
            for layers in range(n_layer + 2):
                self.assertEqual(daemon.ctl("load", model, "--gpu-layers", str(layers)).returncode, 0, daemon.logged())
                status, headers, body = daemon.request("POST", "/v1/completions", {
                    "model": model, "prompt": "Hello", "max_tokens": 12, "temperature": 0})
                self.assertEqual(status, 200, body)
                self.assertEqual(body["choices"][0]["text"], whole)
                where = headers["x-rocmforge-device"]
                if layers == 0:
                    self.assertTrue(where.startswith("cpu "), where)
                elif layers >= n_layer:
                    self.assertEqual(where, GPU)
                else:
                    self.assertRegex(where, f"^{GPU} {layers}/{n_layer} \\+ cpu ")
                    shares = daemon.ask("show", model)["shares"]
                    self.assertEqual([s["device"] for s in shares], ["gpu0", "cpu"])
                    self.assertTrue(all(s["bytes"]["weights"] and s["bytes"]["cache"] for s in shares), shares)
                    self.assertIn(f"{layers} of {n_layer} layers", daemon.ask("show", model)["device_reason"])
                self.assertEqual(device(daemon, model), where)
                daemon.ask("evict", model)
                self.assertEqual([reserved(daemon, name) for name in ("gpu0", "cpu")], [0, 0])
        refused = daemon.ctl("load", "qwen2", "--gpu-layers", "1", "--device", "cpu")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("one of both", refused.stderr)
        daemon.stop()

    def test_what_fits_neither_device_is_divided_to_the_byte_as_planned(self):
        self.put("gemma3")
        daemon = self.daemon(**on_gpu())
        # The first layer alone needs one cache on the CPU; all of them need two, more than there will be room for.
        layers = int(dict(daemon.ask("show", "gemma3")["hparams"])["layers"]) - 1
        self.assertEqual(daemon.ctl("load", "gemma3", "--gpu-layers", str(layers)).returncode, 0, daemon.logged())
        gpu, cpu = (sum(s["bytes"].values()) for s in daemon.ask("show", "gemma3")["shares"])
        daemon.stop()
        budgets = f"[memory]\ngpu_budget = \"{gpu}B\"\nram_budget = \"{cpu}B\"\n"
        daemon = self.daemon(**on_gpu(), config=budgets)
        (planned,) = wait_until(lambda: [p for p in daemon.ask("plan", "gemma3") if p["shares"]])
        self.assertEqual(planned["outcome"], "fits")
        self.assertTrue(daemon.complete("gemma3"))
        self.assertEqual(device(daemon, "gemma3"), planned["device"])
        self.assertIn(f"gpu0 takes {layers} of {layers + 1} layers", daemon.ask("show", "gemma3")["device_reason"])
        self.assertEqual([s["bytes"] for s in planned["shares"]],
                         [s["bytes"] for s in daemon.ask("show", "gemma3")["shares"]])
        self.assertEqual([reserved(daemon, name) for name in ("gpu0", "cpu")], [gpu, cpu])
        daemon.ask("evict", "gemma3")
        self.assertEqual([reserved(daemon, name) for name in ("gpu0", "cpu")], [0, 0])
        daemon.stop()

    def test_a_gpu_in_the_machines_memory_has_the_ledger_of_the_cpu(self):
        if not plants_faults():
            self.skipTest("only device \"host\" can be integrated")
        self.put("qwen2")
        daemon = self.daemon(**on_gpu(HOSTHIP_INTEGRATED=1), config="[memory]\nram_budget = \"2GiB\"\n")
        text = daemon.complete("qwen2")
        self.assertEqual(device(daemon, "qwen2"), GPU)
        held = daemon.ask("show", "qwen2")["bytes"]
        self.assertEqual([reserved(daemon, name) for name in ("gpu0", "cpu")], [sum(held.values())] * 2)
        self.assertEqual([d["budget"] for d in daemon.ask("devices")], [2 << 30] * 2)
        daemon.ask("evict", "qwen2")
        self.assertEqual(reserved(daemon, "cpu"), 0)
        # Divided, both parts are in it, with their caches.
        self.assertEqual(daemon.ctl("load", "qwen2", "--gpu-layers", "1").returncode, 0, daemon.logged())
        self.assertIn(" + cpu ", device(daemon, "qwen2"))
        self.assertEqual(daemon.complete("qwen2"), text)
        self.assertEqual(reserved(daemon, "gpu0"), sum(daemon.ask("show", "qwen2")["bytes"].values()))
        daemon.ask("evict", "qwen2")
        self.assertEqual(reserved(daemon, "cpu"), 0)
        daemon.stop()

    def test_a_device_that_cannot_be_used_does_not_hide_the_next(self):
        daemon = self.daemon(**on_gpu(HOSTHIP_ARCH="gfx9999", HOSTHIP_DEVICES=3))
        if b"HOSTHIP_ARCH" not in Path(LIBRARY).read_bytes():
            self.skipTest("this test device is always the same chip")
        self.assertEqual([d["id"] for d in daemon.ask("devices")], ["gpu0", "gpu1", "gpu2", "cpu"])
        daemon.stop()

    def test_without_a_runtime_it_says_why_and_runs_on(self):
        self.put("qwen2")
        env = {"ROCMFORGE_HIP_LIBRARY": "/nonexistent/libamdhip64.so"}
        daemon = self.daemon(env=env)
        self.assertTrue(daemon.complete("qwen2"))
        self.assertIn("/nonexistent/libamdhip64.so", str(daemon.ask("devices")))
        self.assertIn("/nonexistent/libamdhip64.so", daemon.ask("show", "qwen2")["device_reason"])
        self.assertIn("/nonexistent/libamdhip64.so", str(daemon.get("/health")[1]["devices"]))
        self.assertIn("/nonexistent/libamdhip64.so", metrics(daemon))
        daemon.ask("evict", "qwen2")
        refused = daemon.ctl("load", "qwen2", "--device", "gpu")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("libamdhip64", refused.stderr)
        daemon.stop()


@needs_gpu
class Loss(Case):
    def test_a_worker_that_dies_costs_its_requests_and_no_more(self):
        self.put("qwen2", "llama-q4_0")
        daemon = self.daemon(**on_gpu())
        text = daemon.complete("qwen2")
        daemon.ctl("load", "llama-q4_0", "--device", "cpu")
        cpu_text = daemon.complete("llama-q4_0")
        _, answer = daemon.stream("qwen2", max_tokens=400, logit_bias={"1": -100})
        answer.readline()
        (before,) = worker(daemon)
        os.kill(before, signal.SIGKILL)
        rest = answer.read().decode()
        self.assertIn("gpu_reset", rest, daemon.logged())
        self.assertEqual(daemon.complete("llama-q4_0"), cpu_text)
        # It is loaded again by itself, by another worker.
        wait_until(lambda: device(daemon, "qwen2") == GPU)
        self.assertNotIn(before, worker(daemon))
        self.assertEqual(daemon.complete("qwen2"), text)
        daemon.stop()

    def test_a_divided_model_comes_back_when_its_worker_died(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        self.assertEqual(daemon.ctl("load", "qwen2", "--gpu-layers", "1").returncode, 0, daemon.logged())
        text, where = daemon.complete("qwen2"), device(daemon, "qwen2")
        self.assertIn(" + cpu ", where)
        (before,) = worker(daemon)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: worker(daemon) not in ([], [before]))
        wait_until(lambda: device(daemon, "qwen2") == where)
        self.assertEqual(daemon.complete("qwen2"), text)
        daemon.stop()

    def test_a_worker_that_dies_between_requests_is_noticed(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        text = daemon.complete("qwen2")
        (before,) = worker(daemon)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: worker(daemon) not in ([], [before]))
        self.assertEqual(daemon.complete("qwen2"), text)
        daemon.stop()

    def test_a_stop_that_reaches_the_worker_too_finishes_what_runs(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        connection, answer = daemon.stream("qwen2", max_tokens=60, logit_bias={"1": -100})
        self.addCleanup(connection.close)
        answer.readline()
        (pid,) = worker(daemon)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        daemon.stop()
        self.assertIn("[DONE]", answer.read().decode())

    def test_the_worker_goes_when_the_daemon_is_killed(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        self.assertTrue(daemon.complete("qwen2"))
        (pid,) = worker(daemon)
        daemon.kill()
        wait_until(lambda: not alive(pid))

    def test_a_worker_that_hangs_in_a_load_goes_with_the_daemon(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu(), config="[http]\ndrain_secs = 1\n")
        (pid,) = worker(daemon)
        os.kill(pid, signal.SIGSTOP)
        load = threading.Thread(target=daemon.ctl, args=("load", "qwen2"))
        load.start()
        self.addCleanup(load.join)
        wait_until(lambda: {m["id"]: m["state"] for m in daemon.ask("ps")}.get("qwen2") == "loading")
        daemon.stop(within=10)
        wait_until(lambda: not alive(pid))

    def test_a_worker_that_hangs_in_its_start_goes_when_the_daemon_is_killed(self):
        # Opening a pipe that nobody writes to takes for ever.
        os.mkfifo(self.models / "libamdhip64.so")
        daemon = Daemon(models=[self.models], env={"ROCMFORGE_HIP_LIBRARY": str(self.models / "libamdhip64.so")})
        self.addCleanup(daemon.remove)
        daemon.spawn()
        (pid,) = wait_until(lambda: worker(daemon))
        daemon.kill()
        wait_until(lambda: not alive(pid))


@needs_gpu
class Logits(Case):
    """Whole models of each architecture, against the CPU."""

    def logits(self, model, device, *how):
        out = self.models / "logits"
        command = [binaries() / "rocmforged", "eval", TINY / f"{model}.gguf", "--tokens", self.models / "tokens",
                   "--logits", out, "--device", device, "--kv-type", "f32", *how]
        env = os.environ | {"ROCMFORGE_HIP_LIBRARY": LIBRARY}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        values = array.array("f")
        values.frombytes(out.read_bytes())
        return values

    def test_each_architecture_has_the_logits_of_the_cpu(self):
        (self.models / "tokens").write_text(" ".join(str((i * 17 + i * i * 3) % 200) for i in range(24)))
        # Prefill in one piece and in odd ones, and decode.
        for model, chunk in (("llama-gqa", "24"), ("qwen2", "7"), ("qwen3", "1"), ("gemma3", "19")):
            with self.subTest(model=model, chunk=chunk):
                cpu, gpu = (self.logits(model, device, "--chunk", chunk) for device in ("cpu", "gpu"))
                self.assertEqual(len(cpu), len(gpu))
                self.assertGreater(max(cpu) - min(cpu), 1)
                self.assertLess(max(abs(a - b) for a, b in zip(cpu, gpu)), 1e-3)


@needs_gpu
class Devices(Case):
    def first_words(self, *args, **env):
        """What a GPU worker says first of its device, after its test."""
        results = self.models / RECORD
        results.write_bytes(record())
        args = (*args, "--record", results)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = os.environ | {"ROCMFORGE_HIP_LIBRARY": LIBRARY} | {name: str(value) for name, value in env.items()}
        command = [binaries() / "rocmforged", "gpu-worker", *args]
        with ours, theirs, subprocess.Popen(command, stdin=theirs, env=env, stderr=subprocess.DEVNULL) as process:
            theirs.close()
            ours.settimeout(60)
            said = {"Tested": None}
            while "Tested" in said or "Testing" in said:
                said = json.loads(ours.recv(1 << 20))
            ours.close()
            process.wait(60)
        return said

    def test_a_device_that_is_set_aside_is_not_opened_and_the_next_one_is(self):
        said = self.first_words("--index", "0")
        pci = (said.get("Ready") or said["Unusable"])["pci"]
        aside = self.first_words("--index", "0", "--skip", "0000:ff:00.0", "--skip", pci)["Unusable"]
        self.assertIn("left alone", aside["reason"])
        self.assertEqual(aside["pci"], pci)
        if plants_faults():
            # Only device "host" can be several.
            aside = self.first_words("--index", "0", "--skip", pci, HOSTHIP_DEVICES=2)["Unusable"]
            self.assertEqual(aside["count"], 2)
            said = self.first_words("--index", "1", "--skip", pci, HOSTHIP_DEVICES=2)
            self.assertNotIn("left alone", str(said))

    def test_each_device_is_listed_with_its_address(self):
        if not plants_faults():
            self.skipTest("this test device is one only")
        daemon = self.daemon(**on_gpu(HOSTHIP_DEVICES=2))
        devices = {d["id"]: d for d in daemon.ask("devices")}
        self.assertEqual(sorted(devices), ["cpu", "gpu0", "gpu1"])
        self.assertNotEqual(devices["gpu0"]["pci"], devices["gpu1"]["pci"])
        self.assertTrue(devices["gpu1"]["usable"])
        daemon.stop()

    def test_a_demanded_gpu_that_can_be_had_is_no_failure(self):
        daemon = self.daemon(args=["--device", "gpu"], **on_gpu())
        self.assertTrue(daemon.ask("devices")[0]["usable"])
        daemon.stop()


@needs_gpu
class Faults(Case):
    """Faults that the test device plants; only device "host" can."""

    def setUp(self):
        super().setUp()
        if not plants_faults():
            self.skipTest("this test device plants no faults")

    def test_an_allocation_that_fails_once_costs_cache_and_not_the_gpu(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        self.assertTrue(daemon.complete("qwen2"))
        usual = daemon.ask("show", "qwen2")["bytes"]["cache"]
        daemon.stop()
        daemon = self.daemon(**on_gpu(HOSTHIP_FAIL_MALLOC=3))
        self.assertTrue(daemon.complete("qwen2"))
        self.assertEqual(device(daemon, "qwen2"), GPU)
        self.assertLessEqual(daemon.ask("show", "qwen2")["bytes"]["cache"], usual)
        said = [e["message"] for e in daemon.ask("why", "qwen2")]
        self.assertTrue(any("out of memory" in m and "2048 tokens of cache" in m for m in said), said)
        daemon.stop()

    def test_a_device_that_has_less_than_it_says_ends_with_the_cpu(self):
        self.put("gemma3")
        # Its ledger is told more than it has.
        daemon = self.daemon(**on_gpu(HOSTHIP_MEMORY_MB=1), config="[memory]\ngpu_budget = \"4GiB\"\n")
        self.assertTrue(daemon.complete("gemma3"))
        self.assertTrue(device(daemon, "gemma3").startswith("cpu "))
        self.assertEqual(reserved(daemon, "gpu0"), 0)
        self.assertIn("out of memory", daemon.ask("show", "gemma3")["device_reason"])
        said = [e["message"] for e in daemon.ask("why", "gemma3") if "could not be loaded" in e["message"]]
        self.assertIn("2048 tokens of cache", said[0])
        self.assertIn("layers at most", said[1])
        self.assertIn("next device", said[-1])
        daemon.stop()

    def test_a_device_that_faults_again_and_again_is_left(self):
        for fault in ("HOSTHIP_ABORT_AT", "HOSTHIP_LOSE_AT", "HOSTHIP_FAIL_LAUNCH"):
            with self.subTest(fault=fault):
                self.put("qwen2", "llama-q4_0")
                # The warm-up goes well, a request does not; every worker counts anew.
                daemon = self.daemon(**on_gpu(**{fault: 400}))
                self.assertEqual(daemon.ctl("load", "llama-q4_0", "--device", "cpu").returncode, 0)
                text = daemon.complete("llama-q4_0")
                self.assertEqual(daemon.ctl("load", "qwen2").returncode, 0, daemon.logged())
                self.assertEqual(device(daemon, "qwen2"), GPU)
                (before,) = worker(daemon)
                status, body = daemon.post("/v1/completions", {"model": "qwen2", "prompt": "Hi", "max_tokens": 200,
                                                               "logit_bias": {"1": -100}})
                self.assertEqual((status, body["error"]["code"]), (503, "gpu_reset"), body)
                self.assertEqual(daemon.complete("llama-q4_0"), text, "models on the CPU do not notice")
                # Another worker can use the device again.
                wait_until(lambda: device(daemon, "qwen2"))
                self.assertEqual(device(daemon, "qwen2"), GPU, daemon.logged())
                self.assertNotIn(before, worker(daemon))
                daemon.stop()

    def test_a_step_that_hangs_costs_a_worker_and_both_models_come_back_to_the_gpu(self):
        self.put("qwen2", "gemma3")
        daemon = self.daemon(**on_gpu(HOSTHIP_HANG_AT=400))
        for model in ("qwen2", "gemma3"):
            self.assertEqual(daemon.ctl("load", model).returncode, 0, daemon.logged())
        (before,) = worker(daemon)
        # The deadline of a step is half a minute.
        status, body = daemon.post("/v1/completions", {"model": "qwen2", "prompt": "Hi", "max_tokens": 200,
                                                       "logit_bias": {"1": -100}}, timeout=100)
        self.assertEqual((status, body["error"]["code"]), (503, "gpu_reset"), body)
        for model in ("qwen2", "gemma3"):
            wait_until(lambda: device(daemon, model))
            self.assertEqual(device(daemon, model), GPU, daemon.logged())
        self.assertFalse(alive(before))
        daemon.stop()

    def test_a_daemon_stops_in_time_though_a_step_hangs(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu(HOSTHIP_HANG_AT=400), config="[http]\ndrain_secs = 1\n")
        self.assertEqual(daemon.ctl("load", "qwen2").returncode, 0, daemon.logged())
        connection, answer = daemon.stream("qwen2", max_tokens=300, logit_bias={"1": -100})
        self.addCleanup(connection.close)
        answer.readline()
        (pid,) = worker(daemon)
        daemon.stop(within=10)
        wait_until(lambda: not alive(pid))


@needs_gpu
class SelfTest(Case):
    def test_the_verb_tests_all_kernels_and_leaves_models_alone(self):
        self.put("qwen2")
        daemon = self.daemon(**on_gpu())
        text = daemon.complete("qwen2")
        (before,) = worker(daemon)
        (tested,) = json.loads(daemon.ctl("--json", "selftest", timeout=600).stdout)
        self.assertEqual((tested["device"], tested["failures"]), ("gpu0", []))
        self.assertGreater(tested["kernels"], 200)
        self.assertEqual(tested["kernels"], tested["passed"])
        self.assertEqual(worker(daemon), [before], "the worker of the test is gone, the other one is the same")
        self.assertEqual(device(daemon, "qwen2"), GPU)
        self.assertEqual(daemon.complete("qwen2"), text)
        daemon.stop()

    def test_a_daemon_without_a_gpu_has_nothing_to_test(self):
        daemon = self.daemon(args=["--device", "cpu"])
        ran = daemon.ctl("selftest")
        self.assertEqual((ran.returncode, ran.stdout), (0, ""))
        self.assertIn("no GPU is used", ran.stderr)
        daemon.stop()


@needs_gpu
class WrongKernels(Case):
    """Kernels that the test device gets wrong on demand; only device "host" can."""

    def setUp(self):
        super().setUp()
        if not plants_faults():
            self.skipTest("this test device plants no faults")

    def test_it_runs_at_the_first_start_and_after_a_change(self):
        daemon = self.daemon(**untested())
        self.assertEqual(tests_run(daemon), 1)
        for version, tests in ((70125424, 1), (70225424, 2), (70225424, 2)):
            daemon.stop()
            daemon.env["HOSTHIP_VERSION"] = str(version)
            daemon.start()
            self.assertEqual(tests_run(daemon), tests, daemon.logged())
        daemon.stop()
        (daemon.state / RECORD).write_text("{")
        daemon.start()
        self.assertEqual(tests_run(daemon), 3, "a file that cannot be read is as good as none")
        daemon.stop()

    def test_another_kernel_does_the_work_of_a_wrong_one(self):
        self.put("llama-q4_0")
        daemon = self.daemon(**on_gpu())
        text = daemon.complete("llama-q4_0")
        daemon.stop()
        for kernel in ("gemv_q4_0_c1", "rope_store_f16"):
            with self.subTest(kernel=kernel):
                daemon = self.daemon(**untested(HOSTHIP_WRONG_IN=kernel))
                self.assertIn(kernel, daemon.logged())
                self.assertIn(kernel, daemon.ask("devices")[0]["reason"])
                self.assertEqual(daemon.complete("llama-q4_0"), text)
                self.assertEqual(device(daemon, "llama-q4_0"), GPU)
                ran = daemon.ctl("selftest")
                self.assertEqual(ran.returncode, 1)
                self.assertRegex(ran.stdout, f"  {kernel}: .*: expected .+, got .+, tolerance .+")
                self.assert_one_line(ran.stderr, "1 kernel failed")
                daemon.stop()

    def test_without_another_kernel_the_model_goes_to_the_cpu_and_says_why(self):
        self.put("llama-q4_0")
        daemon = self.daemon(**untested(HOSTHIP_WRONG_IN="gemm_q4_0"))
        self.assertTrue(daemon.complete("llama-q4_0"))
        self.assertTrue(device(daemon, "llama-q4_0").startswith("cpu "))
        self.assertIn("gemm_q4_0 failed the self-test", daemon.ask("show", "llama-q4_0")["device_reason"])
        self.assertEqual(reserved(daemon, "gpu0"), 0)
        daemon.stop()

    def test_a_kernel_that_takes_the_worker_along_is_left_out(self):
        self.put("llama-q4_0")
        for fault, why in (("HOSTHIP_ABORT_IN", "died in the self-test"), ("HOSTHIP_HANG_IN", "did not end within")):
            with self.subTest(fault=fault):
                daemon = Daemon(models=[self.models], **untested(**{fault: "attend_mma_64"}))
                self.addCleanup(daemon.remove)
                daemon.start(within=90)
                self.assertIn(why, daemon.logged())
                self.assertIn("attend_mma_64", daemon.ask("devices")[0]["reason"])
                self.assertTrue(daemon.complete("llama-q4_0"))
                self.assertEqual(device(daemon, "llama-q4_0"), GPU)
                daemon.stop()
                # The next start knows.
                daemon.start()
                self.assertEqual(tests_run(daemon), 1)
                self.assertIn("attend_mma_64", daemon.ask("devices")[0]["reason"])
                daemon.stop()


if __name__ == "__main__":
    unittest.main()
