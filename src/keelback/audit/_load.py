"""Loading the model to audit, wherever it comes from, without running any code that it brings."""

import json
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from keelback.audit._mamba_ssm import from_mamba_ssm, is_mamba_ssm
from keelback.errors import InputError
from keelback.models import WEIGHTS_FILE, load_model

ASSUMED_TRAIN_LENGTH = 2048
"""Training length of a model whose configuration is silent: that of the published Mambas."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode and where it came from.

    Attributes:
        folder: where its configuration and tokenizer lie, if they came from disk.
        on_hub: `name` is its name on the Hub.
        stored_as: type of its weights before any conversion.
    """

    model: nn.Module
    name: str
    folder: Path | None = None
    on_hub: bool = False
    stored_as: torch.dtype | None = None


def load_any_model(source: str | Path, *, dtype: torch.dtype | None = torch.float32) -> LoadedModel:
    """The model that `source` names, wherever it was made (`keelback.load_model` reads our own).

    That is a folder of transformers (any architecture that it knows by itself), a folder of
    mamba_ssm (`config.json` with `pytorch_model.bin` or safetensors), a checkpoint of keelback, a
    state dict of the reference implementation of arXiv 2502.01473, or a name on the Hub.
    `trust_remote_code` stays off, and pickles are read for their tensors alone.

    Args:
        source: path or Hub name.
        dtype: what to convert floating weights to; `None` leaves them as stored.

    Raises:
        InputError: nothing there, shards missing, a truncated file, a pickle with more than
            tensors in it, an unknown architecture, or weights that are not finite.
    """
    path = Path(source).expanduser()
    with _as_input_error(str(source)):
        if path.is_file() or (path.is_dir() and _is_keelback(path)):
            loaded = LoadedModel(load_model(path), path.name)
        elif path.is_dir():
            loaded = LoadedModel(_load_folder(path), path.resolve().name, path)
        elif _HUB_NAME.fullmatch(str(source)):
            loaded = LoadedModel(_load_transformers(str(source)), str(source), on_hub=True)
        else:
            raise InputError(f"no model at {source}: no such file or folder")
    loaded = replace(loaded, stored_as=next(loaded.model.parameters()).dtype)
    if dtype is not None:
        loaded.model.to(dtype)
    check_weights(loaded.model)
    return loaded


def check_weights(model: nn.Module) -> None:
    """Refuse a model with a weight that is infinite or not a number.

    Raises:
        InputError: the message names the first such tensor and counts its bad entries.
    """
    for name, parameter in model.named_parameters():
        if bool(torch.isfinite(parameter.sum())):
            continue
        finite = torch.isfinite(parameter)
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise InputError(
                f"{bad} of {parameter.numel()} entries of {name} are NaN or infinite; "
                "the checkpoint is damaged or its training diverged"
            )


def train_length_of(model: nn.Module) -> int | None:
    """The longest context that the model's configuration speaks of, if it does."""
    config = getattr(model, "config", None)
    length = getattr(config, "max_position_embeddings", None)
    return int(length) if isinstance(length, int) and length > 0 else None


def resolved_train_length(model: nn.Module, given: int | None) -> tuple[int, str]:
    """The training length to go by, and whether it is given, from the configuration, or assumed.

    Raises:
        InputError: one was given that is below 1.
    """
    if given is not None:
        if given < 1:
            raise InputError(f"the training length is {given}; it must be at least 1")
        return given, "given"
    configured = train_length_of(model)
    return (
        (configured, "configuration")
        if configured is not None
        else (ASSUMED_TRAIN_LENGTH, "assumed")
    )


def vocab_size_of(model: nn.Module) -> int | None:
    """How many token ids the model has embeddings for, if it can be told."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embeddings, "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[0]
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    return int(size) if isinstance(size, int) else None


def _is_keelback(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).is_file() and not (folder / "config.json").is_file()


def _load_folder(folder: Path) -> nn.Module:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise InputError(
            f"{folder} holds no config.json and no keelback checkpoint; it should be a model "
            "folder of transformers, mamba_ssm or keelback"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config_file} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{config_file} is not a model configuration")
    _check_shards(folder)
    if is_mamba_ssm(config):
        return from_mamba_ssm(config, _read_state_dict(folder), folder)
    return _load_transformers(str(folder))


def _check_shards(folder: Path) -> None:
    for index in folder.glob("*.index.json"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise InputError(
                f"{len(missing)} of {len(names)} checkpoint shards are missing from {folder}: "
                f"{', '.join(missing[:3])}"
            )


def _read_state_dict(folder: Path) -> dict[str, Tensor]:
    safe, binary = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return load_file(safe)
    if not binary.is_file():
        raise InputError(f"no {safe.name} and no {binary.name} in {folder}")
    state: dict[str, Tensor] = torch.load(binary, map_location="cpu", weights_only=True)
    return state


def _load_transformers(name: str) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise InputError(f"reading {name} needs transformers: pip install 'keelback[hf]'") from None
    with quiet_transformers():
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        speaks = type(config) in transformers.AutoModelForCausalLM._model_mapping
        auto = transformers.AutoModelForCausalLM if speaks else transformers.AutoModel
        loaded: Any = auto.from_pretrained(
            name, dtype="auto", trust_remote_code=False, output_loading_info=True
        )
    model, loading = loaded
    _refuse_missing(name, loading)
    model.eval()
    return model


def _refuse_missing(name: str, loading: Mapping[str, Any]) -> None:
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{name} lacks {len(missing)} of its model's tensors, the first {missing[0]}"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep its progress bars and advice to itself, if it is there."""
    transformers = sys.modules.get("transformers")
    if transformers is None:
        yield
        return
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _as_input_error(source: str) -> Iterator[None]:
    """Whatever a library says of a folder that it cannot read, in one line and as bad input."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"{source} holds pickled objects other than tensors, which could run code; "
            "save it as safetensors instead"
        ) from None
    except SafetensorError as error:
        raise InputError(f"{source}: a safetensors file is damaged or cut off ({error})") from None
    except Exception as error:  # transformers raises many kinds, all of them about the input here
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            raise InputError(
                f"{source} needs code that it brings itself, which keelback never runs; "
                "give a model of a type that transformers has"
            ) from None
        raise InputError(f"{source} cannot be loaded: {reason[:300]}") from None
