"""One scan over several parts by the CUDA source, compiled for the host, against float64 autograd.

Each part has a thread of this process, and the threads exchange what processes would.
"""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from cuda_cases import Case, make_operands, relative_error, tolerance
from host_kernels import COMPILER, host_kernel, run_on_host
from torch import Tensor

from keelback.compiled import across
from keelback.scan import _across, cuda, selective_scan
from keelback.scan._operands import Operands
from keelback.scan.cuda import launch
from keelback.scan.cuda.plan import BACKWARD, FORWARD
from keelback.scan.reference import selective_scan_reference

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

ALONG = ("u", "delta", "B", "C", "z", "reset")
SUMMED = ("A", "D", "delta_bias")
CASES = [
    (Case(length=200), (70, 33, 97)),
    (Case(length=200, channels=20, z=True, initial=True, reset=True), (97, 0, 1, 102)),
    (Case(length=150, channels=6, states=3, groups=2, shared_delta=True, initial=True), (75, 75)),
    (Case(length=130, channels=8, unstable=True, initial=True, reset=True), (40, 50, 40)),
    (Case(length=160, channels=5, states=1, D=False, bias=False, softplus=False), (64, 96)),
    (Case(length=150, dtype=torch.bfloat16, z=True, initial=True), (80, 70)),
    (Case(batch=1, length=120, channels=4, states=200, dtype=torch.float64), (50, 70)),
    (Case(length=3, channels=8, initial=True), (1, 1, 1)),
]


@dataclass(frozen=True)
class Process:
    """One of the threads, which stands for the group too."""

    rank: int
    letters: list[Tensor | None]
    barrier: threading.Barrier

    def all_gather(self, parts: list[Tensor], x: Tensor) -> None:
        self.letters[self.rank] = x.clone()
        self.barrier.wait()
        for part, letter in zip(parts, self.letters, strict=True):
            assert letter is not None
            part.copy_(letter)
        self.barrier.wait()


class Distributed:
    """Stands in for torch.distributed, where a group is a `Process`."""

    @staticmethod
    def get_rank(group: Process) -> int:
        return group.rank

    @staticmethod
    def get_world_size(group: Process) -> int:
        return len(group.letters)

    @staticmethod
    def all_gather(parts: list[Tensor], x: Tensor, group: Process) -> None:
        group.all_gather(parts, x)


class OneAtATime:
    """A host kernel that parts launch in turn: it keeps its threads' registers in one place."""

    lock = threading.Lock()

    def __init__(self, *what: Any) -> None:
        self._what = what

    def launch(self, *how: Any) -> None:
        with self.lock:
            host_kernel(*self._what).launch(*how)


@pytest.fixture(autouse=True)
def _on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    run_on_host(monkeypatch, processors=132, kernel=OneAtATime)
    monkeypatch.setattr(launch, "FORWARD", replace(FORWARD, min_span=20))
    monkeypatch.setattr(launch, "BACKWARD", replace(BACKWARD, min_span=20))
    for module in (_across, across):
        monkeypatch.setattr(module, "dist", Distributed)


def operands_of(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Without the axis of replicas."""
    arguments = make_operands(case, device)
    del arguments["delta_softplus"]
    return {name: None if x is None else x[0] for name, x in arguments.items()}


def scan_part(
    process: Process, operands: dict[str, Any], softplus: bool, dy: Tensor | None, dlast: Tensor
) -> dict[str, Tensor]:
    """What one process finds: output, last state, and gradients if there is one of the output."""
    given = {
        name: None if x is None else x.clone().requires_grad_(name != "reset")
        for name, x in operands.items()
    }
    y, last = _across._ScanAcross.apply(cuda, process, softplus, *Operands(**given))
    found = {"y": y.detach(), "last": last.detach()}
    if dy is not None:
        leaves = {n: x for n, x in given.items() if x is not None and n != "reset"}
        gradients = torch.autograd.grad([y, last], list(leaves.values()), [dy, dlast])
        found |= {f"d{name}": x for name, x in zip(leaves, gradients, strict=True)}
    return found


def scan_parts(
    operands: dict[str, Any],
    softplus: bool,
    parts: Sequence[int],
    dy: Tensor | None = None,
    dlast: Tensor | None = None,
) -> dict[str, Tensor]:
    """What all of them find, put together; all have the same last state."""
    letters: list[Tensor | None] = [None] * len(parts)
    barrier = threading.Barrier(len(parts), timeout=120)
    bounds = [sum(parts[:i]) for i in range(len(parts) + 1)]

    def run(rank: int) -> dict[str, Tensor]:
        own = slice(bounds[rank], bounds[rank + 1])
        cut = {
            name: x[:, own] if name in ALONG and x is not None else x
            for name, x in operands.items()
        }
        of_y = None if dy is None else dy[:, own]
        # The gradient of the last state, which all processes have, is shared out between them.
        of_last = None if dlast is None else dlast / len(parts)
        return scan_part(Process(rank, letters, barrier), cut, softplus, of_y, of_last)

    with ThreadPoolExecutor(len(parts)) as pool:
        of_parts = list(pool.map(run, range(len(parts))))
    together = {}
    for name in of_parts[0]:
        found = [of_part[name] for of_part in of_parts]
        if name.removeprefix("d") in (*ALONG, "y"):
            together[name] = torch.cat(found, 1)
        elif name.removeprefix("d") in SUMMED:
            together[name] = torch.stack(found).sum(0)
        else:
            for x, y in pairwise(found):
                torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
            together[name] = found[0]
    return together


def errors_of_parts(case: Case, parts: Sequence[int], device: str = "cpu") -> dict[str, float]:
    """Relative errors of the output, the last state and every gradient."""
    operands = operands_of(case, device)
    precise = {
        name: x.double().requires_grad_()
        for name, x in operands.items()
        if x is not None and name != "reset"
    }
    y, last = selective_scan_reference(**{**operands, **precise}, delta_softplus=case.softplus)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(device, case.dtype)
    dlast = torch.randn(last.shape, generator=generator).to(device, operands["A"].dtype)
    gradients = torch.autograd.grad(
        [y, last], list(precise.values()), [dy.double(), dlast.double()]
    )
    expected = {"y": y, "last": last}
    expected |= {f"d{name}": x for name, x in zip(precise, gradients, strict=True)}
    found = scan_parts(operands, case.softplus, parts, dy, dlast)
    assert found.keys() == expected.keys()
    return {name: relative_error(x, expected[name]) for name, x in found.items()}


@pytest.mark.parametrize(("case", "parts"), CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_whole(case: Case, parts: tuple[int, ...]) -> None:
    errors = errors_of_parts(case, parts)
    assert max(errors.values()) < tolerance(case), errors


def test_second_derivatives_are_refused() -> None:
    operands = operands_of(Case(length=10))
    leaves = [x.requires_grad_() for x in operands.values() if x is not None]
    process = Process(0, [None], threading.Barrier(1))
    y, _ = _across._ScanAcross.apply(cuda, process, True, *Operands(**operands))
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(y.sum(), leaves[:1], create_graph=True)


def test_parts_are_cut_into_spans_and_a_span_may_be_all() -> None:
    spans = []
    for length in (31, 97):
        operands = operands_of(Case(length=length))
        part = cuda.ForwardPart(Operands(**operands), True)
        spans.append(part._pass.plan.spans)
    assert spans == [1, 4]


def test_overflow_is_infinite_and_never_a_wrong_number() -> None:
    operands = operands_of(Case(length=130, channels=8, D=False, bias=False))
    for name in ("u", "delta", "A", "B", "C"):
        operands[name] = torch.ones_like(operands[name])
    found = scan_parts(operands, False, (65, 65))
    assert torch.isfinite(found["y"][:, :80]).all()
    assert torch.isinf(found["y"][:, 100:]).all()
    assert torch.isinf(found["last"]).all()


def test_nothing_grows_out_of_a_zero_state() -> None:
    operands = operands_of(Case(length=300, channels=8, D=False, bias=False))
    operands["A"] = torch.ones_like(operands["A"])
    operands["delta"] = torch.ones_like(operands["delta"])
    operands["u"] = torch.zeros_like(operands["u"])
    found = scan_parts(operands, False, (150, 150))
    assert not found["y"].any()
    assert not found["last"].any()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_later_parts_learn_of_what_is_not_finite_however_fast_it_decays(value: float) -> None:
    operands = operands_of(Case(length=200, channels=8, z=True))
    operands["A"] -= 100
    operands["u"][0, 20, 3] = value
    found = scan_parts(operands, True, (80, 60, 60))
    assert not torch.isfinite(found["y"][0, 20:, 3]).any()
    assert not torch.isfinite(found["last"][0, 3]).any()
    assert torch.isfinite(found["y"][0, :, :3]).all()
    assert torch.isfinite(found["y"][1]).all()


def test_a_reset_in_a_later_part_forgets_even_an_infinite_state() -> None:
    operands = operands_of(Case(length=150, channels=8, reset=True, initial=True))
    operands["reset"][:] = False
    operands["reset"][0, 110] = True
    operands["initial_state"][0] = math.inf
    found = scan_parts(operands, True, (70, 80))
    assert not torch.isfinite(found["y"][0, :110]).any()
    assert torch.isfinite(found["y"][0, 110:]).all()
    assert torch.isfinite(found["y"][1]).all()
    assert torch.isfinite(found["last"]).all()


def test_an_empty_batch() -> None:
    operands = operands_of(Case(batch=0, length=60, channels=8, initial=True))
    zero = torch.zeros(0, 60, 8)
    found = scan_parts(operands, True, (40, 20), zero, torch.zeros(0, 8, 16))
    assert found["y"].shape == zero.shape
    assert found["dinitial_state"].shape == (0, 8, 16)
    assert not found["dA"].any()


def test_one_part_alone_is_the_scan() -> None:
    operands = operands_of(Case(length=100, initial=True))
    found = scan_parts(operands, True, (100,))
    y, last = selective_scan(**operands, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(found["y"], y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["last"], last, rtol=1e-5, atol=1e-5)
