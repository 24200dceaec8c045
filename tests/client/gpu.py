"""The GPUs of the tests: a libamdhip64.so that needs no card, and a daemon that takes it for the runtime.

ROCMFORGE_TEST_GPU names such a library; without it the tests that need one are skipped, and say so.
"""

import functools
import os
import unittest

from daemon import Daemon

LIBRARY = os.environ.get("ROCMFORGE_TEST_GPU")

needs_gpu = unittest.skipUnless(LIBRARY, "ROCMFORGE_TEST_GPU names no test device: build one with `make devices`")


# The file of results of self-tests in a daemon's folder for state.
RECORD = "gpu-selftest.json"


def untested(**more):
    """Arguments of a daemon that sees the test device for the first time; `more` are the device's own variables."""
    return {"env": {"ROCMFORGE_HIP_LIBRARY": LIBRARY} | {name: str(value) for name, value in more.items()}}


@functools.cache
def record():
    """The test device's file of results, made by a daemon of its own."""
    daemon = Daemon(**untested())
    try:
        # Minutes where the device is interpreted.
        daemon.start(within=600)
        daemon.stop()
        if not (daemon.state / RECORD).is_file():
            raise AssertionError(f"the test device was not tested:\n{daemon.logged()}")
        return (daemon.state / RECORD).read_bytes()
    finally:
        daemon.remove()


def on_gpu(**more):
    """The same for a device whose kernels are known to be right: no test at each start, whose launches count as any."""
    return untested(**more) | {"state": {RECORD: record()}}
