"""Which stored tensors each parameter of a model of transformers is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keelback.audit.checkpoints._files import StoredTensor


@dataclass(frozen=True)
class Source:
    """What a parameter is made of: one stored tensor, or several that a conversion joins.

    Attributes:
        stored: the pattern by which the conversion knows each tensor, and the tensor.
        converter: the conversion, such as of experts that are joined; `None` for none.
        first_target: the parameter that the conversion is listed under.
    """

    stored: tuple[tuple[str, StoredTensor], ...]
    converter: Any = None
    first_target: str = ""


def sources_of(
    model: Any, tensors: Mapping[str, StoredTensor]
) -> tuple[dict[str, Source], list[str]]:
    """What each parameter and buffer is made of, and the names of tensors that nothing is made of.

    By the renaming and the conversions that transformers does itself when it loads.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    mapping = list(get_model_conversion_mapping(model) or [])
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    own = model.state_dict(keep_vars=True)
    sources: dict[str, Source] = {}
    joined: dict[str, list[tuple[str, StoredTensor]]] = {}
    converter_of: dict[str, Any] = {}
    left: list[str] = []
    for stored in sorted(tensors, key=dot_natural_key):
        target, pattern = rename_source_key(
            stored, renamings, converters, model.base_model_prefix, own
        )
        if target not in own and stored in own:
            target, pattern = stored, None
        if target not in own:
            left.append(stored)
        elif pattern is None:
            sources[target] = Source(((stored, tensors[stored]),))
        else:
            joined.setdefault(target, []).append((pattern, tensors[stored]))
            converter_of[target] = by_pattern[pattern]
    for target, parts in joined.items():
        source = Source(tuple(parts), converter_of[target], target)
        sources |= dict.fromkeys(_targets(target, converter_of[target]), source)
    return sources, left


def _targets(first: str, converter: Any) -> list[str]:
    """All parameters that a conversion gives, of which `first` is the first."""
    patterns = list(converter.target_patterns)
    return [first, *(first.replace(patterns[0], other) for other in patterns[1:])]
