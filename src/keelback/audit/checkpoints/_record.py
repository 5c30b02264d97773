"""The record of a repair that lies beside the repaired weights, and by which it is undone."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from keelback.audit.checkpoints._files import StoredTensor, stored_tensors
from keelback.errors import InputError, in_one_line

REPORT_FILE = "keelback_repair.json"
REPLACED_FILE = "keelback_replaced.safetensors"
OF_A_REPAIR = (REPORT_FILE, REPLACED_FILE)

_READ_FIRST = ("config.json", "model.safetensors", "pytorch_model.bin")
"""Files that say what a model computes wherever they are, new ones as well."""


class _Hashes(BaseModel):
    before: str
    after: str


class Record(BaseModel):
    """What a repair changed, and the SHA-256 of each file.

    Attributes:
        tensors: the edited tensors, and the file that each is in.
        files: the edited files, before and after.
        copied: all others; none in the records of keelback before this was kept.
        weights: names of the files that the model was loaded from.
    """

    tensors: dict[str, str]
    files: dict[str, _Hashes]
    copied: dict[str, str] = {}
    weights: list[str] = []

    def changed_since(self, hashes: Mapping[str, str]) -> list[str]:
        """Files that were copied with the repair and are others now, gone, or new.

        Args:
            hashes: of the files that are there now, without the edited ones.
        """
        if not self.copied:
            return []
        every = self.copied.keys() | hashes.keys()
        return sorted(name for name in every if self.copied.get(name) != hashes.get(name))

    def is_of_the_model(self, file: str) -> bool:
        """Whether a file, by its path in the folder, says what the model computes."""
        return file in (*self.weights, *_READ_FIRST) or file.endswith(".index.json")


def record_of(source: Path) -> tuple[Record, dict[StoredTensor, bytes]]:
    """The record of a repaired folder, and the bytes that each edited tensor had before.

    Raises:
        InputError: `source` was not repaired, its record is damaged, or an edited tensor is gone.
    """
    report_file, replaced_file = source / REPORT_FILE, source / REPLACED_FILE
    if not report_file.is_file() or not replaced_file.is_file():
        raise InputError(f"{source} was not repaired by keelback: it has no {REPLACED_FILE}")
    try:
        record = Record.model_validate_json(report_file.read_bytes())
        replaced = load_file(replaced_file)
    except (ValidationError, SafetensorError, OSError) as error:
        reason = in_one_line(error)
        raise InputError(f"the record of the repair in {source} is damaged ({reason})") from None
    named = set(record.tensors.values())
    if record.tensors.keys() != replaced.keys() or named != record.files.keys():
        raise InputError(f"{replaced_file} does not match {REPORT_FILE} beside it")
    return record, dict(_old(source, record, replaced))


def _old(
    source: Path, record: Record, replaced: Mapping[str, Tensor]
) -> list[tuple[StoredTensor, bytes]]:
    found = []
    for name, file in record.tensors.items():
        if file != Path(file).name:
            raise InputError(f"{source / REPORT_FILE} names {file}, which is no file beside it")
        at = source / file
        there = stored_tensors(at).get(name) if at.is_file() else None
        if there is None or there.place is None or there.dtype != replaced[name].dtype:
            raise InputError(f"{source} was changed after its repair: {name} of {file} is gone")
        found.append((there, there.bytes_of(replaced[name])))
    return found
