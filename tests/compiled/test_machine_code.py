"""Every GPU kernel compiled for four of NVIDIA's architectures by NVRTC, which needs no GPU.

What the kernels do is tested on the host (tests/scan_cuda and its kin) and on GPUs; here, that the
compiler of today's CUDA takes them, on machines that have nothing but a processor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import conv_cases
import conv_step_cases
import cuda_cases
import delta_cases
import delta_host
import host
import host_kernels
import norm_host
import pytest
import ssd_cases
import ssd_step_cases
import step_cases
import torch
from norm_cases import NormCase

from keelback.compiled import nvrtc
from keelback.compiled.cuda_card import Card
from keelback.compiled.cuda_driver import Compilable
from keelback.compiled.layouts import layouts_of, signature_of
from keelback.delta import cuda as delta_cuda
from keelback.delta._operands import Operands as DeltaOperands
from keelback.errors import JobError
from keelback.norm.cuda import launch as norm_launch
from keelback.ssd.cuda import step as ssd_step

F32, BF16 = torch.float32, torch.bfloat16
CARDS = {"sm_80": host.AMPERE, "sm_90a": host.HOPPER, "sm_120": host.DESKTOP}
#: Without matrix units for bfloat16; scans by heads and delta rules have no kernels there.
CARDS["sm_75"] = Card(processors=40, shared_bytes=64 << 10, multiplies=False)


@cache
def library() -> Any:
    """NVRTC of the newest CUDA that is installed."""
    for cuda in ("13", "12"):
        try:
            return nvrtc.library_of(cuda)
        except JobError:
            continue
    return None


pytestmark = pytest.mark.skipif(library() is None, reason="needs nvidia-cuda-nvrtc")


@dataclass
class Compiler:
    """Stands in for `keelback.compiled.cuda_driver.kernel`: kernels are compiled and never run."""

    architecture: str
    done: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, name: str, configuration: Compilable, device: int | None) -> "Compiler":
        header = configuration.header
        if (name, header) not in self.done:
            sources = {**nvrtc.kernel_sources(configuration.sources), "configuration.h": header}
            code = nvrtc._compile(library(), name, sources, self.architecture)
            assert code.startswith(b"\x7fELF")
            self.done.add((name, header))
        return self

    def launch(self, blocks: int, threads: int, arguments: bytes) -> None:
        """Leave the outputs as they were allocated."""


def scans() -> None:
    """Whole and in spans; a step."""
    for case in (cuda_cases.Case(), cuda_cases.Case(dtype=BF16, z=True, spans=3, length=200)):
        arguments = cuda_cases.make_operands(case)
        scan, given = cuda_cases.prepared(**arguments)
        y, last = cuda_cases.forward_pass(scan, given, case.spans)
        cuda_cases.backward_pass(scan, given, y, last, case.spans)
    for dtype in (F32, BF16):
        step_cases.run_step(**step_cases.make_step(dtype=dtype), delta_softplus=True, in_place=True)


def convolutions() -> None:
    for dtype in (F32, BF16):
        for case in (
            conv_cases.ConvCase(dtype=dtype, tap=dtype),
            conv_cases.ConvCase(dtype=dtype, biased=False, apart=True, channels=5),
        ):
            conv_cases.convolved(*case.operands(), True)
        conv_step_cases.advanced(*conv_step_cases.ConvStep(dtype=dtype).operands(), True)


def norms() -> None:
    """Of a head, and of all channels."""
    for case in (
        NormCase(channels=512, group_size=128, dtype=BF16, norm_before_gate=True),
        NormCase(channels=1536, dtype=BF16),
        NormCase(channels=1536),
    ):
        given, dy = case.operands()
        call = norm_launch.prepare(signature_of(given), case.options)
        assert isinstance(call, norm_launch.CudaNorm)
        _, scales = call.forward(given, True)
        call.backward((dy,), (scales,), given)


def scans_by_heads() -> None:
    small = ssd_cases.Case(dtype=BF16, length=300, initial=True)
    wide = replace(small, head_dim=64, state=64)
    for case in (small, wide, replace(wide, dtype=F32)):
        *operands, softplus, limits = ssd_cases.make_operands(case).values()
        arguments = (*operands, softplus, *limits)
        y, last = host.run_forward(*arguments)
        host.run_backward(y, last, *arguments)
        given = ssd_step_cases.make_step(dtype=case.dtype, states=case.state)
        ssd_step_cases.run_step(given, True)


def delta_rules() -> None:
    wide = delta_cases.Case(length=300, key=128, value=128, dtype=BF16, initial=True)
    for case in (wide, replace(wide, by_channel=True), replace(wide, key=64, dtype=F32)):
        given = delta_cases.make_operands(case)
        for name in delta_cases.DIFFERENTIABLE:
            given[name].requires_grad_()
        y, last = delta_host.delta_rule_by_kernels(**given)
        (y.sum() + last.sum()).backward()
    q, k, v, g, beta, states, *_ = given.values()
    operands = DeltaOperands(*(x[:, 0] for x in (q, k, v, g, beta)), states)
    call = delta_cuda.prepare_step(DeltaOperands(*layouts_of(signature_of(operands))), True, 1.0)
    assert call is not None
    call.forward(operands)


ROOMS: dict[str, Callable[[], None]] = {
    "keelback.scan.cuda": scans,
    "keelback.conv.cuda": convolutions,
    "keelback.norm.cuda": norms,
    "keelback.ssd.cuda": scans_by_heads,
    "keelback.delta.cuda": delta_rules,
}


CASES = [
    (room, architecture)
    for room in ROOMS
    for architecture, card in CARDS.items()
    if card.multiplies or room not in ("keelback.ssd.cuda", "keelback.delta.cuda")
]


@pytest.mark.parametrize(("room", "architecture"), CASES)
def test_the_compiler_takes_every_kernel(
    room: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, compiler = CARDS[architecture], Compiler(architecture)
    host.on_host(monkeypatch.setattr, card)
    delta_host.on_host(monkeypatch.setattr, card)
    monkeypatch.setattr(ssd_step, "processors_of", lambda device: card.processors)
    norm_host.on_host(monkeypatch.setattr, card.processors)
    host_kernels.run_on_host(monkeypatch, card.processors, compiler)
    ROOMS[room]()
    kernels = {name.removesuffix(".cu") for name in nvrtc.kernel_sources(room)}
    kernels = {name for name in kernels if "." not in name}
    expected = {name for name in kernels if card.wide or not name.endswith("_wide")}
    assert {name for name, _ in compiler.done} == expected
