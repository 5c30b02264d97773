"""A model as a short file: quantised weights under a prefix code, and the way back."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from keelback.certify._alphabet import OF_BYTES, Alphabet
from keelback.certify._coder import LARGEST_ALPHABET, decode, encode
from keelback.certify._subspace import assemble, bases_of, shapes_of
from keelback.errors import InputError, describe
from keelback.files import write_atomically

MAGIC = b"keelback coded model 1\n"


class CodedHeader(BaseModel):
    """What the file says besides the numbers.

    Attributes:
        config: the model's configuration in transformers.
        lowest: the lowest quantised value of each tensor, in the order of `named_parameters`, or
            for a model in a subspace that of each factor.
        highest: the highest.
        seed: of the random weights that the coded ones are added to; none where they are all coded.
        rank: of the coded change of a matrix of random weights, at most (`rank_of`).
        context: how many tokens before a window of text the model reads along with it.
        window: how many tokens of a text are predicted at a time.
        merges: of the alphabet that the model reads; none where it reads bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    lowest: list[int]
    highest: list[int]
    seed: int | None = None
    rank: int = Field(default=0, ge=0)
    context: int = Field(ge=1)
    window: int = Field(ge=1)
    merges: tuple[tuple[int, int], ...] = ()

    @model_validator(mode="after")
    def _both_or_neither(self) -> "CodedHeader":
        if (self.seed is None) != (self.rank == 0):
            raise ValueError("a subspace needs a seed and a rank")
        return self


@dataclass(frozen=True)
class CodedTensor:
    """Whole numbers times a step."""

    values: Int32[np.ndarray, "*shape"]
    step: float

    def dequantised(self) -> Float[Tensor, "*shape"]:
        """The weights as the model uses them, in float32."""
        return torch.from_numpy(self.values.astype(np.float32)) * torch.tensor(self.step)


@dataclass(frozen=True)
class CodedModel:
    """A model that a file describes completely.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> recipe = CompressionRecipe(steps=1, batch=2, seq_len=16)
        >>> coded, _ = compress(model, torch.randint(256, (500,)), recipe, context=8, window=16)
        >>> type(coded.build()).__name__
        'MambaForCausalLM'
    """

    header: CodedHeader
    tensors: Mapping[str, CodedTensor]

    @property
    def alphabet(self) -> Alphabet:
        """What the model reads and predicts.

        Raises:
            InputError: merges of tokens that are not there.
        """
        return Alphabet(self.header.merges)

    def to_bytes(self) -> bytes:
        """The file's content.

        Raises:
            InputError: a tensor with more than 4096 values between its lowest and its highest.
        """
        runs = list(self.tensors.values())
        lowest = [int(run.values.min()) for run in runs]
        highest = [int(run.values.max()) for run in runs]
        header = self.header.model_copy(update={"lowest": lowest, "highest": highest})
        text = json.dumps(header.model_dump(exclude_defaults=True), separators=(",", ":"))
        packed = zlib.compress(text.encode(), 9)
        steps = np.array([run.step for run in runs], dtype="<f4").tobytes()
        symbols = np.concatenate(
            [run.values.ravel() - low for run, low in zip(runs, lowest, strict=True)]
        ).astype(np.int32)
        code = encode(symbols, _lengths(runs), _alphabets(lowest, highest))
        return MAGIC + len(packed).to_bytes(4, "little") + packed + steps + code

    def save(self, path: Path) -> int:
        """Write the file in one step; gives its size in bytes."""
        content = self.to_bytes()
        write_atomically(path, content)
        return len(content)

    def build(self) -> nn.Module:
        """The model, in evaluation mode, in float32.

        Raises:
            InputError: the configuration builds no model, or one with other tensors.
        """
        model = build_model(self.header)
        rank, seed = self.header.rank, self.header.seed
        shapes = shapes_of(model, rank)
        found = {name: run.values.shape for name, run in self.tensors.items()}
        if found != shapes:
            raise InputError("the coded tensors are not those of the model that the file describes")
        bases = {} if seed is None else bases_of(model, rank, seed)
        weights = assemble({name: run.dequantised() for name, run in self.tensors.items()}, bases)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        return model.eval()


def is_coded_model(path: Path) -> bool:
    """Whether a file begins like a coded model.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("note.txt").write_text("not a model")
        >>> is_coded_model(Path("note.txt"))
        False
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_coded_model(path: Path) -> CodedModel:
    """Read what `CodedModel.save` wrote.

    Raises:
        InputError: no such file, another file, or one that is cut off or damaged.

    Examples:
        >>> from pathlib import Path
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> recipe = CompressionRecipe(steps=1, batch=2, seq_len=16)
        >>> coded, _ = compress(model, torch.randint(256, (500,)), recipe, context=8, window=16)
        >>> _ = coded.save(Path("model.coded"))
        >>> read_coded_model(Path("model.coded")).to_bytes() == coded.to_bytes()
        True
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        return _parsed(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _parsed(content: bytes) -> CodedModel:
    if not content.startswith(MAGIC):
        raise InputError("not a coded model of keelback")
    start = len(MAGIC) + 4
    size = int.from_bytes(content[len(MAGIC) : start], "little")
    try:
        text = zlib.decompress(content[start : start + size])
        header = CodedHeader.model_validate_json(text)
    except zlib.error as error:
        raise InputError(f"the header is damaged ({error})") from None
    except ValidationError as error:
        raise InputError(f"the header is not as it should be: {describe(error)}") from None
    shapes = shapes_of(build_model(header), header.rank)
    if not len(shapes) == len(header.lowest) == len(header.highest):
        raise InputError("the header's ranges do not fit the model's tensors")
    start += size
    stop = start + 4 * len(shapes)
    if len(content) < stop:
        raise InputError("the file is cut off")
    steps = np.frombuffer(content[start:stop], dtype="<f4")
    lengths = np.array([math.prod(shape) for shape in shapes.values()], dtype=np.int64)
    symbols = decode(content[stop:], lengths, _alphabets(header.lowest, header.highest))
    tensors, at = {}, 0
    for (name, shape), length, low, step in zip(
        shapes.items(), lengths, header.lowest, steps, strict=True
    ):
        values = (symbols[at : at + length] + low).astype(np.int32).reshape(shape)
        tensors[name] = CodedTensor(values, float(step))
        at += length
    found = CodedModel(header, tensors)
    if found.to_bytes() != content:
        raise InputError("the file is damaged: coding its model again gives another file")
    return found


def build_model(header: CodedHeader) -> nn.Module:
    """An untrained model of the header's configuration.

    Raises:
        InputError: transformers is missing, or the configuration is not one that it knows.
    """
    try:
        import transformers
    except ImportError:
        raise InputError("transformers is not installed: pip install 'keelback[hf]'") from None
    kind = str(header.config.get("model_type"))
    if kind not in transformers.CONFIG_MAPPING:
        raise InputError(f"transformers knows no model {kind!r}")
    config = transformers.CONFIG_MAPPING[kind].from_dict(dict(header.config))
    make: Any = transformers.AutoModelForCausalLM.from_config
    model: nn.Module = make(config)
    return model


def header_of(model: nn.Module, **settings: Any) -> CodedHeader:
    """The header of a model of transformers; `settings` are its other fields.

    Raises:
        InputError: another model, or one with stored tensors that are no parameters.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_diff_dict"):
        raise InputError(f"{type(model).__name__} is not a language model of transformers")
    stored = {tensor.data_ptr() for tensor in model.state_dict().values()}
    if stored - {parameter.data_ptr() for parameter in model.parameters()}:
        raise InputError(
            f"{type(model).__name__} stores tensors that are no parameters, which have no code"
        )
    fields = {**config.to_diff_dict(), "model_type": config.model_type}
    for name in ("_name_or_path", "architectures", "dtype", "transformers_version"):
        fields.pop(name, None)
    return CodedHeader.model_validate({"config": fields, "lowest": [], "highest": [], **settings})


def require_alphabet(model: nn.Module, alphabet: Alphabet = OF_BYTES) -> None:
    """Raise an InputError unless the model is a language model of transformers over the alphabet.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> require_alphabet(model)  # it reads bytes: nothing to say
    """
    config: Any = getattr(model, "config", None)
    vocab_size = getattr(config, "vocab_size", None)
    if not hasattr(config, "to_diff_dict") or not hasattr(model, "lm_head"):
        raise InputError(f"{type(model).__name__} is not a language model of transformers")
    if vocab_size != alphabet.vocab_size:
        what = "bytes" if alphabet == OF_BYTES else "tokens of the alphabet"
        raise InputError(
            f"the model has {vocab_size} tokens; it should have one for each of the "
            f"{alphabet.vocab_size} {what}"
        )


def _lengths(runs: list[CodedTensor]) -> Any:
    return np.array([run.values.size for run in runs], dtype=np.int64)


def _alphabets(lowest: list[int], highest: list[int]) -> Any:
    alphabets = np.array(highest, dtype=np.int64) - np.array(lowest, dtype=np.int64) + 1
    if (alphabets > LARGEST_ALPHABET).any():
        raise InputError(
            f"a tensor has more than {LARGEST_ALPHABET} values between its lowest and its highest"
        )
    return alphabets
