"""Microseconds of a call, as a user sees them, on inputs so small that they are the host's.

Calls follow each other without a pause; on a GPU that is the time which the host takes to enqueue
one, as long as the kernels are shorter. Replays of CUDA graphs take so little that they may be
bound by the kernels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks import scan_peers, ssd_peers
from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.scan_inputs import ScanSize, dtype_named, make_inputs
from keelback.benchmarks.scan_peers import Call, leave_out_what_fails
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.ssd_peers import SsdShape
from keelback.benchmarks.ssd_speed import captured
from keelback.benchmarks.timing import interleaved_medians
from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.errors import InputError, JobError
from keelback.norm import gated_rms_norm
from keelback.scan import selective_state_update

PASSES = ("forward without graph", "forward with graph", "forward+backward")
#: On a GPU also: a CUDA graph of a call without gradients, and the call in `torch.compile` with
#: `mode="reduce-overhead"`, which makes a CUDA graph by itself.
REPLAYED, COMPILED = "forward, replayed CUDA graph", "forward, compiled, reduced overhead"
#: Kernels are short on these.
SHAPES = {"cpu": ScanSize(1, 16, 16, 4), "cuda": ScanSize(16, 256, 96, 8)}
PEERS = ("mamba_ssm", "causal_conv1d")
#: Seconds of calls in a row.
BURST = 0.05
_WIDTH = 4
#: Numbers of a head of a Mamba-2, at most.
HEAD_DIM = 64

Function = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A call of ours, and those of peers, each on tensors in the layout that it likes best."""

    ours: Call
    peers: Mapping[str, Callable[[], Call]]


def _scan(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    inputs = make_inputs(shape, device, dtype)
    peers = {"mamba_ssm": partial(scan_peers.mamba_ssm, inputs)} if device == "cuda" else {}
    return Case(scan_peers.keelback(inputs), peers)


def _normal(device: str, seed: int, *size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator).to(device, dtype)


def _convolution(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    normal = partial(_normal, device, dtype=dtype)
    x = normal(0, shape.batch, shape.length, shape.channels)
    weight, bias = normal(1, shape.channels, _WIDTH), normal(2, shape.channels)
    dy = normal(3, *x.shape)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return causal_conv1d(x, weight, bias, "silu")

    def package() -> Call:
        from causal_conv1d import causal_conv1d_fn

        def run(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
            return causal_conv1d_fn(x, weight, bias, activation="silu").mT

        return Call((x.mT.contiguous(), weight, bias), dy, run)

    return Case(Call((x, weight, bias), dy, run), {"causal_conv1d": package})


def _gated_norm(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    """With the gate first, as Mamba-2 has it."""
    normal = partial(_normal, device, dtype=dtype)
    size = (shape.batch, shape.length, shape.channels)
    x, gate, dy, weight = normal(0, *size), normal(1, *size), normal(2, *size), normal(3, size[-1])

    def package() -> Call:
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

        def run(x: Tensor, gate: Tensor, weight: Tensor) -> Any:
            return rmsnorm_fn(x, weight, None, gate, eps=1e-5, norm_before_gate=False)

        return Call((x, gate, weight), dy, run)

    peers = {"mamba_ssm": package} if device == "cuda" else {}
    return Case(Call((x, gate, weight), dy, gated_rms_norm), peers)


def _step(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    normal, real = partial(_normal, device, dtype=dtype), torch.promote_types(dtype, torch.float32)
    batch, channels, states = shape.batch, shape.channels, shape.state
    u, delta, B, C = (
        normal(seed, batch, size) for seed, size in enumerate((channels, channels, states, states))
    )
    state = torch.zeros(batch, channels, states, device=device, dtype=real)
    A, D = -_normal(device, 4, channels, states, dtype=real).abs(), normal(5, channels).to(real)
    bias = normal(6, channels).to(real)

    def called(update: Function) -> Call:
        """With a bias, as Mamba has it: without one mamba-ssm 2.3.2's raises."""

        def run(*operands: Tensor) -> Any:
            *given, bias = operands
            return update(*given, dt_bias=bias, dt_softplus=True)

        return Call((state.clone(), u, delta, A, B, C, D, bias), u, run)

    def mamba_ssm() -> Call:
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update as theirs

        return called(theirs)

    return Case(called(selective_state_update), {"mamba_ssm": mamba_ssm})


def _convolution_step(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    normal = partial(_normal, device, dtype=dtype)
    x, weight = normal(0, shape.batch, shape.channels), normal(1, shape.channels, _WIDTH)
    state = normal(2, shape.batch, shape.channels, _WIDTH)

    def called(update: Function) -> Call:
        def run(x: Tensor, state: Tensor, weight: Tensor) -> Any:
            return update(x, state, weight, activation="silu")

        return Call((x, state.clone(), weight), x, run)

    def package() -> Call:
        from causal_conv1d import causal_conv1d_update as theirs

        return called(theirs)

    return Case(called(causal_conv1d_update), {"causal_conv1d": package})


def _scan_by_heads(shape: ScanSize, device: str, dtype: torch.dtype) -> Case:
    """The channels as heads of 64 or, where these do not divide them, of as many as do."""
    head_dim = math.gcd(shape.channels, HEAD_DIM)
    heads = shape.channels // head_dim
    sizes = SsdShape(shape.batch, shape.length, heads, head_dim, shape.state, 1)
    inputs = ssd_peers.make_inputs(sizes, device, dtype)
    loaders = ssd_peers.LOADERS[device]
    peers = {
        name: partial(_peer_by_heads, loaders[name], inputs) for name in loaders if name in PEERS
    }
    return Case(ssd_peers.keelback(inputs), peers)


def _peer_by_heads(load: Callable[[], ssd_peers.SsdPeer], inputs: ssd_peers.SsdInputs) -> Call:
    return load()(inputs)


#: What is timed, by name. Another operator adds a line.
OPERATORS: dict[str, Callable[[ScanSize, str, torch.dtype], Case]] = {
    "selective_scan": _scan,
    "ssd": _scan_by_heads,
    "causal_conv1d": _convolution,
    "gated_rms_norm": _gated_norm,
    "selective_state_update": _step,
    "causal_conv1d_update": _convolution_step,
}
#: The operators of one step, which have no gradients.
STEPS = ("selective_state_update", "causal_conv1d_update")


def benchmark(
    operators: Sequence[str],
    shape: ScanSize,
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
) -> Benchmark:
    """Time calls of operators beside their peers, in one process, bursts interleaved.

    Its result has one row for each operator and pass, with `ours_us`, `peers` (microseconds by
    name) and `ratio`, the time of the fastest peer over ours (absent if there is no peer).
    Measuring raises an InputError where a required peer is not installed, and a JobError where a
    peer's output is not ours.

    Raises:
        InputError: An operator, a required peer or the dtype is unknown.
    """
    for peer in required:
        if peer not in PEERS:
            raise InputError(f"peer is {peer!r}; it should be one of {', '.join(PEERS)}")
    for name in operators:
        if name not in OPERATORS:
            known = ", ".join(OPERATORS)
            raise InputError(f"operator is {name!r}; it should be one of {known}")
    stored = dtype_named(dtype)
    further = (REPLAYED, COMPILED) if device == "cuda" else ()
    groups = [
        Group(
            {
                f"{pass_} of {name}": pass_
                for pass_ in ((PASSES[:1] if name in STEPS else PASSES) + further)
            },
            partial(_rows, name, shape, device, stored, repeats, required),
        )
        for name in operators
    ]
    return Benchmark(groups, about={"versions": versions()})


def _rows(
    name: str,
    shape: ScanSize,
    device: str,
    stored: torch.dtype,
    repeats: int,
    required: Sequence[str],
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    case = OPERATORS[name](shape, device, stored)
    ways = {"ours": case.ours, **scan_peers.load_peers(case.peers, required)}
    forward = {way: one.forward for way, one in ways.items()}
    refused = leave_out_what_fails(forward, name)
    for peer in required:
        if f"{peer}, {name}" in refused:
            raise JobError(f"the {name} of {peer} raises: {refused[f'{peer}, {name}']}")
    _require_same(name, forward)
    for pass_ in passes:
        calls = {way: call_of(ways[way], pass_) for way in forward}
        if pass_ not in PASSES:
            leave_out_what_fails(calls, f"{name}, {pass_}")
        found = interleaved_medians(calls, device, repeats, BURST)
        times = {way: 1e3 * milliseconds for way, milliseconds in found.items()}
        ours = times.pop("ours")
        row = {
            "operator": name,
            "batch": shape.batch,
            "length": 1 if name in STEPS else shape.length,
            "channels": shape.channels,
            "state": shape.state,
            "dtype": str(stored).removeprefix("torch."),
            "pass": pass_,
            "ours_us": ours,
            "peers": times,
        }
        yield {**row, **({"ratio": min(times.values()) / ours} if times else {})}


def _require_same(name: str, ways: Mapping[str, Callable[[], Any]]) -> None:
    found = {way: run().double() for way, run in ways.items()}
    ours = found["ours"]
    for way, y in found.items():
        if (y - ours).norm() > 2e-2 * ours.norm():
            raise JobError(f"the {name} of {way} differs from ours")


def call_of(one: Call, pass_: str) -> Callable[[], object]:
    """What is timed of a pass."""
    if pass_ == PASSES[0]:
        return one.forward
    if pass_ == REPLAYED:
        return _replayed(one.forward)
    if pass_ == COMPILED:
        return replace(one, run=torch.compile(one.run, mode="reduce-overhead")).forward
    leaves = tuple(x.detach().requires_grad_() for x in one.leaves)
    if pass_ == PASSES[1]:
        return lambda: one.run(*leaves)
    return lambda: torch.autograd.grad(one.run(*leaves), leaves, one.dy)


def _replayed(run: Callable[[], object]) -> Callable[[], object]:
    """The replay of a call, which is captured the first time."""
    graph = cache(partial(captured, run, 1))
    return lambda: graph().replay()
