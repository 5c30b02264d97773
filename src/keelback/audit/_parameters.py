"""A model's parameters by name, wherever their values are: in memory, on disk, or spread out.

A model that accelerate has placed (`device_map`, `cpu_offload`, `disk_offload`) holds empty tensors
on the meta device outside of its forward pass, and the values in a map; one that FSDP2 or tensor
parallelism has split holds DTensors, of which each process has a part. DeepSpeed splits parameters
in a way of its own (ZeRO 3), and keeps its optimizer's copies of them beside (ZeRO 1 to 3).
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Parameters:
    """The values of a model's parameters.

    Where these are split over processes, every process must ask for the same ones in the same
    order.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._offloaded = dict(_offloaded(model))

    @property
    def are_elsewhere(self) -> bool:
        """Whether some are not in memory."""
        return bool(self._offloaded)

    def own(self, name: str) -> nn.Parameter:
        """The parameter `name` as the model holds it, wherever its values are.

        Raises:
            AttributeError: there is none of this name.
        """
        return self._model.get_parameter(name)

    def is_shared(self, name: str) -> bool:
        """Whether several modules have the parameter `name` as their own, such as tied layers."""
        own = self.own(name)
        held = (x for module in self._model.modules() for x in module._parameters.values())
        return sum(x is own for x in held) > 1

    def value(self, name: str) -> Tensor:
        """The whole parameter `name`, detached."""
        parameter = self._model.get_parameter(name).detach()
        if name in self._offloaded:
            hook, local = self._offloaded[name]
            value: Tensor = hook.weights_map[local]
            return value.detach().to(parameter.dtype)
        own = self._model.get_parameter(name)
        if is_partitioned(own):
            with _gathered(own):
                return own.detach().clone()
        return whole(parameter)

    def replace(self, name: str, value: Tensor) -> None:
        """Give the parameter `name` another value of the same shape, rounded to its own type."""
        parameter = self._model.get_parameter(name)
        if name in self._offloaded:
            hook, local = self._offloaded[name]
            if not isinstance(hook.weights_map, Overlaid):
                hook.weights_map = Overlaid(hook.weights_map)
            hook.weights_map.over[local] = value.detach().to("cpu", parameter.dtype).clone()
            return
        value = value.detach().to(parameter.dtype)
        with torch.no_grad(), _gathered(parameter, changed=True):
            parameter.copy_(placed_like(value, parameter))
        _tell_optimizer_of_deepspeed(parameter, value)

    @contextmanager
    def present(self, prefix: str = "") -> Iterator[None]:
        """Within the block, the module named `prefix` has its parameters whole and in memory."""
        start = f"{prefix}." if prefix else ""
        with ExitStack() as stack:
            module = self._model.get_submodule(prefix)
            for local, parameter in list(module.named_parameters()):
                name = start + local
                away = parameter.is_meta and name in self._offloaded
                if is_partitioned(parameter):  # DeepSpeed's own hooks want its own parameters
                    stack.enter_context(_gathered(parameter))
                elif away or is_split(parameter):
                    value = nn.Parameter(self.value(name), requires_grad=False)
                    if away:
                        value = nn.Parameter(
                            value.to(self._offloaded[name][0].execution_device), requires_grad=False
                        )
                    stack.enter_context(_swapped(module, local, value))
            yield


@contextmanager
def _swapped(module: nn.Module, name: str, value: Tensor) -> Iterator[None]:
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    own = owner._parameters[last]
    owner._parameters[last] = value  # type: ignore[assignment]
    try:
        yield
    finally:
        owner._parameters[last] = own


class Overlaid(Mapping[str, Tensor]):
    """A map of weights with some of them replaced."""

    def __init__(self, under: Mapping[str, Tensor]) -> None:
        self.under = under
        self.over: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.over[name] if name in self.over else self.under[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.under)

    def __len__(self) -> int:
        return len(self.under)


def _offloaded(model: nn.Module) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Full names of parameters that accelerate has put away, with the hook that fetches each."""
    for path, module in model.named_modules():
        for hook in offload_hooks(module):
            start = f"{path}." if path else ""
            for name, _ in module.named_parameters(recurse=hook.place_submodules):
                yield start + name, (hook, name)


def offload_hooks(module: nn.Module) -> list[Any]:
    """Accelerate's hooks that fetch the module's weights when it runs."""
    hook = getattr(module, "_hf_hook", None)
    every = getattr(hook, "hooks", [hook])
    return [one for one in every if getattr(one, "offload", False) and one.weights_map is not None]


def is_split(tensor: Tensor) -> bool:
    """Whether the tensor is spread over several processes (a DTensor)."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")


def is_partitioned(parameter: Tensor) -> bool:
    """Whether DeepSpeed keeps a part of the parameter on each process (ZeRO 3)."""
    return hasattr(parameter, "ds_id") and hasattr(parameter, "ds_tensor")


def _gathered(parameter: nn.Parameter, changed: bool = False) -> AbstractContextManager[object]:
    """Within the block, a parameter that DeepSpeed has parted is whole on every process.

    Where it is `changed`, the first process has the say.
    """
    if not is_partitioned(parameter) or (_is_gathered(parameter) and not changed):
        return nullcontext()
    gather: Any = sys.modules["deepspeed"].zero.GatheredParameters
    whole_one: AbstractContextManager[object] = gather(
        [parameter], modifier_rank=0 if changed else None
    )
    return whole_one


def _is_gathered(parameter: Any) -> bool:
    return parameter.ds_status.name == "AVAILABLE"


def _tell_optimizer_of_deepspeed(parameter: Any, value: Tensor) -> None:
    """Give the optimizer's own copy of a parameter its value, which it would write over else."""
    if is_partitioned(parameter) and hasattr(parameter, "_z3_optimizer"):
        parameter._z3_optimizer.set_full_hp_param(value.float(), parameter)
    elif getattr(parameter, "_hp_mapping", None) is not None:
        parameter.set_full_hp_param(value.float())


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or what its parts on all processes make up."""
    of: Any = tensor
    full: Tensor = of.full_tensor() if is_split(tensor) else tensor
    return full


def placed_like(value: Tensor, model: Tensor) -> Tensor:
    """`value` on the device of `model`, or spread over processes as it is."""
    if not is_split(model):
        return value.to(model.device)
    from torch.distributed.tensor import distribute_tensor

    of: Any = model
    return distribute_tensor(value.to(of.device), of.device_mesh, of.placements)


def device_of(model: nn.Module) -> torch.device:
    """Where the model runs."""
    for module in model.modules():
        for hook in offload_hooks(module):
            if hook.execution_device is not None:
                return torch.device(hook.execution_device)
    return next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


@contextmanager
def substituted(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block the model has other values of some parameters, gradients included."""
    parameters = Parameters(model)
    with ExitStack() as stack:
        for path, value in values.items():
            own = model.get_parameter(path)
            if path in parameters._offloaded:
                before = parameters.value(path)
                parameters.replace(path, value)
                stack.callback(parameters.replace, path, before)
                continue
            prefix, _, name = path.rpartition(".")
            stack.enter_context(
                _swapped(model.get_submodule(prefix), name, placed_like(value.to(own.dtype), own))
            )
        yield


@torch.no_grad()
def keep(
    model: nn.Module,
    values: Mapping[str, Tensor],
    stored_as: torch.dtype | Mapping[str, torch.dtype] | None = None,
) -> dict[str, Tensor]:
    """Give parameters new values for good; gives the values that they replace.

    `stored_as` is the type in which a parameter will be stored, one for all or by name: values are
    rounded to it.
    """
    parameters, replaced = Parameters(model), {}
    for path, value in values.items():
        dtype = stored_as if isinstance(stored_as, torch.dtype) else (stored_as or {}).get(path)
        replaced[path] = parameters.value(path).clone()
        parameters.replace(path, value if dtype is None else value.to(dtype))
    return replaced
