"""Models on disk: safetensors of our own, and the state dicts of the reference implementation."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from keelback.errors import InputError, first_line
from keelback.files import parsed_json, replacing
from keelback.models._registry import MODELS, model_config, require_room
from keelback.models.selective_ssm import SelectiveClassifier, SelectiveSSMConfig
from keelback.plugins import digests, origins
from keelback.registry import PluginWarning, shown, whence

WEIGHTS_FILE = "model.safetensors"

_REFERENCE_NAMES = {
    "A": "ssm.state_matrix.A",
    "W_B": "ssm.W_B",
    "W_C": "ssm.W_C",
    "q_delta": "ssm.q",
    "p_delta": "ssm.p",
}


def save_model(model: nn.Module, path: Path) -> None:
    """Write a model's weights, with its configuration in the file's metadata, in one step.

    Examples:
        >>> from pathlib import Path
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> save_model(model, Path("mine.safetensors"))
        >>> load_model(Path("mine.safetensors")).config == model.config
        True
    """
    save_weights(dict(model.state_dict()), model.config, path)


def save_weights(weights: Mapping[str, Tensor], config: Any, path: Path) -> None:
    """`save_model` from the parts: named tensors and the configuration that builds their model.

    Examples:
        >>> from pathlib import Path
        >>> model = SelectiveSSMConfig(vocab_size=2).build()
        >>> save_weights(model.state_dict(), model.config, Path("mine.safetensors"))
    """
    metadata = {"keelback": json.dumps(config.model_dump(mode="json"))}
    if made_by := origins({"model": type(config)}):
        metadata["keelback-plugin"] = json.dumps(made_by | digests({"digest": type(config)}))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def load_model(path: Path) -> nn.Module:
    """Read a model from a `.safetensors` file, a folder that holds one, or a reference state dict.

    The reference implementation of arXiv 2502.01473 saves PyTorch state dicts (`.pth`); they are
    read without running any code that they may carry. A model from outside keelback must be
    registered (`register_model`); a checkpoint never loads its code by itself.

    Raises:
        InputError: no such file, a truncated file, a pickle with more than tensors in it, a model
            that is not registered, the weights of another architecture, or weights that are not
            finite, not real, or of a type that the model would round.

    Examples:
        >>> from pathlib import Path
        >>> save_model(SelectiveSSMConfig(vocab_size=2).build(), Path("mine.safetensors"))
        >>> load_model(Path("mine.safetensors")).config.kind
        'selective-ssm'
    """
    path = Path(path)
    if path.is_dir():
        path = path / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}" + _instead(path.parent))
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _model_from_reference(_load_state_dict(path), path)


def _instead(folder: Path) -> str:
    """Where the checkpoint of a folder that `keelback train` made lies."""
    runs = sorted(folder.glob(f"runs/*/{WEIGHTS_FILE}"))
    return f"; name a run, e.g. {runs[0].parent}" if runs else ""


def _load_safetensors(path: Path) -> nn.Module:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from None
    if "keelback" not in metadata:
        alone = not (path.parent / "config.json").is_file()
        missing = f", and {path.parent} has no config.json, as a model of transformers has"
        raise InputError(
            f"{path} has no keelback configuration: it was not saved by keelback"
            f"{missing if alone else ''}"
        )
    try:
        fields = parsed_json(metadata["keelback"])
    except ValueError:
        raise InputError(f"the configuration inside {path} is not JSON") from None
    _require_known(fields, metadata.get("keelback-plugin"), path)
    config = model_config(fields)
    require_room(config)
    model: nn.Module = config.build()
    _fill(model, tensors, path)
    return model


def _require_known(fields: Any, plugin: str | None, path: Path) -> None:
    """Check that the model's kind is known; say so where its code is another than saved it.

    Raises:
        InputError: the configuration is none, or it needs a plugin that is not there.
    """
    if not isinstance(fields, dict):
        raise InputError(f"the configuration inside {path} is not a JSON object")
    try:
        made_by = parsed_json(plugin) if plugin else {}
        origin, digest = str(made_by.get("model")), made_by.get("digest")
    except (ValueError, AttributeError):
        raise InputError(f"the name of the plugin inside {path} is not a JSON object") from None
    kind = str(fields.get("kind"))
    if not made_by:
        return
    if kind not in MODELS:
        cure = f"add --plugin {shown(origin)}" if digest else f"install {origin}"
        raise InputError(
            f"{path} holds a model {kind!r} of {shown(origin)}, which is not known; {cure}"
        )
    if digests({"digest": MODELS[kind]}).get("digest") != digest:
        warnings.warn(
            f"{path} was saved by another version of the model {kind!r} than the one that is "
            f"loaded now, {whence(MODELS[kind])}; its numbers may differ",
            PluginWarning,
            stacklevel=4,
        )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    state = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise InputError(
                f"{path} holds another architecture: tensor {name} has shape "
                f"{found.get(name, 'none')}, expected {expected.get(name, 'none')}"
            )
    for name, tensor in tensors.items():
        _require_numbers(name, tensor, state[name].dtype, path)
    model.load_state_dict(dict(tensors))


def _require_numbers(name: str, tensor: Tensor, wanted: torch.dtype, path: Path) -> None:
    """Check that a tensor holds finite real numbers, all of which the type `wanted` has."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(f"{path}: tensor {name} is sparse or has no values; save it dense")
    narrower = tensor.is_floating_point() and tensor.dtype.itemsize < wanted.itemsize
    if tensor.dtype != wanted and not narrower:
        held, kept = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted))
        raise InputError(
            f"{path}: tensor {name} holds {held}, which the model's {kept} cannot; "
            f"save the weights as {kept}"
        )
    bad = int((~torch.isfinite(tensor.to(wanted))).sum())
    if bad:
        raise InputError(
            f"{path}: tensor {name} holds NaN or infinity, {bad} of {tensor.numel()} entries; the "
            "checkpoint is damaged or its training diverged"
        )


def _load_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            raise InputError(
                f"{path} holds pickled objects other than tensors, which could run code; "
                "save the model's state_dict() instead"
            ) from None
        raise InputError(f"{path} is not a PyTorch state dict, or could run code") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        reason = first_line(error)
        raise InputError(f"{path} cannot be read as a PyTorch state dict: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is not a state dict: expected a dict of tensors")
    return state


def _model_from_reference(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A `SelectiveClassifier` from the names that the reference implementation uses."""
    binary = "SSM.w" in state
    prefix = "SSM.ssm." if binary else "ssm."
    names = {prefix + theirs: ours for theirs, ours in _REFERENCE_NAMES.items()}
    names |= {"embedding.weight": "embedding", ("SSM.w" if binary else "W"): "head.weight"}
    if set(names) != set(state):
        raise InputError(
            f"{path} is not a checkpoint of the reference implementation: "
            f"it has {', '.join(sorted(state)[:8]) or 'no tensors'}; "
            f"expected {', '.join(sorted(names))}"
        )
    A, embedding = state[prefix + "A"], state["embedding.weight"]
    if A.ndim != 2 or embedding.ndim != 2:
        raise InputError(f"{path}: A and embedding.weight must be matrices")
    model = SelectiveClassifier(
        SelectiveSSMConfig(
            vocab_size=embedding.shape[0],
            n_classes=2 if binary else max(state["W"].shape[0], 3),
            d_model=A.shape[0],
            d_state=A.shape[1],
        )
    )
    _fill(model, {ours: state[theirs] for theirs, ours in names.items()}, path)
    return model
