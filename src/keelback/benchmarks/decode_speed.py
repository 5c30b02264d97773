"""One decoding step of a selective scan, or of one by heads, beside peers, for some batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.scan_cuda import medians
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_peers import load_peers
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.timing import interleaved_medians
from keelback.errors import InputError, JobError
from keelback.scan import selective_state_update

#: Steps of one timed run of the calls, whose cost is on a GPU then mostly the host's.
STEPS = {"cpu": 5, "cuda": 100}
#: Seconds of such runs in a row.
BURST = 0.03
#: Sizes of a step without heads.
_PLAIN = ("channels", "state")

Update = Callable[..., Tensor]


def _mamba_ssm() -> Update:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    theirs: Update = selective_state_update
    return theirs


def _transformers() -> Update:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_selective_state_update as update

    def theirs(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, *others: Any) -> Tensor:
        B, C, D, z, dt_bias, softplus = others
        named = {"z": z, "dt_bias": dt_bias, "dt_softplus": softplus}  # mamba-ssm's order differs.
        y: Tensor = update(state, x, dt, A, B, C, D, **named)
        return y

    return theirs


@dataclass(frozen=True)
class DecodeShape:
    """The sizes of a step but for the batch; where there are heads, these share out the channels.

    Raises:
        InputError: The channels cannot be shared out, or the heads among the groups.
    """

    channels: int
    state: int
    heads: int | None = None
    groups: int = 1

    def __post_init__(self) -> None:
        if self.heads is None:
            if self.groups > 1:
                raise InputError("--groups needs --heads: without heads there is one group")
        elif self.channels % self.heads or self.heads % self.groups:
            raise InputError(
                f"channels, heads and groups are {self.channels}, {self.heads} and {self.groups}; "
                "each should be a multiple of the next"
            )

    @property
    def of_channels(self) -> tuple[int, ...]:
        """The axes of the channels."""
        return (self.channels,) if self.heads is None else (self.heads, self.channels // self.heads)


def _peers(required: Sequence[str], by_heads: bool, device: str) -> dict[str, Update]:
    """The peers that are installed.

    transformers' own step is by heads, and on a GPU mamba-ssm's where that is installed.
    """
    own = {"transformers": _transformers} if by_heads and device == "cpu" else {}
    loaders = {"mamba_ssm": _mamba_ssm, **own}
    for name in required:
        if name not in loaders:
            raise InputError(f"peer is {name!r}; it should be {' or '.join(loaders)}")
    return load_peers(loaders, required)


def _operands(shape: DecodeShape, batch: int, dtype: torch.dtype, device: str) -> list[Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    channels, state = shape.of_channels, shape.state
    x, z = (normal(batch, *channels, dtype=dtype) for _ in range(2))
    if shape.heads is None:
        dt, A = normal(batch, *channels, dtype=dtype), -normal(*channels, state).abs() - 0.1
        B, C = (normal(batch, state, dtype=dtype) for _ in range(2))
        return [x, dt, A, B, C, normal(*channels), z, normal(*channels), True]
    heads, head_dim = channels
    B, C = (normal(batch, shape.groups, state, dtype=dtype) for _ in range(2))
    D, dt_bias = (normal(heads, 1).expand(channels) for _ in range(2))
    dt = normal(batch, heads, 1, dtype=dtype).expand(-1, -1, head_dim)
    A = (-normal(heads, 1, 1).abs() - 0.1).expand(-1, head_dim, state)
    return [x, dt, A, B, C, D, z, dt_bias, True]


def _steps(
    update: Update, state: Tensor, operands: Sequence[Any], count: int
) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for _ in range(count):
                update(state, *operands)

    return run


def benchmark(
    batches: Sequence[int],
    device: str,
    dtype: str,
    repeats: int,
    shape: DecodeShape,
    required: Sequence[str] = (),
) -> Benchmark:
    """Time `selective_state_update` and its peers, with gate, skip, bias and softplus.

    Peers that are not installed are left out, unless they are required. Its result has for each
    batch a row of the pass "call", the time of a call when many follow each other; on a GPU before
    it one of the pass "kernel", the time on the GPU alone with cold caches. Measuring raises a
    JobError where a peer's output is not ours.

    Raises:
        InputError: The dtype or a required peer is unknown, or a required one is not installed.
    """
    stored = dtype_named(dtype)
    if stored == torch.float64:
        raise InputError("dtype is 'float64'; it should be one of float32, bfloat16, float16")
    peers = _peers(required, shape.heads is not None, device)
    passes = ("call",) if device == "cpu" else ("kernel", "call")
    groups = [
        Group(
            {f"{pass_} at batch {batch}": pass_ for pass_ in passes},
            partial(_rows, batch, device, stored, repeats, shape, peers),
        )
        for batch in batches
    ]
    return Benchmark(groups, about={"versions": versions()})


def _rows(
    batch: int,
    device: str,
    stored: torch.dtype,
    repeats: int,
    shape: DecodeShape,
    peers: Mapping[str, Update],
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    sizes = {name: size for name, size in asdict(shape).items() if shape.heads or name in _PLAIN}
    operands = _operands(shape, batch, stored, device)
    updates: dict[str, Update] = {"ours": selective_state_update, **peers}
    states = {
        name: torch.zeros(batch, *shape.of_channels, shape.state, device=device) for name in updates
    }
    outputs = [update(states[name], *operands) for name, update in updates.items()]
    if any((outputs[0] - y).norm() > 1e-2 * outputs[0].norm() for y in outputs):
        raise JobError(f"the steps of {', '.join(updates)} differ at batch {batch}")
    for pass_ in passes:
        steps = STEPS[device] if pass_ == "call" else 1
        runs = {name: _steps(f, states[name], operands, steps) for name, f in updates.items()}
        if pass_ == "call":
            of_runs = interleaved_medians(runs, device, repeats, BURST)
            found = {name: total / steps for name, total in of_runs.items()}
        else:
            found = medians(runs, repeats)
        ours_ms = found.pop("ours")
        row = {
            "batch": batch,
            "length": 1,
            **sizes,
            "dtype": str(stored).removeprefix("torch."),
            "pass": pass_,
            "ours_ms": ours_ms,
            "peers": found,
        }
        yield {**row, **({"ratio": min(found.values()) / ours_ms} if found else {})}
