"""Loading and launching kernels through the CUDA driver, in PyTorch's context and stream."""

import ctypes
from functools import cache
from typing import Protocol

import torch

from keelback.compiled.nvrtc import compiled
from keelback.errors import JobError

#: Of a kernel's arguments, of which ours have one, a structure.
_Pointer = ctypes.c_char_p * 1
_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_OVERLAPPING = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class _LaunchAttribute(ctypes.Structure):
    """`CUlaunchAttribute`: a number, and a value of 64 bytes."""

    _fields_ = (("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int * 16))


class _LaunchConfiguration(ctypes.Structure):
    """`CUlaunchConfig`."""

    _fields_ = (
        ("blocks", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("count", ctypes.c_uint),
    )


_OVERLAPS = ctypes.pointer(_LaunchAttribute(_OVERLAPPING, 0, (1,)))


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


class _Entered:
    """Makes PyTorch's context of a device current, for as long: another may be the thread's."""

    def __init__(self, device: int) -> None:
        self._context = _primary_context(device)

    def __enter__(self) -> None:
        self._pushed = not _is_current(self._context)
        if self._pushed:
            _check(_driver().cuCtxPushCurrent_v2(self._context), "enter PyTorch's context")

    def __exit__(self, *exception: object) -> None:
        if self._pushed:
            _driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _is_current(context: ctypes.c_void_p) -> bool:
    current = ctypes.c_void_p()
    _driver().cuCtxGetCurrent(ctypes.byref(current))
    return current.value == context.value


class Compilable(Protocol):
    """What a kernel is compiled with."""

    @property
    def sources(self) -> str:
        """The package whose folder `kernels` holds the kernel."""

    @property
    def header(self) -> str:
        """The text of `configuration.h`."""


def architecture_of(capability: tuple[int, int]) -> str:
    """What to compile for; on Hopper with the instructions that are its own."""
    major, minor = capability
    return f"sm_{major}{minor}" + ("a" if capability == (9, 0) else "")


class Kernel:
    """One kernel of one configuration on one device."""

    def __init__(self, name: str, configuration: Compilable, device: int) -> None:
        self._device, self._context = device, _primary_context(device)
        self._start = _driver().cuLaunchKernel
        #: Whether it begins before the kernel ahead of it ends, for whose end its code waits.
        self._overlaps: bool = getattr(configuration, "overlaps", False)
        with _Entered(device):
            self._load(name, configuration)

    def _load(self, name: str, configuration: Compilable) -> None:
        driver = _driver()
        architecture = architecture_of(torch.cuda.get_device_capability(self._device))
        code = compiled(configuration.sources, name, configuration.header, architecture)
        self._module = ctypes.c_void_p()
        self._function = ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(self._module), code), f"load {name}")
        _check(
            driver.cuModuleGetFunction(
                ctypes.byref(self._function), self._module, f"keelback_{name}".encode()
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
        if _is_current(self._context):
            self._launch(blocks, threads, arguments)
        else:
            with _Entered(self._device):
                self._launch(blocks, threads, arguments)

    def _launch(self, blocks: int, threads: int, arguments: bytes) -> None:
        stream = ctypes.c_void_p(torch._C._cuda_getCurrentRawStream(self._device))
        pointers = _Pointer(arguments)
        if self._overlaps:
            how = _LaunchConfiguration(
                (blocks, 1, 1), (threads, 1, 1), self._shared, stream, _OVERLAPS, 1
            )
            status = _driver().cuLaunchKernelEx(ctypes.byref(how), self._function, pointers, None)
        else:
            status = self._start(
                self._function, blocks, 1, 1, threads, 1, 1, self._shared, stream, pointers, None
            )
        if status:
            _check(status, "launch a kernel")


_MAP_BYTES, _MAP_ALIGNMENT = 128, 64
_MAP_DTYPES = {torch.float16: 6, torch.bfloat16: 9}  # CU_TENSOR_MAP_DATA_TYPE_...
_MAP_SWIZZLES = {64: 2, 128: 3}  # CU_TENSOR_MAP_SWIZZLE_..., by the bytes of a row of the box
_MAP_PROMOTION = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B


def encoded_map(
    device: int,
    address: int,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
) -> bytes:
    """What a Hopper's copying unit needs to know to copy boxes of an array in half precision.

    Sizes, strides and the box begin with the last axis, whose numbers are adjacent; `strides` are
    those of the other axes, in bytes. Rows of the box, of 64 or 128 bytes, are swizzled.
    """
    rank = len(sizes)
    room = ctypes.create_string_buffer(_MAP_BYTES + _MAP_ALIGNMENT)
    start = -ctypes.addressof(room) % _MAP_ALIGNMENT
    with _Entered(device):  # A thread of autograd may have none.
        status = _driver().cuTensorMapEncodeTiled(
            ctypes.c_void_p(ctypes.addressof(room) + start),
            _MAP_DTYPES[dtype],
            rank,
            ctypes.c_void_p(address),
            (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * (rank - 1))(*strides),
            (ctypes.c_uint32 * rank)(*box),
            (ctypes.c_uint32 * rank)(*[1] * rank),
            0,
            _MAP_SWIZZLES[box[0] * dtype.itemsize],
            _MAP_PROMOTION,
            0,
        )
    _check(status, "describe an array")
    return room.raw[start : start + _MAP_BYTES]


@cache
def processors_of(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def kernel(name: str, configuration: Compilable, device: int) -> Kernel:
    """The kernel, compiled and loaded at the first call."""
    return Kernel(name, configuration, device)
