"""The GPUs of the tests: a libamdhip64.so that needs no card, and a daemon that takes it for the runtime.

ROCMFORGE_TEST_GPU names such a library; without it the tests that need one are skipped, and say so.
"""

import os
import unittest

LIBRARY = os.environ.get("ROCMFORGE_TEST_GPU")

needs_gpu = unittest.skipUnless(LIBRARY, "ROCMFORGE_TEST_GPU names no test device: build one with `make devices`")


def on_gpu(**more):
    """Arguments of a daemon that sees the test device; `more` are the device's own variables."""
    return {"env": {"ROCMFORGE_HIP_LIBRARY": LIBRARY} | {name: str(value) for name, value in more.items()}}
