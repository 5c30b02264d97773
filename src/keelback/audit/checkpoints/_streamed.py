"""Models larger than memory: each block's weights are read from disk when it runs, then let go."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from keelback.audit.checkpoints._files import WeightFiles
from keelback.audit.checkpoints._names import Source, sources_of


class StreamedTensors(Mapping[str, Tensor]):
    """A model's tensors under its own names, each read from its file when it is asked for."""

    def __init__(self, model: Any, sources: Mapping[str, Source]) -> None:
        self._model, self._sources = model, sources
        self._divisors = dict(_divided_in_evaluation(model))

    def __getitem__(self, name: str) -> Tensor:
        value = self._stored(name)
        return value / self._divisors[name] if name in self._divisors else value

    def _stored(self, name: str) -> Tensor:
        source = self._sources[name]
        if source.converter is None:
            return source.stored[0][1].read()
        converter = deepcopy(source.converter)
        for pattern, tensor in source.stored:
            converter.add_tensor(source.first_target, tensor.name, pattern, tensor.read)
        made = converter.convert(source.first_target, model=self._model, config=self._model.config)
        value = made[name]
        one: Tensor = value[0] if isinstance(value, list) else value
        return one

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def _divided_in_evaluation(model: Any) -> Iterator[tuple[str, int]]:
    """Weights that RWKV divides in place when it first runs, and by what.

    In place would do nothing to weights that stay on disk, so it is told that it is done.
    """
    for path, module in model.named_modules():
        every = getattr(model.config, "rescale_every", 0)
        if not every or not hasattr(module, "layers_are_rescaled"):
            continue
        module.layers_are_rescaled = True
        for i in range(len(module.blocks)):
            for name in ("attention.output.weight", "feed_forward.value.weight"):
                yield f"{path}.blocks.{i}.{name}".lstrip("."), 2 ** (i // every)


def attach_streamed(
    cls: Any,
    config: Any,
    weights: WeightFiles,
    dtype: torch.dtype | None,
    device: str | torch.device = "cpu",
) -> tuple[Any, dict[str, Any]]:
    """A model of class `cls` without weights, which it fetches from `weights` block by block.

    Gives the model and the same account of missing and unexpected tensors as `from_pretrained`.
    """
    from accelerate import init_empty_weights
    from accelerate.hooks import attach_align_device_hook

    with init_empty_weights(include_buffers=False):
        model = cls._from_config(config, **({} if dtype is None else {"dtype": dtype}))
    model.eval()
    sources, unexpected = sources_of(model, weights.tensors)
    own = model.state_dict(keep_vars=True)
    tied = dict(model.get_expanded_tied_weights_keys(all_submodels=True))
    for target, source in tied.items():
        for one, other in ((target, source), (source, target)):
            if one not in sources and other in sources:
                sources[one] = sources[other]
    tensors = StreamedTensors(model, sources)
    mismatched = [
        (name, tuple(tensors[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in sources
        and sources[name].converter is None
        and sources[name].stored[0][1].shape != tuple(tensor.shape)
    ]
    missing = sorted(name for name in own if name not in sources)
    loading = {
        "missing_keys": missing,
        "unexpected_keys": _without_ignored(model, unexpected),
        "mismatched_keys": mismatched,
    }
    if not missing and not mismatched:
        for name, buffer in model.named_buffers():
            if name in sources:
                with torch.no_grad():
                    buffer.copy_(tensors[name])
        attach_align_device_hook(
            model,
            execution_device=torch.device(device),
            offload=True,
            weights_map=tensors,
            preload_module_classes=list(model._no_split_modules or ()),
        )
    return model, loading


def _without_ignored(model: Any, names: list[str]) -> list[str]:
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns)]
