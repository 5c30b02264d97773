"""Copies of weight files in which some tensors have other bytes, and all else is the same."""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from keelback.audit.checkpoints._files import StoredTensor, stored_tensors
from keelback.errors import InputError

_CHUNK = 1 << 24
_STREAMED = 0x08
"""Flag of a zip entry whose checksum stands behind its data."""


def copy_with_hash(source: Path, target: Path) -> str:
    """Copy a file as it is, a part at a time; gives its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            write.write(chunk)
    return digest.hexdigest()


def require_replaceable(tensors: Sequence[StoredTensor]) -> None:
    """Refuse tensors whose bytes cannot be replaced without touching those of another.

    Raises:
        InputError: a tensor without a place of its own in its file, or one that shares it.
    """
    for tensor in tensors:
        if tensor.place is None:
            raise InputError(
                f"{tensor.name} has no place of its own in {tensor.file.name} (a pickle of PyTorch "
                "before 1.6, or a tensor that is not contiguous); save the model as safetensors "
                "first"
            )
    chosen = {(tensor.file, tensor.name) for tensor in tensors}
    for file in {tensor.file for tensor in tensors}:
        for other in stored_tensors(file).values():
            for tensor in tensors:
                if (file, other.name) in chosen or tensor.file != file:
                    continue
                if _overlap(tensor, other):
                    raise InputError(
                        f"{tensor.name} and {other.name} share their bytes in {file.name}; to "
                        "edit one of them alone, save the model as safetensors first"
                    )


def _overlap(one: StoredTensor, other: StoredTensor) -> bool:
    if one.place is None or other.place is None:
        return False
    return one.place[0] < other.place[1] and other.place[0] < one.place[1]


def replace_bytes(file: Path, values: Mapping[StoredTensor, bytes]) -> None:
    """Write `values` over the bytes of their tensors in `file`, which has the tensors' own layout.

    In a file of `torch.save`, which is a zip archive, checksums that were right stay right.
    """
    is_zip = zipfile.is_zipfile(file)
    entries = _Entries(file) if is_zip else None
    right = entries.right_around(values) if entries is not None else []
    with file.open("r+b") as opened:
        for tensor, value in values.items():
            assert tensor.place is not None
            assert len(value) == tensor.place[1] - tensor.place[0]
            opened.seek(tensor.place[0])
            opened.write(value)
    if entries is not None:
        for index in right:
            entries.renew_checksum(index)


class _Entries:
    """The entries of a zip archive: where their data and their checksums lie."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with zipfile.ZipFile(file) as archive:
            self._infos = archive.infolist()
            at = archive.start_dir
        self._in_directory: list[int] = []
        self._data: list[int] = []
        with file.open("rb") as opened:
            for info in self._infos:
                opened.seek(at)
                record = opened.read(46)
                self._in_directory.append(at + 16)
                lengths = [int.from_bytes(record[i : i + 2], "little") for i in (28, 30, 32)]
                at += 46 + sum(lengths)
                opened.seek(info.header_offset)
                local = opened.read(30)
                name, extra = (int.from_bytes(local[i : i + 2], "little") for i in (26, 28))
                self._data.append(info.header_offset + 30 + name + extra)

    def right_around(self, values: Mapping[StoredTensor, bytes]) -> list[int]:
        """The entries that hold these tensors and whose checksums are right as they stand."""
        touched = [
            i
            for i, info in enumerate(self._infos)
            if any(
                tensor.place is not None
                and self._data[i] <= tensor.place[0] < self._data[i] + info.file_size
                for tensor in values
            )
        ]
        return [i for i in touched if self._checksum(i) == self._infos[i].CRC]

    def renew_checksum(self, index: int) -> None:
        """Write the checksum of what the entry holds now, wherever the archive states it."""
        info, data = self._infos[index], self._data[index]
        checksum = self._checksum(index).to_bytes(4, "little")
        places = [self._in_directory[index]]
        with self._file.open("r+b") as opened:
            opened.seek(info.header_offset + 14)
            if int.from_bytes(opened.read(4), "little") == info.CRC:
                places.append(info.header_offset + 14)
            if info.flag_bits & _STREAMED:
                opened.seek(data + info.compress_size)
                signed = opened.read(4) == b"PK\x07\x08"
                places.append(data + info.compress_size + (4 if signed else 0))
            for place in places:
                opened.seek(place)
                opened.write(checksum)

    def _checksum(self, index: int) -> int:
        info, checksum = self._infos[index], 0
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{self._file}: {info.filename} is compressed and cannot be edited")
        with self._file.open("rb") as opened:
            opened.seek(self._data[index])
            left = info.file_size
            while left and (chunk := opened.read(min(left, _CHUNK))):
                checksum = zlib.crc32(chunk, checksum)
                left -= len(chunk)
        return checksum
