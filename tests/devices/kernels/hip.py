"""A device to test kernels on: any libamdhip64.so, through ctypes.

ROCMFORGE_HIP_LIBRARY is the library: device host, rdna3 or cuda, or ROCm's own.
ROCMFORGE_HSACO is a folder of code objects NAME.ARCH.hsaco (kernels/compile.sh makes one).
Tests are run by run.py, or by `python -m unittest discover` with both set.
"""

import ctypes
import os
import pathlib
import unittest

import numpy as np

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


class HipError(Exception):
    """A call returned an error."""


class Buffer:
    """Memory of the device that holds an array."""

    def __init__(self, device, shape, dtype):
        self.device, self.shape, self.dtype = device, tuple(np.atleast_1d(shape)), np.dtype(dtype)
        self.bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        pointer = ctypes.c_void_p()
        device.call("hipMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(self.bytes, 1)))
        self.address = pointer.value

    def write(self, array):
        array = np.ascontiguousarray(array, self.dtype)
        assert array.nbytes == self.bytes
        self.device.call("hipMemcpy", ctypes.c_void_p(self.address), array.ctypes.data_as(ctypes.c_void_p),
                         ctypes.c_size_t(self.bytes), HOST_TO_DEVICE)
        return self

    def read(self):
        array = np.empty(self.shape, self.dtype)
        self.device.call("hipMemcpy", array.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(self.address),
                         ctypes.c_size_t(self.bytes), DEVICE_TO_HOST)
        return array

    def free(self):
        self.device.call("hipFree", ctypes.c_void_p(self.address))


class Device:
    """The first device of a library, with all its code objects loaded."""

    def __init__(self, library, objects):
        self.hip = ctypes.CDLL(library)
        self.call("hipInit", 0)
        self.call("hipSetDevice", 0)
        properties = ctypes.create_string_buffer(4096)
        self.call("hipGetDevicePropertiesR0600", properties, 0)
        self.arch = ctypes.string_at(ctypes.addressof(properties) + 1160).decode().split(":")[0]
        self.modules = []
        self.images = []
        for path in sorted(pathlib.Path(objects).glob(f"*.{self.arch}.*")):
            image = ctypes.create_string_buffer(path.read_bytes())
            module = ctypes.c_void_p()
            self.call("hipModuleLoadData", ctypes.byref(module), image)
            self.modules.append(module)
            self.images.append(image)
        assert self.modules, f"no code objects for {self.arch} in {objects}"
        self.functions = {}
        self.buffers = []

    def call(self, name, *args):
        error = getattr(self.hip, name)(*args)
        if error:
            raise HipError(f"{name}: error {error}")

    def function(self, name):
        if name not in self.functions:
            for module in self.modules:
                function = ctypes.c_void_p()
                if self.hip.hipModuleGetFunction(ctypes.byref(function), module, name.encode()) == 0:
                    self.functions[name] = function
                    break
            else:
                raise HipError(f"no kernel {name}")
        return self.functions[name]

    def array(self, array, dtype=None):
        """A buffer with a copy of `array`."""
        array = np.asarray(array, dtype)
        buffer = self.empty(array.shape, array.dtype)
        return buffer.write(array)

    def empty(self, shape, dtype=np.float32):
        """A buffer with undefined contents."""
        buffer = Buffer(self, shape, dtype)
        self.buffers.append(buffer)
        return buffer

    def release(self):
        """Frees all buffers; on device host this checks what lies around them."""
        for buffer in self.buffers:
            buffer.free()
        self.buffers.clear()

    def launch(self, name, grid, block, *args):
        """Runs a kernel and waits. A buffer or None is a pointer, an int a u32, a float an f32."""
        values = []
        for arg in args:
            if arg is None:
                values.append(ctypes.c_uint64(0))
            elif isinstance(arg, Buffer):
                values.append(ctypes.c_uint64(arg.address))
            elif isinstance(arg, (float, np.floating)):
                values.append(ctypes.c_float(arg))
            else:
                values.append(ctypes.c_uint32(arg))
        params = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        grid = tuple(np.atleast_1d(grid)) + (1, 1)
        self.call("hipModuleLaunchKernel", self.function(name), int(grid[0]), int(grid[1]), int(grid[2]), block, 1, 1, 0,
                  None, params, None)
        self.call("hipDeviceSynchronize")


_device = None


def device():
    """The process's device."""
    global _device
    if _device is None:
        _device = Device(os.environ["ROCMFORGE_HIP_LIBRARY"], os.environ["ROCMFORGE_HSACO"])
    return _device


class KernelTest(unittest.TestCase):
    """A test with `self.d`, the device, and `self.rng`, numbers that are the same in every run."""

    def setUp(self):
        self.d = device()
        self.rng = np.random.default_rng(sum(self.id().encode()))

    def tearDown(self):
        self.d.release()

    def normal(self, *shape, scale=1.0):
        """Asymmetric f32 numbers: no sign, row or column looks like another."""
        return (self.rng.standard_normal(shape) * scale + 0.1 * scale).astype(np.float32)

    def close(self, got, want, tolerance, what=""):
        """Every element within `tolerance` of the largest magnitude of its row (the last axis)."""
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        self.assertEqual(got.shape, want.shape)
        scale = np.maximum(np.abs(want).max(axis=-1, keepdims=True), 1e-30)
        error = np.abs(got - want) / scale
        bad = ~(error <= tolerance)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            self.fail(f"{what}: {bad.sum()} of {bad.size} elements are off, first at {at}: "
                      f"{got[at]} instead of {want[at]} (allowed {tolerance} of {scale[at[:-1]]})")


def ceil_div(a, b):
    return -(-a // b)
