"""Device cuda where there is no card: it builds, says so, and knows the kernels of the code objects.

    CUDAHIP=/tmp/cuda ROCMFORGE_HSACO=/tmp/objects python -m unittest tests/devices/cuda/test_cuda.py

The folders are those of build.sh and of kernels/compile.sh for gfx1100; what is not named is built.
"""

import ctypes
import os
import pathlib
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SUCCESS, NO_DEVICE, INVALID_IMAGE, NO_BINARY_FOR_GPU, NOT_FOUND = 0, 100, 200, 209, 500


class Cuda(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.library = os.environ.get("CUDAHIP", cls.folder.name)
        cls.objects = pathlib.Path(os.environ.get("ROCMFORGE_HSACO", cls.folder.name))
        if cls.library == cls.folder.name:
            subprocess.run([HERE / "build.sh", cls.library], check=True)
        if str(cls.objects) == cls.folder.name:
            subprocess.run([ROOT / "kernels/compile.sh", cls.objects, "gfx1100"], check=True)
        cls.hip = ctypes.CDLL(f"{cls.library}/libamdhip64.so")
        cls.card = cls.hip.hipInit(0) == SUCCESS

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def load(self, image):
        module = ctypes.c_void_p()
        return self.hip.hipModuleLoadData(ctypes.byref(module), ctypes.create_string_buffer(image))

    def other(self, target):
        """A code object of kernels that are not in the library."""
        env = dict(os.environ, KERNELS=str(ROOT / "tests/devices/host/planted"))
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([ROOT / "kernels/compile.sh", out, target], env=env, check=True)
            return next(pathlib.Path(out).iterdir()).read_bytes()

    def test_no_card_is_no_device(self):
        if self.card:
            self.skipTest("there is a card")
        count = ctypes.c_int(7)
        self.assertEqual(self.hip.hipGetDeviceCount(ctypes.byref(count)), NO_DEVICE)
        self.assertEqual(count.value, 0)
        self.assertEqual(self.hip.hipSetDevice(0), NO_DEVICE)
        self.assertEqual([self.hip.hipGetLastError(), self.hip.hipGetLastError()], [NO_DEVICE, SUCCESS])
        self.assertEqual(self.hip.hipMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(16)), NO_DEVICE)

    def test_every_code_object_has_its_kernels_here(self):
        objects = sorted(self.objects.glob("*.gfx1100.hsaco"))
        self.assertEqual(len(objects), len(list((ROOT / "kernels").glob("*.hip"))))
        for path in objects:
            # Names and sizes of arguments are looked at before the card is.
            self.assertEqual(self.load(path.read_bytes()), SUCCESS if self.card else NO_DEVICE, path.name)

    def test_what_is_no_code_object_of_this_chip_is_refused(self):
        self.assertEqual(self.load(b"\x7fELF\x02\x01" + bytes(4096)), INVALID_IMAGE)
        self.assertEqual(self.load(self.other("gfx1030")), NO_BINARY_FOR_GPU)
        self.assertEqual(self.load(self.other("gfx1100")), NOT_FOUND)


if __name__ == "__main__":
    unittest.main()
