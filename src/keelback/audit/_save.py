"""A repaired model on disk: a checkpoint that loads without keelback, and what undoes it."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from keelback.audit._edits import keep
from keelback.audit._load import LoadedModel, quiet_transformers
from keelback.audit._repair import Repair
from keelback.errors import InputError, JobError
from keelback.files import replacing
from keelback.models import WEIGHTS_FILE, save_model

REPORT_FILE = "keelback_repair.json"
REPLACED_FILE = "keelback_replaced.safetensors"
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)


def save_repaired(loaded: LoadedModel, repair: Repair, out: Path) -> None:
    """Write the model, its tokenizer, the repair's report and the values it replaced, all or none.

    Raises:
        InputError: `out` holds something already.
        JobError: it cannot be written.
    """
    replaced = {name: value.cpu().contiguous() for name, value in repair.replaced.items()}
    report = {**repair.to_json(), "source": loaded.name}

    def fill(folder: Path) -> None:
        _save_model(loaded, folder)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2), encoding="utf-8")
        if replaced:
            with replacing(folder / REPLACED_FILE) as file:
                save_file(replaced, file)

    _write_folder(out, fill)


def save_loaded(loaded: LoadedModel, out: Path) -> None:
    """Write the model as it is, and its tokenizer, all or none.

    Raises:
        InputError: `out` holds something already.
        JobError: it cannot be written.
    """
    _write_folder(out, lambda folder: _save_model(loaded, folder))


def undo_repair(loaded: LoadedModel, out: Path) -> list[str]:
    """Put back the values that a repair replaced and write the model to `out`; gives their names.

    Raises:
        InputError: the model's folder holds no repair, or `out` holds something already.
    """
    source = None if loaded.folder is None else loaded.folder / REPLACED_FILE
    if source is None or not source.is_file():
        raise InputError(f"{loaded.name} was not repaired by keelback: it has no {REPLACED_FILE}")
    try:
        replaced = load_file(source)
        keep(loaded.model, replaced)
    except (SafetensorError, AttributeError, RuntimeError) as error:
        raise InputError(f"{source} does not fit the model beside it ({error})") from None
    save_loaded(loaded, out)
    return sorted(replaced)


def require_free(out: Path) -> None:
    """Refuse to write where something is.

    Raises:
        InputError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; give --out a folder that does not, or is empty")


def _save_model(loaded: LoadedModel, folder: Path) -> None:
    model: Any = loaded.model
    if not hasattr(model, "save_pretrained"):
        save_model(model, folder / WEIGHTS_FILE)
        return
    if loaded.stored_as is not None:
        model.to(loaded.stored_as)
    with quiet_transformers():
        model.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)  # made for the owner's eyes alone
    if loaded.folder is not None:
        _copy_tokenizer(loaded.folder, folder)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file() and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)


def _write_folder(out: Path, fill: Any) -> None:
    require_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as partial:
            folder = Path(partial) / "model"
            folder.mkdir()
            fill(folder)
            if out.exists():
                out.rmdir()
            folder.replace(out)
    except OSError as error:
        raise JobError(f"{out} could not be written: {error.strerror or error}") from None
