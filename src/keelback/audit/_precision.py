"""How a model's output moves when weights and activations are kept in half precision."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from keelback.audit._inputs import Inputs, are_tokens, call, floating_output
from keelback.audit._losses import LanguageModel
from keelback.audit._parameters import is_split, offload_hooks

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class PrecisionEffect:
    """What storing weights and every module's output in a half type does to the output.

    Attributes:
        largest_change: of an output entry, relative to the largest output entry.
        divergence: mean Kullback-Leibler divergence of the predicted distributions, in nats.
        agreement: share of positions at which the most likely token stays the same.
        headroom: largest value of the type over the largest activation; below 1 overflows.
        overflow_module: the first module whose output is not finite, if any.
        overflow_position: the first such position.

    Examples:
        >>> effect = PrecisionEffect("bfloat16", 0.02, 1e-4, 0.99, 1e30, None, None)
        >>> effect.agreement  # share of positions whose most likely token stays the same
        0.99
    """

    precision: str
    largest_change: float
    divergence: float
    agreement: float
    headroom: float
    overflow_module: str | None
    overflow_position: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@torch.no_grad()
def precision_effects(
    model: nn.Module, inputs: Int[Tensor, "batch length"] | Inputs
) -> list[PrecisionEffect]:
    """Run the model as it is and rounded to each half type, on the same tokens or other inputs.

    Rounding is emulated: weights and each module's outputs are rounded to the type and computed
    with in the model's own, as hardware does that multiplies in half precision and accumulates in
    single. What a layer computes between its modules, the scan above all, stays as it is, as it
    does in the kernels of mamba_ssm. No second copy of the model is made.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16).build()
        >>> effects = precision_effects(model, torch.randint(256, (1, 32)))
        >>> [effect.precision for effect in effects]
        ['bfloat16', 'float16']
    """
    largest = _Largest()
    with _on_outputs(model, largest.see):
        exact = _output(model, inputs)
    effects = []
    for name, dtype in PRECISIONS.items():
        overflow = _FirstOverflow()
        with _rounded_weights(model, dtype), _on_outputs(model, _rounding(dtype, overflow)):
            rounded = _output(model, inputs)
        effects.append(_effect(name, exact, rounded, largest.value, dtype, overflow))
    return effects


def _output(model: nn.Module, inputs: Tensor | Inputs) -> Tensor:
    if isinstance(inputs, Tensor) and are_tokens(inputs):
        return LanguageModel(model).logits(inputs).float()
    return floating_output(call(model, inputs)).float()


def _effect(
    name: str,
    exact: Tensor,
    rounded: Tensor,
    largest: float,
    dtype: torch.dtype,
    overflow: "_FirstOverflow",
) -> PrecisionEffect:
    change = float((rounded - exact).abs().max() / exact.abs().max().clamp_min(1e-30))
    divergence = F.kl_div(
        rounded.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    agreement = (rounded.argmax(-1) == exact.argmax(-1)).float().mean()
    return PrecisionEffect(
        precision=name,
        largest_change=change,
        divergence=float(divergence.mean()),
        agreement=float(agreement),
        headroom=torch.finfo(dtype).max / max(largest, 1e-30),
        overflow_module=overflow.module,
        overflow_position=overflow.position,
    )


class _Largest:
    """The largest absolute activation of any module."""

    def __init__(self) -> None:
        self.value = 0.0

    def see(self, name: str, output: Tensor) -> Tensor:
        self.value = max(self.value, float(output.abs().max()))
        return output


class _FirstOverflow:
    """The first module with an output that is not finite, and where in the sequence."""

    def __init__(self) -> None:
        self.module: str | None = None
        self.position: int | None = None

    def see(self, name: str, output: Tensor) -> None:
        if self.module is not None or bool(torch.isfinite(output.sum())):
            return
        finite = torch.isfinite(output)
        if not bool(finite.all()):
            self.module = name
            if output.ndim == 3:
                self.position = int((~finite.all(-1).all(0)).nonzero()[0])


def _rounding(dtype: torch.dtype, overflow: _FirstOverflow) -> Callable[[str, Tensor], Tensor]:
    def apply(name: str, output: Tensor) -> Tensor:
        rounded = output.to(dtype).to(output.dtype)
        overflow.see(name, rounded)
        return rounded

    return apply


@contextmanager
def _on_outputs(model: nn.Module, apply: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Pass the floating tensors that each module gives through `apply`."""

    def hook(name: str) -> Callable[..., Any]:
        def change(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return apply(name, output) if output.is_floating_point() else output
            if isinstance(output, tuple):
                return tuple(change(module, args, part) for part in output)
            return output

        return change

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _rounded_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Weights rounded while their module runs, and put back after it, one block at a time."""
    with ExitStack() as stack:
        units = list(_units(model))
        gathering = [m for m in model.modules() if _gathers_weights(m) and m not in units]
        for unit in [*units, *gathering]:
            stack.enter_context(_rounded_while_running(unit, dtype))
        for module in model.modules():
            for hook in offload_hooks(module):
                own, hook.weights_map = hook.weights_map, _Rounded(hook.weights_map, dtype)
                stack.callback(setattr, hook, "weights_map", own)
        yield


class _Rounded(Mapping[str, Tensor]):
    """Weights that are fetched when their module runs, rounded."""

    def __init__(self, under: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._under, self._dtype = under, dtype

    def __getitem__(self, name: str) -> Tensor:
        value = self._under[name]
        return value.to(self._dtype).to(value.dtype) if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._under)

    def __len__(self) -> int:
        return len(self._under)


def _gathers_weights(module: nn.Module) -> bool:
    """Whether FSDP2 brings the module's weights together when it runs; they are parts till then."""
    return any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of every module list, and outside of them each module with weights of its own."""
    inside: set[int] = set()
    for module in model.modules():
        if id(module) in inside:
            continue
        children = list(module.children()) if isinstance(module, nn.ModuleList) else []
        own = any(True for _ in module.parameters(recurse=False))
        for unit in children or ([module] if own else []):
            if id(unit) not in inside:
                inside.update(id(part) for part in unit.modules())
                yield unit


@contextmanager
def _rounded_while_running(unit: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    kept: list[tuple[nn.Parameter, Tensor]] = []

    def before(module: nn.Module, args: Any) -> None:
        for parameter in unit.parameters():
            away = parameter.is_meta or is_split(parameter)
            if parameter.is_floating_point() and not away:
                kept.append((parameter, parameter.data))
                parameter.data = parameter.data.to(dtype).to(parameter.dtype)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        for parameter, data in kept:
            parameter.data = data
        kept.clear()

    handles = [
        unit.register_forward_pre_hook(before),
        unit.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        after(unit, (), None)
