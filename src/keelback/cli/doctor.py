"""`keelback doctor`: what this installation has, whether its kernels compile, what it lacks."""

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keelback.cli.app import app, print_json
from keelback.cli.options import Json
from keelback.cli.progress import work_progress
from keelback.cli.terminal import console
from keelback.errors import JobError
from keelback.extras import EXTRAS, missing_of

PEERS = ("mamba_ssm", "causal_conv1d", "fla", "triton")

State = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what it is, how it stands, and what to do where it is not well.

    A check that is `failed` makes the command exit with 1; what is `missing` is optional.
    """

    name: str
    state: State
    found: str
    advice: str = ""


@app.command()
def doctor(
    json: Json = False,
) -> None:
    """Check this installation: versions, devices, kernels, caches, optional dependencies.

    Compiles and runs a scan, forward and backward, on each device that there is. Exits with 1 if
    something that should work does not.
    """
    with work_progress("doctor"):
        checks = list(examine())
    if json:
        print_json({"checks": [vars(check) for check in checks]})
    else:
        _show(checks)
    failed = [check.name for check in checks if check.state == "failed"]
    if failed:
        raise JobError(f"failed: {', '.join(failed)}")


def examine() -> Iterator[Check]:
    """Every check, in the order in which it is shown."""
    from keelback.sweeps.provenance import versions

    yield Check("python", "ok", f"{platform.python_version()} in {sys.prefix}")
    for name, version in versions().items():
        yield Check(name, "ok", version)
    yield _memory()
    yield _scan("cpu")
    yield _gpu()
    yield _cache("Numba's cache", _numba_cache)
    yield _cache("cache of GPU kernels", _cuda_cache)
    for extra, packages in EXTRAS.items():
        yield _extra(extra, packages)
    for name in PEERS:
        there: State = "missing" if importlib.util.find_spec(name) is None else "ok"
        yield Check(f"peer {name}", there, "installed" if there == "ok" else "absent")
    yield _delta_rules()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    yield Check("chromium (tests of pages)", "ok" if browser else "missing", browser or "absent")


def _delta_rules() -> Check:
    from keelback.integrations import who_computes_on_gpu

    return Check("kernels of delta rules on a GPU", "ok", who_computes_on_gpu())


def _memory() -> Check:
    import torch

    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Check(
        "processor",
        "ok",
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} threads, {pages * size / 2**30:.1f} GiB of memory free",
    )


def _scan(device: str) -> Check:
    """Scan a little, forward and backward, and compare with the reference."""
    import torch

    from keelback.scan import selective_scan

    name = f"scan on {device}"
    start = time.perf_counter()
    try:
        generator = torch.Generator().manual_seed(0)
        u, delta, B, C = (torch.randn(2, 40, 8, generator=generator) for _ in range(4))
        A = -torch.rand(8, 8, generator=generator)
        leaves = [x.to(device).requires_grad_() for x in (u, delta.abs(), A)]
        others = [x[:, :, None].to(device) for x in (B, C)]
        found = []
        for backend in (None, "reference"):
            y: Any = selective_scan(*leaves, *others, backend=backend)  # type: ignore[arg-type]
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
        apart = max(
            float((ours - theirs).abs().max() / theirs.abs().max())
            for ours, theirs in zip(*found, strict=True)
        )
    except Exception as error:
        return Check(name, "failed", f"{type(error).__name__}: {error}", "run with --debug")
    seconds = time.perf_counter() - start
    state: State = "ok" if apart < 1e-4 else "failed"
    return Check(name, state, f"{apart:.1e} from the reference, {seconds:.1f} s with compiling")


def _gpu() -> Check:
    import torch

    if torch.version.cuda is None:
        advice = "a CUDA build of PyTorch, if this machine has an NVIDIA GPU: https://pytorch.org"
        return Check("scan on cuda", "missing", "this build of PyTorch has no CUDA", advice)
    if not torch.cuda.is_available():
        return Check("scan on cuda", "missing", "PyTorch finds no NVIDIA GPU here")
    check = _scan("cuda")
    return Check(check.name, check.state, f"{torch.cuda.get_device_name()}: {check.found}")


def _numba_cache() -> Path:
    from numba.core import config

    chosen: str = config.CACHE_DIR  # type: ignore[attr-defined]
    return Path(chosen) if chosen else Path(__file__).parents[1] / "scan" / "cpu" / "__pycache__"


def _cuda_cache() -> Path:
    from keelback.compiled.nvrtc import cache_folder

    return cache_folder()


def _cache(name: str, where: Callable[[], Path]) -> Check:
    """Whether a cache's folder, or the first of its parents that exists, can be written to."""
    try:
        folder = where()
        there = next(one for one in (folder, *folder.parents) if one.exists())
        with tempfile.TemporaryFile(dir=there):
            return Check(name, "ok", str(folder))
    except (OSError, RuntimeError) as error:
        advice = "kernels are compiled anew in each process; set NUMBA_CACHE_DIR or XDG_CACHE_HOME"
        return Check(name, "missing", f"cannot be written: {error}", advice)


def _extra(extra: str, packages: tuple[str, ...]) -> Check:
    absent = missing_of(extra)
    if absent:
        advice = f'pip install "keelback[{extra}]"'
        return Check(f"extra {extra}", "missing", f"without {', '.join(absent)}", advice)
    return Check(f"extra {extra}", "ok", ", ".join(packages))


def _show(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "yellow", "failed": "bold red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        found = check.found + (f" - {check.advice}" if check.advice else "")
        table.add_row(
            Text(check.state, colours[check.state]), Text(check.name), Text(found, overflow="fold")
        )
    console(highlight=False).print(table)
