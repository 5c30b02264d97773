"""The compiled scan across threads, forks, processes and places where nothing can be written."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from scan_cases import Case, outputs_and_gradients

from keelback.compiled import threads as _threads

LARGE = Case(batch=8, length=300, channels_per_group=32, optional=False)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch):
    def use(count: int) -> None:
        monkeypatch.setattr(_threads, "thread_count", lambda: count)

    return use


def as_bytes(results: dict) -> list[bytes]:
    return [x.numpy().tobytes() for x in results.values()]


@pytest.mark.parametrize("case", [LARGE, LARGE.like(channels_per_group=3), LARGE.like(batch=1)])
def test_the_number_of_threads_does_not_change_a_bit(case: Case, threads) -> None:
    threads(1)
    alone = as_bytes(outputs_and_gradients(case, None, torch.float32))
    threads(3)
    for _ in range(3):
        assert as_bytes(outputs_and_gradients(case, None, torch.float32)) == alone


def test_scans_from_several_threads_at_once(threads) -> None:
    threads(2)
    expected = as_bytes(outputs_and_gradients(LARGE, None, torch.float32))

    def scan(_: int) -> bool:
        return as_bytes(outputs_and_gradients(LARGE, None, torch.float32)) == expected

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(scan, range(12)))


def test_ranges_cover_everything_once_and_errors_come_out(threads) -> None:
    threads(3)
    seen = []
    _threads.run_ranges(lambda start, stop: seen.extend(range(start, stop)), 101, 1e6)
    assert sorted(seen) == list(range(101))

    def fail(start: int, stop: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _threads.run_ranges(fail, 10, 1e6)


def test_threads_honour_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert 1 <= _threads.thread_count() <= 64
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert _threads.thread_count() == 1


def run(program: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_forked_child_scans_too() -> None:
    run(
        """
        import os, torch
        from keelback.compiled import threads as _threads
        from keelback.scan import selective_scan
        _threads.thread_count = lambda: 2
        x = torch.randn(64, 200, 16)
        operands = x, x.abs(), -torch.rand(16, 4), x[..., None, :4], x[..., None, :4]
        expected = selective_scan(*operands)
        child = os.fork()
        if child == 0:  # PyTorch's own operations on many numbers hang here: compare by NumPy.
            scanned = selective_scan(*operands).numpy()
            os._exit(0 if (scanned == expected.numpy()).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
        """
    )


def test_importing_compiles_nothing_and_the_cache_serves_another_process(tmp_path: Path) -> None:
    program = """
        import torch
        import keelback.scan, keelback.scan.cpu.launch
        from numba.core import event
        with event.install_recorder("numba:compile") as compiled:
            from keelback.scan import selective_scan
            assert not compiled.buffer
            x = torch.zeros(1, 3, 4)
            selective_scan(x, x, x[0, 0, :, None], x[..., None, :1], x[..., None, :1])
        print(len(compiled.buffer))
        """
    first = int(run(program, NUMBA_CACHE_DIR=str(tmp_path)))
    second = int(run(program, NUMBA_CACHE_DIR=str(tmp_path)))
    assert first > 0
    assert second == 0


def test_without_a_place_for_the_cache_the_kernels_compile_all_the_same() -> None:
    run(
        """
        from numba.core import caching
        class Nowhere:
            @classmethod
            def from_function(cls, *_):
                return None
        caching.CacheImpl._locator_classes = [Nowhere]
        from keelback.compiled.jit import entry_kernel
        @entry_kernel
        def double(x):
            return 2 * x
        assert double(2) == 4
        """
    )


def test_the_annotations_hold() -> None:
    run(
        """
        from jaxtyping import install_import_hook
        scan = ["_api", "_attention", "_inner", "_mamba_ssm", "_step", "_switched", "reference"]
        rooms = [f"keelback.scan.{name}" for name in scan]
        rooms += [f"keelback.conv.{name}" for name in ("_api", "reference")]
        rooms += [f"keelback.norm.{name}" for name in ("_api", "reference")]
        install_import_hook(rooms, "beartype.beartype")
        import torch
        from keelback.scan import *
        x = torch.randn(2, 5, 4).requires_grad_()
        A, B, D = -torch.rand(4, 3), x[..., None, :3], torch.rand(4)
        for delta in (x, x[..., :1]):
            for backend in (None, "reference"):
                y, last = selective_scan(
                    x, delta, A, B, B, D, x, D, True, torch.zeros(2, 4, 3), True, backend=backend
                )
                y.sum().backward()
        from keelback.norm import gated_rms_norm
        for backend in (None, "reference"):
            gated_rms_norm(x, x, D, backend=backend)
            gated_rms_norm(x[0, 0], group_size=2, backend=backend)
        selective_scan(x[:1], delta[:1], A, B[:1], B[:1], cu_seqlens=torch.tensor([0, 2, 5]))
        selective_scan(x, delta, A, B, B, reset=torch.zeros(2, 5, dtype=torch.bool))
        selective_scan_step(last, x[:, 0], delta[:, 0], A, B[:, 0], B[:, 0])
        selective_scan_fn(x.mT, x.mT, A, B[:, :, 0].mT, A, return_last_state=True)
        selective_scan_fn(x.mT, x.mT, A, A, B.movedim(1, -1))
        with torch.no_grad():
            selective_state_update(last, x[:, 0], x[:, 0], A, B[:, 0, 0], B[:, 0, 0])
        attention_matrix(delta, A, B, B)
        weight = torch.randn(4, 3)
        y, last = causal_conv1d(x, weight, D, "silu", x[:, :2], True)
        causal_conv1d(x, weight, backend="reference")
        causal_conv1d_update(x[:, 0], x.mT.detach(), weight, D)
        causal_conv1d_update(x.mT, x.mT.detach(), weight, D)
        mamba_inner(x, x, weight, D, torch.randn(8, 4), torch.randn(4, 2), A, D, D).sum().backward()
        with torch.no_grad():
            mamba_inner(x, x, weight, D, torch.randn(8, 4), torch.randn(4, 2), A, D, D)
        """
    )
