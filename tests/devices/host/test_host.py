"""That device host notices what it is there to notice: test_host.py builds it with planted mistakes.

Each case runs in a process of its own, since the answer to a broken kernel is an abort.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
PREPARE = """
import sys; sys.path.insert(0, sys.argv[1])
import ctypes, numpy as np
from hip import HipError, device
d = device()
"""


class Host(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        out = cls.folder.name
        env = dict(os.environ, KERNELS=str(HERE / "planted"))
        subprocess.run([HERE / "build.sh", out], env=env, check=True)
        subprocess.run([ROOT / "kernels/compile.sh", out, "gfx1100"], env=env, check=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_code(self, code, timeout=60, **settings):
        out = self.folder.name
        env = dict(os.environ, ROCMFORGE_HIP_LIBRARY=f"{out}/libamdhip64.so", ROCMFORGE_HSACO=out, HOSTHIP_ALIGN="16",
                   PYTHONDONTWRITEBYTECODE="1", **{f"HOSTHIP_{k}": str(v) for k, v in settings.items()})
        return subprocess.run([sys.executable, "-c", PREPARE + code, ROOT / "tests/devices/kernels"], env=env,
                              capture_output=True, text=True, timeout=timeout)

    def fine(self, code, **settings):
        done = self.run_code(code, **settings)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def dies(self, words, code, **settings):
        done = self.run_code(code, **settings)
        self.assertLess(done.returncode, 0, f"it went on: {done.stdout} {done.stderr}")
        self.assertIn(words, done.stderr)

    def test_a_right_kernel_runs(self):
        for order in ["forward", "reverse"]:
            self.fine("x = np.arange(640, dtype=np.float32); out = d.empty(10); d.launch('sums', 10, 64, d.array(x), out)\n"
                      "assert (out.read() == x.reshape(10, 64).sum(1)).all(); d.release()", ORDER=order)

    def test_outside_of_a_buffer(self):
        fault = "which is in no buffer"
        self.dies(fault, "d.launch('write_at', 1, 64, d.empty(4096, np.uint8), 4096)")
        self.dies(fault, "d.launch('read_at', 1, 64, d.empty(32, np.uint8), d.empty(1, np.uint8), 32)")
        self.dies("byte 33 of an allocation of 33", "d.launch('write_at', 1, 64, d.empty(33, np.uint8), 33)")
        self.dies("bytes before an allocation", "d.launch('write_at', 1, 64, d.empty(64, np.uint8), 0xffffffff)\n"
                  .replace("0xffffffff)", "0)\nb = d.empty(64, np.uint8); b.address -= 1; d.launch('write_at', 1, 64, b, 0)"))

    def test_after_free(self):
        self.dies("which is in no buffer", "b = d.empty(64, np.uint8); b.free(); d.launch('write_at', 1, 64, b, 0)")

    def test_fresh_memory_is_nan(self):
        self.fine("assert np.isnan(d.empty(100).read()).all()")

    def test_missing_barrier_shows_in_one_order(self):
        code = "out = d.empty(64); d.launch('no_barrier', 1, 64, out); print(np.isnan(out.read()).sum())"
        self.assertEqual([self.fine(code, ORDER=o) for o in ["forward", "reverse"]], ["32\n", "32\n"])

    def test_threads_that_wait_for_nobody(self):
        self.dies("some lanes have returned", "d.launch('barrier_for_some', 1, 64, d.empty(64))")
        self.dies("some teams have returned", "d.launch('barrier_for_one_team', 1, 64, d.empty(64))")
        self.dies("some lanes have returned", "d.launch('sum_of_some', 1, 64, d.empty(64))")

    def test_lds_overrun(self):
        self.dies("array in LDS", "d.launch('lds_overrun', 1, 64, d.empty(64))")

    LAUNCH = "\ndef go(): d.launch('write_at', 1, 64, b, 0)\nb = d.empty(64, np.uint8)\n"

    def fails(self, what, n_fine, code, **settings):
        """`what` succeeds n_fine times, then raises."""
        self.fine(self.LAUNCH + f"for i in range({n_fine}): {what}\ntry: {what}\nexcept HipError as e: print(e)\nelse: assert False\n"
                  + code, **settings)

    def test_planted_errors(self):
        self.fails("go()", 2, "go()", FAIL_LAUNCH=3)
        self.fails("d.empty(8)", 1, "d.empty(8)", FAIL_MALLOC=3)
        self.fails("go()", 1, "try: d.empty(8)\nexcept HipError: pass\nelse: assert False", LOSE_AT=2)
        self.dies("Memory access fault by GPU", self.LAUNCH + "go(); go()", ABORT_AT=2)
        with self.assertRaises(subprocess.TimeoutExpired):
            self.run_code(self.LAUNCH + "go(); go()", timeout=5, HANG_AT=2)

    def test_memory_is_bounded(self):
        self.fine("a = d.empty(600 << 10, np.uint8)\ntry: d.empty(600 << 10, np.uint8)\nexcept HipError: pass\nelse: assert False\n"
                  "a.free(); d.empty(600 << 10, np.uint8)", MEMORY_MB=1)

    def test_no_device(self):
        done = self.run_code("", DEVICES=0)
        self.assertIn("hipInit: error 100", done.stderr)

    STREAM = """
hip = d.hip
def call(name, *args):
    assert getattr(hip, name)(*args) == 0, name
s = ctypes.c_void_p(); call('hipStreamCreateWithFlags', ctypes.byref(s), 1)
x = np.arange(128, dtype=np.float32); b = d.array(x); out = d.array(np.zeros(2, np.float32))
host = ctypes.c_void_p(); call('hipHostMalloc', ctypes.byref(host), ctypes.c_size_t(8), 0)
seen = np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(ctypes.c_float)), (2,))
values = [ctypes.c_uint64(b.address), ctypes.c_uint64(out.address)]
params = (ctypes.c_void_p * 2)(*[ctypes.addressof(v) for v in values])
def put():
    call('hipModuleLaunchKernel', d.function('sums'), 2, 1, 1, 64, 1, 1, 0, s, params, None)
    call('hipMemcpyAsync', host, ctypes.c_void_p(out.address), ctypes.c_size_t(8), 2, s)
want = x.reshape(2, 64).sum(1)
"""

    def test_lazy_work_is_done_when_waited_for(self):
        self.fine(self.STREAM + "put(); assert (seen != want).all(); call('hipStreamSynchronize', s); assert (seen == want).all()", LAZY=1)
        self.fine(self.STREAM + "e = ctypes.c_void_p(); call('hipEventCreateWithFlags', ctypes.byref(e), 0)\n"
                  "put(); call('hipEventRecord', e, s); assert hip.hipEventQuery(e) == 600; assert hip.hipEventQuery(e) == 0\n"
                  "assert (seen == want).all()", LAZY=1)
        self.fine(self.STREAM + "put(); assert (seen == want).all()")

    def test_graphs_replay(self):
        for lazy in [0, 1]:
            self.fine(self.STREAM + "call('hipStreamBeginCapture', s, 1); put(); assert hip.hipStreamSynchronize(s) == 900\n"
                      "g, x2 = ctypes.c_void_p(), ctypes.c_void_p(); call('hipStreamEndCapture', s, ctypes.byref(g))\n"
                      "assert (seen != want).all(); call('hipGraphInstantiate', ctypes.byref(x2), g, None, None, ctypes.c_size_t(0))\n"
                      "call('hipGraphDestroy', g)\nfor i in range(2):\n"
                      "    seen[:] = 0; call('hipGraphLaunch', x2, s); call('hipStreamSynchronize', s); assert (seen == want).all()\n"
                      "call('hipGraphExecDestroy', x2)", LAZY=lazy)


if __name__ == "__main__":
    unittest.main()
