"""The CUDA kernels compiled for the host, so that their logic is tested where there is no GPU."""

import atexit
import ctypes
import os
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from keelback.compiled import cuda_launch
from keelback.compiled.cuda_card import Card
from keelback.compiled.cuda_driver import Compilable
from keelback.compiled.nvrtc import kernel_sources
from keelback.conv.cuda import launch as conv_launch
from keelback.scan.cuda import launch as scan_launch
from keelback.scan.cuda import step

#: A GPU with warpgroups, one without, and one of a desktop: there blocks have less shared memory.
HOPPER = Card(processors=132, shared_bytes=227 << 10, wide=True)
AMPERE = Card(processors=108, shared_bytes=163 << 10)
DESKTOP = Card(processors=128, shared_bytes=99 << 10)

COMPILER = shutil.which("g++")
# Where this is set, ThreadSanitizer watches every launch: its library must be loaded first.
WATCH_RACES = "KEELBACK_HOST_RACES"
_RUNNER = """
extern "C" const int argument_bytes = sizeof({arguments});
extern "C" void run(int blocks, int threads, int shared, const {arguments}* arguments) {{
  host_launch(keelback_{name}, blocks, threads, shared, *arguments);
}}
"""


_FLAGS = ("-std=c++17", "-O0", "-U_FORTIFY_SOURCE", "-w", "-fPIC", "-ffp-contract=fast")
"""A kernel runs for less time than g++ takes for it: unoptimized is faster in all. Fortified, a
jump from one stack to another would count as an error."""
_HEADERS = (
    "ucontext.h", "algorithm", "cmath", "csetjmp", "cstdio", "cstdlib", "cstring", "deque",
    "functional", "limits", "map", "memory", "utility", "vector"
)  # fmt: skip
"""What the headers beside this include: read once, and not for each of 250 kernels."""


@cache
def _flags() -> tuple[str, ...]:
    return (*_FLAGS, "-O1", "-fsanitize=thread", "-g1") if os.environ.get(WATCH_RACES) else _FLAGS


@cache
def _folder() -> Path:
    """Where kernels are kept while this process lives, with the headers that they all include."""
    folder, process = Path(mkdtemp(prefix="keelback-host-kernels-")), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # A forked child ends while its parent still compiles.
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    header = folder / "headers.h"
    header.write_text("".join(f"#include <{name}>\n" for name in _HEADERS))
    subprocess.run([COMPILER, *_flags(), "-x", "c++-header", header], check=True)
    return folder


class HostKernel:
    """Has the interface of `keelback.compiled.cuda_driver.Kernel`."""

    def __init__(self, name: str, configuration: Compilable) -> None:
        folder = _folder() / f"{name}-{hash(configuration) & 0xFFFFFFFFFFFF:x}"
        folder.mkdir()
        for file, text in kernel_sources(configuration.sources).items():
            (folder / file).write_text(text)
        for header in Path(__file__).parent.glob("*.h"):
            shutil.copy(header, folder)
        (folder / "configuration.h").write_text(configuration.header)
        arguments = "".join(part.capitalize() for part in name.split("_")) + "Arguments"
        runner = _RUNNER.format(arguments=arguments, name=name)
        (folder / "run.cpp").write_text(f'#include "{name}.cu"\n{runner}')
        library = folder / "kernel.so"
        command = [COMPILER, *_flags(), "-shared", "-include", _folder() / "headers.h"]
        subprocess.run([*command, "-o", library, folder / "run.cpp"], check=True)
        self._library = ctypes.CDLL(str(library))
        self._argument_bytes = ctypes.c_int.in_dll(self._library, "argument_bytes").value
        try:
            self.shared_bytes = ctypes.c_int.in_dll(self._library, f"{name}_shared_bytes").value
        except ValueError:  # The kernel has no shared memory.
            self.shared_bytes = 0

    def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
        """Run every block, one after another."""
        assert len(arguments) == self._argument_bytes
        self._library.run(blocks, threads, self.shared_bytes, ctypes.c_char_p(arguments))


@cache
def host_kernel(name: str, configuration: Compilable, device: int | None) -> HostKernel:
    """Stands in for `keelback.compiled.cuda_driver.kernel`."""
    return HostKernel(name, configuration)


def host_map(
    device: int | None,
    address: int,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
) -> bytes:
    """`TensorMap` of bulk_intrinsics.h beside this; a driver refuses what it refuses."""
    assert all(one % 16 == 0 for one in (address, *strides))
    pitch = box[0] * dtype.itemsize
    assert pitch in (64, 128)
    assert max(box) <= 256
    packed = struct.pack("=q4q3q4iii", address, *sizes, *strides, *box, dtype.itemsize, pitch)
    return packed.ljust(128, b"\0")


def run_on_host(monkeypatch: Any, processors: int, kernel: Any = host_kernel) -> None:
    """Have every launch run on the host, planned for a GPU of so many multiprocessors."""
    monkeypatch.setattr(cuda_launch, "kernel", kernel)
    for module in (scan_launch, conv_launch, step):
        monkeypatch.setattr(module, "processors_of", lambda device: processors)
    for remembered in (scan_launch.prepare, conv_launch.prepare):
        remembered.cache_clear()
