"""Models of transformers: the class that their configuration names, and nothing left over."""

import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keelback.audit.checkpoints._files import StoredTensor, WeightFiles, weight_files
from keelback.audit.checkpoints._heard import heard_transformers
from keelback.audit.checkpoints._names import sources_of
from keelback.audit.checkpoints._quantised import (
    quantisation_of,
    refuse_numbers_without_scale,
    refuse_unknown_quantisation,
)
from keelback.audit.checkpoints._settings import unused_settings
from keelback.audit.checkpoints._streamed import attach_streamed
from keelback.errors import InputError
from keelback.integrations._stand_in import is_installed

_MOST_NAMED = 20


@dataclass(frozen=True)
class FromTransformers:
    """A model, and how its parameters relate to what is stored.

    Attributes:
        weights: the files that it was loaded from.
        names: for each parameter that is stored as it is, its name in the files.
        unused: tensors and settings that nothing took up, and that were let pass.
        remarks: warnings of transformers.
    """

    model: nn.Module
    weights: WeightFiles
    names: Mapping[str, str]
    unused: Sequence[str] = ()
    remarks: Sequence[str] = field(default_factory=list)


def load_transformers(
    name: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    ignore: Collection[str],
    stream_to: torch.device | None,
) -> FromTransformers:
    """The model of a folder or of a name on the Hub (`folder` is `None`).

    With `stream_to`, its weights stay on disk, and each block fetches its own to that device when
    it runs.

    Raises:
        InputError: what was stored and what the model uses differ: tensors or settings that nothing
            takes up and that `ignore` does not name, missing ones, or numbers without their scale.
    """
    try:
        import transformers
    except ImportError:
        raise InputError(f"reading {name} needs transformers: pip install 'keelback[hf]'") from None
    with heard_transformers() as remarks:
        given, _ = transformers.PreTrainedConfig.get_config_dict(name)
        refuse_unknown_quantisation(given, folder)
        _let_fla_register(given.get("model_type"))
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        cls = _class_of(name, given, config, remarks, ignore)
        _initialise_nothing_again(config, remarks)
        if stream_to is not None and folder is not None and can_be_streamed(given):
            weights = weight_files(folder, _beside(config))
            model, loading = attach_streamed(cls, config, weights, dtype, stream_to)
        else:
            model, loading = _loader_of(cls)(
                name,
                config=config,
                dtype="auto" if dtype is None else dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
            weights = weight_files(folder or _snapshot(name), _beside(config))
        model.eval()
    sources, left = sources_of(model, weights.tensors)
    names = {p: own.stored[0][0] for p, own in sources.items() if own.converter is None}
    settings = unused_settings(given, config, model)
    _refuse_bad_tensors(name, loading, ignore)
    _refuse_broken_ties(name, model)
    _refuse_left_over(name, settings, ignore)
    if quantisation_of(given) is None:
        parameters = dict(model.named_parameters())
        floating = {n for p, n in names.items() if p in parameters and _is_float(parameters[p])}
        refuse_numbers_without_scale(weights.tensors.values(), floating)
        remarks += _changed_on_the_way(parameters, names, weights.tensors)
    return FromTransformers(model, weights, names, sorted([*left, *settings]), remarks)


def _initialise_nothing_again(config: Any, remarks: list[str]) -> None:
    """Keep transformers from dividing weights while it loads them, as if they were new.

    Mamba, Mamba-2 and FalconMamba divide `out_proj.weight` by the root of the number of layers
    before training, if `rescale_prenorm_residual` is set; `from_pretrained` does so again.
    """
    if getattr(config, "rescale_prenorm_residual", False):
        config.rescale_prenorm_residual = False
        remarks.append(
            "from_pretrained divides out_proj.weight of each layer by the root of the number of "
            "layers (rescale_prenorm_residual), which is for new weights; here they are as stored"
        )


def _changed_on_the_way(
    parameters: Mapping[str, nn.Parameter],
    names: Mapping[str, str],
    tensors: Mapping[str, StoredTensor],
) -> list[str]:
    """A remark on parameters that begin with other numbers than they are stored as, if any do."""
    changed = []
    for name, own in parameters.items():
        stored = tensors.get(names.get(name, ""))
        if stored is None or stored.place is None or not stored.is_plain or own.is_meta:
            continue
        first = stored.first(_COMPARED).to(own.dtype)
        held = own.detach().reshape(-1)[: len(first)].cpu()
        if not torch.equal(held.nan_to_num(), first.nan_to_num()):
            changed.append(name)
    if not changed:
        return []
    return [f"loading changed {len(changed)} parameters, which are stored otherwise: {changed[0]}"]


_COMPARED = 64
"""Numbers of each parameter that are compared with the file's."""
_FLA = "fla.models"


def _let_fla_register(model_type: Any) -> None:
    """Import the models of flash-linear-attention (fla) if it is installed and may have this type.

    They then are among those of transformers. One that is of both is transformers' own.
    """
    import transformers

    if model_type in transformers.CONFIG_MAPPING or not is_installed("fla"):
        return
    with suppress(ImportError):
        importlib.import_module(_FLA)


def _loader_of(cls: Any) -> Any:
    """The `from_pretrained` of a class that also tells what was missing or left over.

    That of decision models (JEV) cannot tell; it adds settings of how options are chosen to what
    all models have, and nothing to the weights.
    """
    import transformers

    if any(base.__name__ == "DecisionMixin" for base in cls.__mro__):
        load: Any = transformers.PreTrainedModel.from_pretrained
        return partial(load.__func__, cls)
    return cls.from_pretrained


def _beside(config: Any) -> Sequence[str]:
    """Names of files that transformers reads besides a model's weights, if they are there."""
    return tuple(getattr(type(config), "extra_files", ()))


def can_be_streamed(config: Mapping[str, Any]) -> bool:
    """Whether a model's blocks can be read from disk one by one: not if they are quantised.

    Args:
        config: the content of `config.json`.
    """
    return quantisation_of(config) is None


def _is_float(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point()


def _class_of(
    name: str,
    given: Mapping[str, Any],
    config: Any,
    remarks: list[str],
    ignore: Collection[str],
) -> Any:
    """The first of `architectures`; where there is none, what predicts tokens if it can."""
    import transformers

    named = list(given.get("architectures") or [])
    for architecture in named[:1]:
        cls = getattr(transformers, str(architecture), None)
        if cls is None:
            cls = getattr(sys.modules.get(_FLA), str(architecture), None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            _require_made_of(cls, config, name)
            return cls
        if given.get("auto_map") and "architectures" not in ignore:
            raise InputError(
                f"{name} names the class {architecture} (architectures), which transformers does "
                "not have and the checkpoint brings as code (auto_map); keelback never runs that. "
                f"If transformers' own model of type {given.get('model_type')} is the same, say so "
                "with --ignore architectures"
            )
        remarks.append(f"{name} names the class {architecture}, which transformers does not have")
    for auto in ("CausalLM", "ImageTextToText", "MultimodalLM", "Seq2SeqLM", "MaskedLM"):
        mapping = getattr(getattr(transformers, f"AutoModelFor{auto}", None), "_model_mapping", {})
        if type(config) in mapping:
            return _first(mapping[type(config)])
    mapping = transformers.AutoModel._model_mapping
    if type(config) not in mapping:
        raise InputError(f"{name}: transformers has no model for a {type(config).__name__}")
    return _first(mapping[type(config)])


def _require_made_of(cls: Any, config: Any, name: str) -> None:
    """Refuse a class that is made of another kind of configuration than the folder has.

    Raises:
        InputError: `architectures` and `model_type` do not go together.
    """
    wanted = getattr(cls, "config_class", None)
    if isinstance(wanted, type) and not isinstance(config, wanted):
        raise InputError(
            f"{name}: config.json names the class {cls.__name__} (architectures), which is made of "
            f"a {wanted.__name__}, and its model_type {config.model_type!r} stands for a "
            f"{type(config).__name__}"
        )


def _first(classes: Any) -> Any:
    return classes[0] if isinstance(classes, list | tuple) else classes


def _snapshot(name: str) -> Path:
    from transformers.utils.hub import cached_file

    found = cached_file(name, "config.json")
    if found is None:
        raise InputError(f"{name} has no config.json")
    return Path(found).parent


def _refuse_bad_tensors(name: str, loading: Mapping[str, Any], ignore: Collection[str]) -> None:
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(f"{name} lacks {len(missing)} of its model's tensors: {_listed(missing)}")
    wrong = sorted(str(entry[0]) for entry in loading.get("mismatched_keys", ()))
    if wrong:
        raise InputError(f"{name} has tensors of another shape than its model: {_listed(wrong)}")
    failed = sorted(loading.get("conversion_errors", {})) + list(loading.get("error_msgs", ()))
    if failed:
        raise InputError(f"{name} cannot be loaded: {_listed([str(f) for f in failed])}")
    _refuse_left_over(name, sorted(loading["unexpected_keys"]), ignore, "tensors")


def _refuse_left_over(
    name: str, found: Sequence[str], ignore: Collection[str], what: str = "settings"
) -> None:
    left = [one for one in found if not any(fnmatch(one, pattern) for pattern in ignore)]
    if left:
        raise InputError(
            f"{name} has {what} that nothing in its model uses, so that it would not be the "
            f"model that was saved: {_listed(left)}. If they may be left out, name them with "
            "--ignore"
        )


def _refuse_broken_ties(name: str, model: Any) -> None:
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    for target, source in tied.items():
        if target not in getattr(model, "all_tied_weights_keys", tied):
            raise InputError(
                f"{name} is configured to share {target} with {source}, and its files hold "
                "different values for the two; set tie_word_embeddings to false in config.json if "
                "both are meant"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
