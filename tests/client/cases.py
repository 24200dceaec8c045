"""What the tests of the daemon share: a folder of models, daemons that serve it, and waiting.

Standard library only; the models are those of tests/models/make_tiny.py and, for what needs a request that
takes its time, gemma-3-270m. See daemon.py for the environment.
"""

import shutil
import tempfile
import time
import unittest
from pathlib import Path

from daemon import Daemon, events, test_models

TINY = test_models() / "tiny"
SLOW = test_models() / "gemma-3-270m-Q4_K_M.gguf"
# A request that runs until it is ended: without the tokens that end a text.
LONG = {"max_tokens": 4000, "logit_bias": {"1": -100, "106": -100}}


def wait_until(what, within=60):
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
