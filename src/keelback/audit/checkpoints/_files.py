"""The weight files of a model's folder: which tensors they hold, and where in the files these lie.

Nothing here loads a model. A tensor is known by its name, type, shape and the bytes that it takes
up, so that one can be read, or replaced in a copy of its file, without touching any other.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keelback.audit.checkpoints._pickled import PickledTensor, pickled_tensors
from keelback.errors import InputError
from keelback.files import parsed_json

SAFETENSORS_TYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_LONGEST_HEADER = 100_000_000
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")

PLAIN_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Types whose numbers stand for themselves, without a scale beside them."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: its type; `None` for one that this PyTorch does not have.
        stored_type: what the file calls it.
        place: first and last byte (exclusive) of it in the file, in C order and little-endian;
            `None` where a pickle does not keep it in one piece.
    """

    file: Path
    name: str
    dtype: torch.dtype | None
    stored_type: str
    shape: tuple[int, ...]
    place: tuple[int, int] | None

    @property
    def is_plain(self) -> bool:
        """Whether its numbers stand for themselves: a float of 16 bits or more."""
        return self.dtype in PLAIN_FLOATS

    def read(self) -> Tensor:
        """Its values, read from the file alone.

        Raises:
            InputError: a type that this PyTorch does not have, no fixed place in the file, or the
                file has become shorter.
        """
        if self.dtype is None:
            raise InputError(
                f"{self.name} in {self.file.name} is stored as {self.stored_type}, which this "
                "PyTorch cannot read"
            )
        if self.place is None:
            raise InputError(
                f"{self.name} is not in one piece in {self.file.name}; save its tensors as "
                "safetensors"
            )
        return self._numbers(*self.place).reshape(self.shape)

    def first(self, count: int) -> Tensor:
        """At most so many of its numbers from the first on, of one in one piece, in a row."""
        assert self.dtype is not None
        assert self.place is not None
        start, stop = self.place
        return self._numbers(start, min(stop, start + count * self.dtype.itemsize))

    def _numbers(self, start: int, stop: int) -> Tensor:
        """Those between two places in the file, in a row."""
        assert self.dtype is not None
        data = bytearray(stop - start)
        with self.file.open("rb") as file:
            file.seek(start)
            read = file.readinto(data)
        if read < len(data):
            raise InputError(f"{self.file.name} ends within {self.name}")
        if not data:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(self.dtype)

    def bytes_of(self, value: Tensor) -> bytes:
        """What `value`, rounded to the tensor's own type, takes the tensor's place as."""
        assert self.dtype is not None
        if tuple(value.shape) != self.shape:
            raise InputError(
                f"{self.name} in {self.file.name} has the shape {self.shape}; a value of shape "
                f"{tuple(value.shape)} cannot take its place"
            )
        plain = value.detach().to("cpu", self.dtype).contiguous().reshape(-1)
        return plain.view(torch.uint8).numpy().tobytes()


def stored_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file or of one that `torch.save` wrote, by name.

    Raises:
        InputError: another kind of file, a damaged one, or a pickle with more than tensors in it.
    """
    if file.suffix == ".safetensors":
        return dict(_of_safetensors(file))
    return {name: _of_pickle(file, name, own) for name, own in pickled_tensors(file).items()}


def _of_pickle(file: Path, name: str, own: PickledTensor) -> StoredTensor:
    word = str(own.dtype).removeprefix("torch.")
    return StoredTensor(file, name, own.dtype, word, own.shape, own.place)


def _of_safetensors(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Source: the format's description in the safetensors library, "Format"."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, _LONGEST_HEADER):
            raise InputError(f"{file}: a safetensors file is damaged or cut off (its header)")
        try:
            header = parsed_json(opened.read(length))
        except ValueError as error:
            raise InputError(f"{file}: a safetensors file is damaged ({error})") from None
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        if stop > size:
            raise InputError(f"{file}: a safetensors file is damaged or cut off ({name})")
        kind = entry["dtype"]
        dtype = SAFETENSORS_TYPES.get(kind)
        yield name, StoredTensor(file, name, dtype, kind, tuple(entry["shape"]), (start, stop))


@dataclass(frozen=True)
class WeightFiles:
    """The files that a folder's model is loaded from, and every tensor in them.

    Attributes:
        files: in the order of their names.
        tensors: by name.
        unused: other weight files of the folder, which loading it does not read.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    unused: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """How much the files take up together."""
        return sum(file.stat().st_size for file in self.files)


def weight_files(folder: Path, beside: Sequence[str] = ()) -> WeightFiles:
    """The weight files of a folder in the layout of transformers or mamba_ssm.

    As transformers does, takes `model.safetensors` if it is there, else the shards that
    `model.safetensors.index.json` names, else `pytorch_model.bin` or its shards.

    Args:
        folder: where they lie.
        beside: names of files that are read as well, if they are there.

    Raises:
        InputError: there are none, shards are missing, an index names tensors that its shards do
            not hold, or a tensor is in two shards.
    """
    more = tuple(folder / name for name in beside if (folder / name).is_file())
    for name in _WHOLE:
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return _opened(folder, (whole, *more), {})
        if index.is_file():
            weight_map = _weight_map(index)
            files = tuple(folder / shard for shard in sorted(set(weight_map.values())))
            _require_all(folder, files)
            return _opened(folder, (*files, *more), weight_map)
    raise InputError(f"{folder} cannot be loaded: no {' and no '.join(_WHOLE)} in it")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: Any = parsed_json(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} is not an index of shards ({error})") from None
    if not isinstance(weight_map, dict) or not all(_is_name(x) for x in weight_map.values()):
        raise InputError(f"{index} names shards that are not files beside it")
    return weight_map


def _is_name(shard: Any) -> bool:
    return isinstance(shard, str) and shard == Path(shard).name


def _require_all(folder: Path, files: tuple[Path, ...]) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} checkpoint shards are missing from {folder}: "
            f"{', '.join(missing[:3])}"
        )


def _opened(folder: Path, files: tuple[Path, ...], weight_map: Mapping[str, str]) -> WeightFiles:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        own = stored_tensors(file)
        twice = sorted(own.keys() & tensors.keys())
        if twice:
            raise InputError(f"{twice[0]} is in two shards of {folder}: {file.name} and another")
        tensors |= own
    lost = sorted(name for name, at in weight_map.items() if not _is_at(tensors.get(name), at))
    if lost:
        raise InputError(
            f"{len(lost)} tensors are not in the shards of {folder} that the index names for "
            f"them, the first {lost[0]}"
        )
    others = (f for f in sorted(folder.iterdir()) if f.suffix in _ENDINGS and f not in files)
    return WeightFiles(folder, files, tensors, tuple(others))


def _is_at(tensor: StoredTensor | None, shard: str) -> bool:
    return tensor is not None and tensor.file.name == shard
