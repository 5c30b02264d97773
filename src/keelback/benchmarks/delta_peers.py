"""Other ways to run a delta rule from PyTorch, each in the layout that it likes best."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keelback.benchmarks.scan_peers import Call, head_sizes, load_peers
from keelback.delta import delta_rule, delta_rule_step
from keelback.errors import InputError

DECAYS = ("head", "channel")


@dataclass(frozen=True)
class DeltaShape:
    """The sizes of a delta rule."""

    batch: int
    length: int
    heads: int
    key: int
    value: int
    groups: int

    def __str__(self) -> str:
        return ",".join(map(str, astuple(self)))

    @property
    def numbers(self) -> int:
        """How many numbers the operands, the output and the last state have."""
        a_step = 2 * self.groups * self.key + 2 * self.heads * (self.value + 1)
        return self.batch * (self.length * a_step + self.heads * self.key * self.value)

    @classmethod
    def parse(cls, text: str) -> "DeltaShape":
        """From "batch,length,heads,key,value,groups".

        Raises:
            InputError: It is not that.
        """
        return cls(*head_sizes(text, "batch,length,heads,key,value,groups"))


class DeltaInputs(NamedTuple):
    """Operands of `delta_rule` that are differentiated; queries and keys are to be normalised."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor


def make_inputs(
    shape: DeltaShape, decay: str, device: str, dtype: torch.dtype
) -> tuple[DeltaInputs, Tensor]:
    """Random operands, with decays as layers begin with, and the gradient of the output."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    rows = (shape.batch, shape.length)
    keys = (*rows, shape.groups, shape.key)
    channels = (shape.key,) if decay == "channel" else ()
    values = (*rows, shape.heads, shape.value)
    inputs = DeltaInputs(
        q=normal(*keys),
        k=normal(*keys),
        v=normal(*values),
        g=-uniform(*rows, shape.heads, *channels).square(),
        beta=uniform(*rows, shape.heads).to(dtype),
    )
    return inputs, normal(*values)


class Way(NamedTuple):
    """A delta rule with normalised queries and keys, and a step of it.

    Attributes:
        rule: From q, k, v, g and beta the output.
        step: From the states before, and q, k, v, g and beta of one position (with an axis of one
            step), the output there and the states after it.
        grouped: Whether it takes q and k of groups of heads; if not, they are repeated before.
    """

    rule: Callable[..., Tensor]
    step: Callable[..., tuple[Tensor, Tensor]]
    grouped: bool = True

    def call(self, inputs: DeltaInputs, dy: Tensor) -> Call:
        """The rule on these operands."""
        given = inputs
        if not self.grouped:
            repeats = inputs.v.shape[2] // inputs.k.shape[2]
            q, k = (x.repeat_interleave(repeats, dim=2) for x in inputs[:2])
            given = inputs._replace(q=q, k=k)
        return Call(tuple(given), dy, self.rule)


def _rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    g, beta = _in_dtype(q, g, beta)
    y = delta_rule(q, k, v, g, beta, normalise=True)
    assert isinstance(y, Tensor)
    return y


def _step(states: Tensor, *now: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v, g, beta = (x.squeeze(1) for x in now)
    g, beta = _in_dtype(q, g, beta)
    y, states = delta_rule_step(states, q, k, v, g, beta, normalise=True)
    return y.unsqueeze(1), states


def _in_dtype(q: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """float64 has to be in all operands; other dtypes may differ."""
    return tuple(x.double() if q.dtype == torch.float64 else x for x in others)


#: This package.
OURS = Way(_rule, _step)


def _of(rule: Callable[..., Any], step: Callable[..., Any], grouped: bool) -> Way:
    """From functions of flash-linear-attention's signature."""

    def whole(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        y: Tensor = rule(q, k, v, g=g, beta=beta, use_qk_l2norm_in_kernel=True)[0]
        return y

    def one(states: Tensor, *now: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, g, beta = now
        y, after = step(
            q,
            k,
            v,
            g=g,
            beta=beta,
            initial_state=states,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        return y, after

    return Way(whole, one, grouped)


def _transformers_by_head() -> Way:
    from transformers.models.qwen3_next import modeling_qwen3_next as module

    return _of(
        inspect.unwrap(module.torch_chunk_gated_delta_rule),
        inspect.unwrap(module.torch_recurrent_gated_delta_rule),
        grouped="repeat_interleave" in inspect.getsource(module.torch_chunk_gated_delta_rule),
    )


def _transformers_by_channel() -> Way:
    from transformers.models.kimi_linear import modeling_kimi_linear as module

    return _of(
        inspect.unwrap(module.chunk_kimi_delta_attention),
        inspect.unwrap(module.recurrent_kimi_delta_attention),
        grouped=False,
    )


def _fla_by_head() -> Way:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

    return _of(chunk_gated_delta_rule, fused_recurrent_gated_delta_rule, grouped=False)


def _fla_by_channel() -> Way:
    from fla.ops.kda import chunk_kda, fused_recurrent_kda

    return _of(chunk_kda, fused_recurrent_kda, grouped=False)


#: By what has a decay of its own. That of transformers is its path without other packages.
LOADERS: dict[str, dict[str, Callable[[], Way]]] = {
    "head": {"transformers": _transformers_by_head, "fla": _fla_by_head},
    "channel": {"transformers": _transformers_by_channel, "fla": _fla_by_channel},
}


def ways_of(decay: str, device: str, required: Sequence[str]) -> dict[str, Way]:
    """Ours and those of the peers that are installed; fla is for a GPU.

    Raises:
        InputError: The decay or a required peer is unknown.
        JobError: A required peer is not installed.
    """
    if decay not in DECAYS:
        raise InputError(f"decay is {decay!r}; it should be one of {', '.join(DECAYS)}")
    loaders = dict(LOADERS[decay])
    if device == "cpu":
        del loaders["fla"]
    for name in required:
        if name not in loaders:
            known = ", ".join(loaders)
            raise InputError(f"peer is {name!r}; on {device} it should be one of {known}")
    return {"ours": OURS, **load_peers(loaders, required)}
