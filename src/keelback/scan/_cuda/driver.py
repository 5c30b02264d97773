"""Loading and launching kernels through the CUDA driver, in PyTorch's context and stream."""

import ctypes
from functools import cache

import torch

from keelback.errors import JobError
from keelback.scan._cuda.compiler import compiled
from keelback.scan._cuda.configuration import Configuration

_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int, what: str) -> None:
    if status == 0:
        return
    name = ctypes.c_char_p()
    _driver().cuGetErrorName(status, ctypes.byref(name))
    reason = name.value.decode() if name.value else f"error {status}"
    raise JobError(f"the CUDA driver could not {what}: {reason}")


@cache
def _primary_context(device: int) -> ctypes.c_void_p:
    torch.cuda.synchronize(device)  # PyTorch's context exists from here on.
    context = ctypes.c_void_p()
    _check(
        _driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "find PyTorch's context"
    )
    return context


def _enter(device: int) -> None:
    """Make PyTorch's context current: autograd calls from threads of its own."""
    context = _primary_context(device)
    current = ctypes.c_void_p()
    _driver().cuCtxGetCurrent(ctypes.byref(current))
    if current.value != context.value:
        _check(_driver().cuCtxSetCurrent(context), "enter PyTorch's context")


class Kernel:
    """One kernel of one configuration on one device."""

    def __init__(self, name: str, configuration: Configuration, device: int) -> None:
        _enter(device)
        driver = _driver()
        major, minor = torch.cuda.get_device_capability(device)
        code = compiled(name, configuration.header, f"sm_{major}{minor}")
        self._device = device
        self._module = ctypes.c_void_p()
        self._function = ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(self._module), code), f"load {name}")
        _check(
            driver.cuModuleGetFunction(
                ctypes.byref(self._function), self._module, f"scan_{name}".encode()
            ),
            f"find {name}",
        )
        self._shared = self._shared_size(name)
        status = driver.cuFuncSetAttribute(self._function, _MAX_DYNAMIC_SHARED_SIZE, self._shared)
        _check(status, f"give {name} {self._shared} bytes of shared memory")

    def _shared_size(self, name: str) -> int:
        address, size, value = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_int(0)
        found = _driver().cuModuleGetGlobal_v2(
            ctypes.byref(address), ctypes.byref(size), self._module, f"{name}_shared_bytes".encode()
        )
        if found == 0:
            _check(
                _driver().cuMemcpyDtoH_v2(ctypes.byref(value), address, ctypes.sizeof(value)),
                f"read the shared memory of {name}",
            )
        return value.value

    def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
        """Run on the current stream of the device."""
        _enter(self._device)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        pointers = (ctypes.c_char_p * 1)(arguments)
        status = _driver().cuLaunchKernel(
            self._function, blocks, 1, 1, threads, 1, 1, self._shared, stream, pointers, None
        )
        _check(status, "launch a scan")


@cache
def processors_of(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def kernel(name: str, configuration: Configuration, device: int) -> Kernel:
    """The kernel, compiled and loaded at the first call."""
    return Kernel(name, configuration, device)
