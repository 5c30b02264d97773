"""A repaired model on disk: a copy of its folder with a few tensors edited, and what undoes it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from keelback.audit._parameters import Parameters
from keelback.audit.checkpoints._files import StoredTensor, stored_tensors
from keelback.audit.checkpoints._load import LoadedModel
from keelback.audit.checkpoints._rewrite import (
    copy_with_hash,
    hash_of,
    replace_bytes,
    require_replaceable,
)
from keelback.errors import InputError, JobError
from keelback.files import replacing

if TYPE_CHECKING:
    from keelback.audit.repairs import Repair

REPORT_FILE = "keelback_repair.json"
REPLACED_FILE = "keelback_replaced.safetensors"
_OF_A_REPAIR = (REPORT_FILE, REPLACED_FILE)


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
    require_free(out)
    source = _source_of(loaded)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out} lies inside {source}, which is copied; give another --out")
    if source.is_dir() and (source / REPORT_FILE).is_file():
        raise InputError(
            f"{source} was repaired already; take that back first (keelback repair {source} --undo "
            "--out FOLDER)"
        )
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
        files = _copy_edited(source, folder, new)
        written = {
            **repair.to_json(),
            "source": loaded.name,
            "tensors": {tensor.name: tensor.file.name for tensor in new},
            "files": files,
            "left_as_they_are": _with_old_values(loaded),
        }
        (folder / REPORT_FILE).write_text(json.dumps(written, indent=2), encoding="utf-8")
        with replacing(folder / REPLACED_FILE) as file:
            save_file(old, file)
    return written


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


def undo_repair(source: str | Path, out: Path) -> list[str]:
    """Copy a repaired folder to `out` as it was before the repair, to the bit.

    Nothing is loaded but the values that were replaced.

    Returns:
        The names of the tensors that were put back.

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
    report, replaced = _record_of(source)
    tensors = dict(report["tensors"])
    if tensors.keys() != replaced.keys():
        raise InputError(f"{source / REPLACED_FILE} is not what {REPORT_FILE} beside it speaks of")
    old: dict[StoredTensor, bytes] = {}
    for name, file in tensors.items():
        there = stored_tensors(source / file).get(name) if (source / file).is_file() else None
        if there is None or there.place is None or there.dtype != replaced[name].dtype:
            raise InputError(f"{source} was changed after its repair: {name} of {file} is gone")
        old[there] = there.bytes_of(replaced[name])

    with whole_folder(out) as folder:
        _copy_edited(source, folder, old)
        for file, hashes in report["files"].items():
            if hash_of(folder / file) != hashes["before"]:
                raise InputError(
                    f"{source} was changed after its repair: with its old rates put back, {file} "
                    "is not the file that was repaired"
                )
    return sorted(tensors)


def _record_of(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    report_file, replaced_file = source / REPORT_FILE, source / REPLACED_FILE
    if not report_file.is_file() or not replaced_file.is_file():
        raise InputError(f"{source} was not repaired by keelback: it has no {REPLACED_FILE}")
    try:
        report = json.loads(report_file.read_text(encoding="utf-8"))
        if not {"tensors", "files"} <= report.keys():
            raise ValueError("it names no files")
        return report, load_file(replaced_file)
    except (ValueError, AttributeError, SafetensorError) as error:
        raise InputError(f"the record of the repair in {source} is damaged ({error})") from None


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


def _source_of(loaded: LoadedModel) -> Path:
    """The folder to copy, all of it for a name on the Hub; or the file that is the model."""
    if loaded.weights is None:
        raise InputError(f"{loaded.name} did not come from files, so there is nothing to copy")
    if loaded.on_hub:
        from huggingface_hub import snapshot_download

        others = [f"*{suffix}" for suffix in (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")]
        own = {file.suffix for file in loaded.weights.files}
        ignored = [pattern for pattern in others if pattern[1:] not in own]
        return Path(snapshot_download(loaded.name, ignore_patterns=ignored))
    return loaded.folder if loaded.folder is not None else loaded.weights.files[0]


def _copy_edited(
    source: Path, folder: Path, values: Mapping[StoredTensor, bytes]
) -> dict[str, dict[str, str]]:
    """Copy everything, `values` in place of what their tensors hold; gives hashes of the files."""
    edited = {tensor.file.name for tensor in values}
    if source.is_dir():

        def skipped(at: str, names: list[str]) -> set[str]:
            here = Path(at) == source
            return {n for n in names if here and (n in edited or n in _OF_A_REPAIR)}

        shutil.copytree(source, folder, ignore=skipped, dirs_exist_ok=True)
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
        hashes[name] = {"before": before, "after": hash_of(folder / name)}
    return hashes


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
