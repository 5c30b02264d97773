"""A repaired model on disk: a copy of its folder with a few tensors edited, and what undoes it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from keelback.audit._parameters import Parameters
from keelback.audit.checkpoints._copy import copy_folder
from keelback.audit.checkpoints._files import StoredTensor
from keelback.audit.checkpoints._load import LoadedModel
from keelback.audit.checkpoints._record import (
    OF_A_REPAIR,
    REPLACED_FILE,
    REPORT_FILE,
    record_of,
)
from keelback.audit.checkpoints._rewrite import (
    copy_with_hash,
    replace_bytes,
    require_replaceable,
)
from keelback.errors import InputError, JobError
from keelback.files import digest_of, replacing, require_writable
from keelback.memory import in_units

if TYPE_CHECKING:
    from keelback.audit.repairs import Repair


def save_repaired(loaded: LoadedModel, repair: "Repair", out: Path) -> dict[str, Any]:
    """Copy the model's folder to `out` with the values that the repair gave it, all or nothing.

    Everything else is byte for byte what it was: other tensors and their types, how they lie in
    shards, configuration, tokenizer, code, and whatever else the folder holds. Beside them come
    the report and the values that were replaced. No more than a part of a file is in memory.

    Args:
        loaded: the model as it was loaded, from a folder or a file, with the repair's edits.
        repair: what was edited; values are rounded to the type that each is stored in.
        out: a folder that is not there yet, or is empty.

    Returns:
        The report as written, with the files and tensors that were edited.

    Raises:
        InputError: `out` holds something already, the model was repaired before, or a parameter
            is not stored as the model holds it.
        JobError: it cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny).eval()
        >>> model.save_pretrained("tiny")
        >>> loaded = load_any_model("tiny")
        >>> tokens = torch.randint(20, (1200,))
        >>> lengths = {"target_length": 64, "train_length": 16}
        >>> found = repair(loaded.model, tokens, **lengths, method="rate-scale", evaluations=2)
        >>> _ = save_repaired(loaded, found, Path("repaired"))
        >>> Path("repaired/model.safetensors").exists()
        True
    """
    require_savable(loaded, out)
    source = _source_of(loaded)
    stored = {name: require_stored(loaded, name) for name in repair.replaced}
    require_replaceable(list(stored.values()))
    parameters = Parameters(loaded.model)
    new = {tensor: tensor.bytes_of(parameters.value(name)) for name, tensor in stored.items()}
    old = {tensor.name: tensor.read().contiguous() for tensor in new}
    for name, tensor in stored.items():
        held = repair.replaced[name]
        if not torch.equal(old[tensor.name].to(held.dtype), held.cpu()):
            raise InputError(
                f"{tensor.name} in {tensor.file.name} is not what the model holds as {name} (it is "
                "changed when the model loads), so it cannot be edited there"
            )
    with whole_folder(out) as folder:
        files, copied = _copy_edited(source, folder, new)
        written = {
            **repair.to_json(),
            "source": loaded.name,
            "tensors": {tensor.name: tensor.file.name for tensor in new},
            "files": files,
            "copied": copied,
            "weights": _weights(loaded),
            "left_as_they_are": _with_old_values(loaded),
        }
        (folder / REPORT_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")
        with replacing(folder / REPLACED_FILE) as file:
            save_file(old, file)
    return written


def require_savable(loaded: LoadedModel, out: Path) -> None:
    """Refuse, before a repair is searched for, what could not be written to `out` in the end.

    Raises:
        InputError: as for `save_repaired`; or there is no room for a copy of the weights.

    Examples:
        >>> from pathlib import Path
        >>> from keelback.models import SelectiveSSMConfig, save_model
        >>> save_model(SelectiveSSMConfig(vocab_size=2).build(), Path("mine.safetensors"))
        >>> require_savable(load_any_model("mine.safetensors"), Path("mended"))  # can be written
    """
    require_free(out)
    if loaded.weights is None:
        raise InputError(f"{loaded.name} did not come from files, so there is nothing to copy")
    source = loaded.weights.folder if loaded.folder is None else loaded.folder
    if loaded.folder is not None and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out} lies inside {source}, which is copied; give another --out")
    if loaded.folder is not None and (source / REPORT_FILE).is_file():
        raise InputError(
            f"{source} was repaired already; take that back first (keelback repair {source} --undo "
            "--out FOLDER)"
        )
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < loaded.weights.bytes:
        raise InputError(
            f"a repair copies {in_units(loaded.weights.bytes)} of weights, and {in_units(free)} "
            f"are free at {there}; give another --out"
        )


def require_stored(loaded: LoadedModel, name: str) -> StoredTensor:
    """Where the parameter `name` lies in the model's files.

    Raises:
        InputError: nowhere as one tensor, or not as plain floating-point numbers.
    """
    stored = loaded.stored(name)
    if stored is None:
        raise InputError(
            f"{name} is not stored as one tensor in {loaded.name} (it is joined or split when the "
            "model loads), so it cannot be edited there"
        )
    if not stored.is_plain:
        raise InputError(
            f"{name} is stored as {stored.stored_type} in {loaded.name}: it is quantised, and "
            "left as it is"
        )
    return stored


@dataclass(frozen=True)
class Undone:
    """What was put back.

    Attributes:
        tensors: those that have their old values again.
        others: files beside the weights that were changed, removed or added after the repair, and
            are as they were left.

    Examples:
        >>> undone = Undone(tensors=["layers.0.mixer.A_log"], others=["README.md"])
        >>> f"{len(undone.tensors)} put back; changed since: {', '.join(undone.others)}"
        '1 put back; changed since: README.md'
    """

    tensors: Sequence[str]
    others: Sequence[str]


def undo_repair(source: str | Path, out: Path) -> Undone:
    """Copy a repaired folder to `out` as it was before the repair, to the bit.

    Nothing is loaded but the values that were replaced. Where weights or the configuration were
    changed after the repair, as by training, there is no way back and nothing is written. Other
    files that were changed, removed or added since are named.

    Raises:
        InputError: `source` holds no repair, or was changed after it; or `out` holds something.
        JobError: it cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny).eval()
        >>> model.save_pretrained("tiny")
        >>> loaded = load_any_model("tiny")
        >>> tokens = torch.randint(20, (1200,))
        >>> lengths = {"target_length": 64, "train_length": 16}
        >>> found = repair(loaded.model, tokens, **lengths, method="rate-scale", evaluations=2)
        >>> _ = save_repaired(loaded, found, Path("repaired"))
        >>> _ = undo_repair("repaired", Path("undone"))
        >>> before, after = (Path(folder) / "model.safetensors" for folder in ("tiny", "undone"))
        >>> before.read_bytes() == after.read_bytes()
        True
    """
    require_free(out)
    source = Path(source).expanduser()
    record, old = record_of(source)
    with whole_folder(out) as folder:
        files, copied = _copy_edited(source, folder, old)
        for file, hashes in record.files.items():
            if files[file]["after"] != hashes.before:
                raise InputError(
                    f"{source} was changed after its repair: with its old rates put back, {file} "
                    "is not the file that was repaired"
                )
        changed = record.changed_since(copied)
        of_model = [name for name in changed if record.is_of_the_model(name)]
        if of_model:
            raise InputError(
                f"{source} was changed after its repair: {', '.join(of_model)}; with the old rates "
                "put back it would be neither the model that was repaired nor the repaired one"
            )
    return Undone(sorted(record.tensors), [name for name in changed if name not in of_model])


def require_free(out: Path) -> None:
    """Refuse to write where something is.

    Raises:
        InputError: `out` is a file, or a folder that is not empty.

    Examples:
        >>> from pathlib import Path
        >>> require_free(Path("new-folder"))  # nothing is there, so nothing happens
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; give --out a folder that does not, or is empty")
    require_writable(out)


def _source_of(loaded: LoadedModel) -> Path:
    """The folder to copy, all of it for a name on the Hub; or the file that is the model."""
    assert loaded.weights is not None
    if loaded.on_hub:
        from huggingface_hub import snapshot_download

        others = [f"*{suffix}" for suffix in (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")]
        own = {file.suffix for file in loaded.weights.files}
        ignored = [pattern for pattern in others if pattern[1:] not in own]
        return Path(snapshot_download(loaded.name, ignore_patterns=ignored))
    return loaded.folder if loaded.folder is not None else loaded.weights.files[0]


def _copy_edited(
    source: Path, folder: Path, values: Mapping[StoredTensor, bytes]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Copy everything, `values` in place of what their tensors hold.

    Gives hashes of the edited files, before and after, and of the others.
    """
    edited = {tensor.file.name for tensor in values}
    copied = copy_folder(source, folder, edited.union(OF_A_REPAIR)) if source.is_dir() else {}
    hashes = {}
    for name in sorted(edited):
        original = source / name if source.is_dir() else source
        before = copy_with_hash(original, folder / name)
        own = {
            replace(tensor, file=folder / name): value
            for tensor, value in values.items()
            if tensor.file.name == name
        }
        replace_bytes(folder / name, own)
        shutil.copystat(original, folder / name)
        hashes[name] = {"before": before, "after": digest_of(folder / name)}
    return hashes, copied


def _weights(loaded: LoadedModel) -> list[str]:
    return [] if loaded.weights is None else [file.name for file in loaded.weights.files]


def _with_old_values(loaded: LoadedModel) -> list[str]:
    """Other weight files of the folder, which are copied and keep what they hold."""
    return [] if loaded.weights is None else [file.name for file in loaded.weights.unused]


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write to, and rename it to `out` once the block ends well.

    Raises:
        InputError: `out` holds something already.
        JobError: it cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> with whole_folder(Path("repaired")) as folder:
        ...     _ = (folder / "config.json").write_text("{}")
        >>> sorted(file.name for file in Path("repaired").iterdir())
        ['config.json']
    """
    require_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as partial:
            folder = Path(partial) / "model"
            folder.mkdir()
            yield folder
            if out.exists():
                out.rmdir()
            folder.replace(out)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise JobError(f"{out} could not be written: {reason}") from None
