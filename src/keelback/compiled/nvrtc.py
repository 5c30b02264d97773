"""From kernel source to machine code: NVRTC, which PyTorch brings along, and a cache on disk."""

import ctypes
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from keelback.compiled.kept_files import keep_whole, read_whole
from keelback.errors import JobError


@cache
def kernel_sources(package: str) -> Mapping[str, str]:
    """The kernels of `package` and the headers that they include, by file name.

    The kernels lie in the package's folder `kernels`; the headers that all packages share, in
    `keelback/compiled/headers`.
    """
    folders = (files("keelback.compiled") / "headers", files(package) / "kernels")
    entries = [entry for folder in folders for entry in folder.iterdir() if entry.is_file()]
    return {entry.name: entry.read_text() for entry in sorted(entries, key=lambda one: one.name)}


@cache
def _nvrtc() -> ctypes.CDLL:
    """The NVRTC library of the CUDA version that PyTorch was built for."""
    if torch.version.cuda is None:
        raise JobError("this build of PyTorch has no CUDA: install a CUDA build to scan on the GPU")
    return library_of(torch.version.cuda.split(".")[0])


def library_of(cuda: str) -> ctypes.CDLL:
    """The NVRTC library of a major version of CUDA.

    Raises:
        JobError: It is not installed.
    """
    name = f"libnvrtc.so.{cuda}"
    for folder in _library_folders():
        if (folder / name).exists():
            for builtins in folder.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(
                    str(builtins)
                )  # NVRTC asks for it by name, and is not told this folder.
            return ctypes.CDLL(str(folder / name))
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise JobError(
            f"{name} was not found: pip install nvidia-cuda-nvrtc for this PyTorch"
        ) from None


def _library_folders() -> list[Path]:
    """Where pip puts NVIDIA's libraries, for CUDA 13 and for CUDA 12, and PyTorch's own folder."""
    torch_folder = Path(torch.__file__).parent
    nvidia = torch_folder.parent / "nvidia"
    return [
        *sorted(nvidia.glob("cu[0-9]*/lib")),
        nvidia / "cuda_nvrtc" / "lib",
        torch_folder / "lib",
    ]


def cache_folder() -> Path:
    """Where kernels are kept: `keelback/cuda` in `$XDG_CACHE_HOME`, or else in `~/.cache`.

    Raises:
        RuntimeError: There is no home.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "keelback" / "cuda"


def compiled(package: str, kernel: str, header: str, architecture: str) -> bytes:
    """The machine code (cubin) of a package's `kernels/<kernel>.cu` with this `configuration.h`.

    The code is kept in the user's cache folder (`$XDG_CACHE_HOME/keelback/cuda`), under a hash of
    everything that it depends on; a file that is not whole is compiled again.

    Raises:
        JobError: The compiler is missing or fails.
    """
    nvrtc = _nvrtc()
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    sources = {**kernel_sources(package), "configuration.h": header}
    parts = [
        kernel,
        architecture,
        f"{major.value}.{minor.value}",
        *sorted(sources),
        *sources.values(),
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    try:
        path = cache_folder() / f"{kernel}-{digest[:32]}.cubin"
    except RuntimeError:  # There is no home: it is compiled in each process.
        return _compile(nvrtc, kernel, sources, architecture)
    code = read_whole(path)
    if code is None:
        code = _compile(nvrtc, kernel, sources, architecture)
        keep_whole(path, code)
    return code


def _compile(
    nvrtc: ctypes.CDLL, kernel: str, sources: Mapping[str, str], architecture: str
) -> bytes:
    headers = {name: text for name, text in sources.items() if not name.endswith(".cu")}
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program),
        sources[f"{kernel}.cu"].encode(),
        f"{kernel}.cu".encode(),
        len(headers),
        texts,
        names,
    )
    try:
        options = (f"--gpu-architecture={architecture}", "--std=c++17", "-default-device")
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), encoded) != 0:
            raise JobError(f"the GPU kernel {kernel} did not compile: {_log(nvrtc, program)}")
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _log(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode(errors="replace")
