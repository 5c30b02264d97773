"""Loading the model to audit, wherever it comes from, without running any code that it brings."""

import gc
import pickle
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from keelback.audit._hub import why_not_there
from keelback.audit._model import check_weights
from keelback.audit._parameters import Parameters
from keelback.audit.checkpoints._files import (
    StoredTensor,
    WeightFiles,
    stored_tensors,
    weight_files,
)
from keelback.audit.checkpoints._mamba3 import NOTE, Mamba3LanguageModel
from keelback.audit.checkpoints._mamba_ssm import from_mamba_ssm, is_mamba_ssm
from keelback.audit.checkpoints._memory import fits_in_memory, is_out_of_memory
from keelback.audit.checkpoints._transformers import can_be_streamed, load_transformers
from keelback.errors import InputError
from keelback.files import parsed_json
from keelback.models import WEIGHTS_FILE, load_model


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode and where it came from.

    Attributes:
        folder: where its configuration and tokenizer lie, if they came from disk.
        on_hub: `name` is its name on the Hub.
        weights: the files that its weights came from.
        names: for each parameter that is stored as it is, its name in these files.
        unused: tensors and settings that the model does not use, and that were let pass.
        remarks: warnings of transformers while it loaded.
        notes: what else its user should know.
        streamed: the weights stay on disk, and each block fetches its own when it runs.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.models import SelectiveSSMConfig, save_model
        >>> save_model(SelectiveSSMConfig(vocab_size=2).build(), Path("mine.safetensors"))
        >>> loaded = load_any_model("mine.safetensors")
        >>> loaded.name, loaded.on_hub
        ('mine.safetensors', False)
    """

    model: nn.Module
    name: str
    folder: Path | None = None
    on_hub: bool = False
    weights: WeightFiles | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
    remarks: Sequence[str] = ()
    notes: Sequence[str] = ()
    streamed: bool = False

    @property
    def stored_types(self) -> dict[str, torch.dtype]:
        """The type in which each parameter is stored that is stored as it is."""
        found = {name: self.stored(name) for name in self.names}
        return {
            name: stored.dtype
            for name, stored in found.items()
            if stored is not None and stored.dtype is not None
        }

    @property
    def stored_as(self) -> torch.dtype | None:
        """The type in which most of its parameters are stored."""
        types = list(self.stored_types.values())
        return max(set(types), key=types.count) if types else None

    @property
    def locked(self) -> dict[str, str]:
        """Parameters that cannot be edited in the files, and why."""
        reasons = {}
        for name, _ in self.model.named_parameters():
            stored = self.stored(name)
            if stored is None:
                reasons[name] = f"{name} is not stored as one tensor"
            elif not stored.is_plain:
                reasons[name] = f"{name} is quantised ({stored.stored_type})"
        return reasons

    def stored(self, parameter: str) -> StoredTensor | None:
        """Where the parameter is stored as it is; `None` where it is nowhere."""
        name = self.names.get(parameter)
        return None if name is None or self.weights is None else self.weights.tensors.get(name)


def load_any_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    ignore: Collection[str] = (),
    device: str | torch.device = "cpu",
    stream: bool | None = None,
) -> LoadedModel:
    """The model that `source` names.

    That is a folder of transformers (any architecture that it knows by itself), a folder of
    mamba_ssm (`config.json` with `pytorch_model.bin` or safetensors, in shards or not; with Mamba-3
    layers if its ssm_cfg states `A_activation`), a checkpoint of keelback, a state dict of the
    reference implementation of arXiv 2502.01473, or a name on the Hub, `owner/name` (what may be a
    mistyped path is not sent there). The class is that which `architectures` names.
    `trust_remote_code` stays off, and pickles are read for their tensors alone.

    Args:
        source: path or Hub name.
        dtype: what to convert floating weights to; `None` leaves them as stored.
        ignore: names (or patterns as of a shell) of settings and tensors that may stay unused.
        device: where to run it.
        stream: whether to leave the weights on disk, from where each block fetches its own when it
            runs; if `None`, where they do not fit in memory, also where that shows only while they
            are loaded. Folders of transformers only.

    Raises:
        InputError: nothing there, shards missing, a truncated file, a pickle with more than
            tensors in it, an unknown architecture, weights that are not finite, tensors or
            settings that the model does not use, or weights in few bits whose scales nothing tells.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.models import SelectiveSSMConfig, save_model
        >>> save_model(SelectiveSSMConfig(vocab_size=2).build(), Path("mine.safetensors"))
        >>> type(load_any_model("mine.safetensors").model).__name__
        'SelectiveClassifier'
    """
    path = Path(source).expanduser()
    with _as_input_error(str(source)):
        if path.is_file() or (path.is_dir() and _is_keelback(path)):
            loaded = _load_own(path, device)
        elif path.is_dir():
            loaded = _load_folder(path, dtype, ignore, torch.device(device), stream)
        else:
            why_not = why_not_there(str(source), "config.json")
            if why_not is not None:
                raise InputError(f"no model at {source}: {why_not}")
            place = torch.device(device)
            loaded = _of_transformers(str(source), None, dtype, ignore, place, bool(stream))
    if dtype is not None and not loaded.streamed:
        loaded.model.to(dtype)
    check_weights(loaded.model)
    return loaded


def _is_keelback(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).is_file() and not (folder / "config.json").is_file()


def _load_own(path: Path, device: str | torch.device) -> LoadedModel:
    file = path / WEIGHTS_FILE if path.is_dir() else path
    model = load_model(path).to(device)
    tensors = stored_tensors(file)
    weights = WeightFiles(file.parent, (file,), tensors, ())
    names = {name: name for name, _ in model.named_parameters() if name in tensors}
    folder = path if path.is_dir() else None
    return LoadedModel(model, path.name, folder, weights=weights, names=names)


def _load_folder(
    folder: Path,
    dtype: torch.dtype | None,
    ignore: Collection[str],
    device: torch.device,
    stream: bool | None,
) -> LoadedModel:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise InputError(_what_is_missing(folder))
    try:
        config = parsed_json(config_file.read_text(encoding="utf-8"), once=True)
    except ValueError as error:
        raise InputError(f"{config_file} cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{config_file} is not a model configuration")
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} has adapters of PEFT (adapter_config.json) beside its model; merge them "
            "(merge_and_unload) and save the result, or audit the model from Python"
        )
    weights = weight_files(folder)
    if is_mamba_ssm(config):
        model, names = from_mamba_ssm(config, weights)
        own = (folder.resolve().name, folder)
        notes = [NOTE] if isinstance(model, Mamba3LanguageModel) else []
        return LoadedModel(model.to(device), *own, weights=weights, names=names, notes=notes)
    arguments = (str(folder), folder, dtype, ignore, device)
    if stream is not None or not fits_in_memory(weights, dtype, device):
        return _of_transformers(*arguments, stream is not False)
    try:
        return _of_transformers(*arguments, False)
    except Exception as error:
        if not is_out_of_memory(error) or not can_be_streamed(config):
            raise
    gc.collect()  # what was loaded up to there
    return _of_transformers(*arguments, True)


def _what_is_missing(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} holds adapters of PEFT without their model; merge them into it "
            "(merge_and_unload) and save the result, or audit the model from Python"
        )
    return (
        f"{folder} holds no config.json and no keelback checkpoint; it should be a model "
        "folder of transformers, mamba_ssm or keelback"
    )


def _of_transformers(
    name: str,
    folder: Path | None,
    dtype: torch.dtype | None,
    ignore: Collection[str],
    device: torch.device,
    stream: bool,
) -> LoadedModel:
    got = load_transformers(name, folder, dtype, ignore, device if stream else None)
    streamed = Parameters(got.model).are_elsewhere
    if not streamed:
        got.model.to(device)
    return LoadedModel(
        got.model,
        name if folder is None else folder.resolve().name,
        folder,
        on_hub=folder is None,
        weights=got.weights,
        names=got.names,
        unused=got.unused,
        remarks=got.remarks,
        streamed=streamed,
    )


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
        unknown = re.search(r"model type `(\S+)` but Transformers does not recognize", reason)
        if unknown:
            raise InputError(
                f"{source} is of the type {unknown[1]!r} (model_type in config.json), which the "
                f"installed transformers {sys.modules['transformers'].__version__} does not have; "
                "install a release that has it, or audit the model from Python"
            ) from None
        if "trust_remote_code" in reason:
            raise InputError(
                f"{source} needs code of its own, which keelback never runs; "
                "give a model of a type that transformers has"
            ) from None
        raise InputError(f"{source} cannot be loaded: {reason[:300]}") from None
