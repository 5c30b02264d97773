"""What a task is: sequences of token ids with labels, in a training and a test split."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar, get_args

import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from keelback.data.ragged import PaddingSide, Ragged
from keelback.errors import InputError, describe, nearest

SplitName = Literal["train", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Split:
    """The examples of one split, padded to one length.

    `tokens` is int32 (which `torch.nn.functional.embedding` takes as it is), `labels` is int64.
    `lengths` counts the tokens of each sequence before padding.
    """

    tokens: Int[Tensor, "examples length"]
    labels: Int[Tensor, " examples"]
    lengths: Int[Tensor, " examples"]

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.labels) == len(self.lengths):
            raise ValueError(
                f"a split needs one label and one length for each sequence, not "
                f"{len(self.tokens)} sequences, {len(self.labels)} labels, "
                f"{len(self.lengths)} lengths"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def seq_len(self) -> int:
        """The padded length: the position that a last-position head reads is `seq_len - 1`."""
        return self.tokens.shape[1]

    def first(self, count: int) -> "Split":
        """The first `count` examples, as views."""
        return Split(self.tokens[:count], self.labels[:count], self.lengths[:count])

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return Split(self.tokens.to(device), self.labels.to(device), self.lengths.to(device))


class TaskSettings(BaseModel):
    """What every task lets its user choose. A task adds its own fields in a subclass.

    The command line offers `seq_len`, `n_train`, `n_test`, `data` and `tokenizer` to the tasks that
    have fields of these names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_seed: int = Field(default=0, ge=0, le=2**32 - 1)


class Task(ABC):
    """A source of labelled token sequences.

    A subclass names itself, says which settings it takes, how large its vocabulary is and how many
    classes it has, and loads or generates a split. Two classes mean a binary head (one logit),
    more a multiclass head.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[TaskSettings]] = TaskSettings
    n_classes: ClassVar[int]
    pad_id: ClassVar[int | None] = None
    """The id that fills a sequence up; None where all sequences have the same length."""
    shifted_test: ClassVar[bool] = False
    """Whether the test split is drawn from another distribution than the training split."""

    settings: TaskSettings

    def __init__(self, settings: TaskSettings) -> None:
        if not isinstance(settings, self.settings_type):
            raise TypeError(f"{self.name} takes {self.settings_type.__name__}")
        self.settings = settings

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Token ids are 0, ..., `vocab_size - 1`. A class attribute where the number is fixed."""

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """Load or generate one split.

        The same settings give the same split, bit for bit.

        Raises:
            InputError: the data cannot be read, or are not what the settings say.
        """

    def fingerprint(self) -> str | None:
        """What the loaded data are; None where the settings alone decide them.

        Raises:
            InputError: the data cannot be found.
        """
        return None

    @property
    def held_out(self) -> bool:
        """Whether the two splits are different data, so that one can test what the other taught."""
        return True

    def train_and_test(self) -> tuple[Split, Split]:
        """Both splits, for training.

        Raises:
            InputError: the data hold one split only.
        """
        if not self.held_out:
            raise InputError(
                f"training on {self.name} needs a training and a test split, but the data are one "
                "file: give a folder that holds both"
            )
        return self.split("train"), self.split("test")

    def fresh(self) -> "Task":
        """The same task on other data of the same distribution, which no training has seen.

        Only for a task that generates its data from `data_seed`.
        """
        seed = fresh_seed(self.settings.data_seed)
        return type(self)(self.settings.model_copy(update={"data_seed": seed}))

    def collate(
        self,
        sequences: Iterable[Sequence[int]],
        length: int | None = None,
        side: PaddingSide = "right",
    ) -> Int[Tensor, "examples length"]:
        """Put sequences of token ids into one int32 tensor, padded to `length` or to the longest.

        Raises:
            InputError: a sequence is longer than `length`, or the task has no padding id and the
                lengths differ.
        """
        ragged = Ragged.from_sequences(sequences)
        if self.pad_id is None and len(set(ragged.lengths.tolist())) > 1:
            raise InputError(f"{self.name} has no padding id: all sequences need the same length")
        return torch.from_numpy(ragged.padded(self.pad_id or 0, length, side))


def fresh_seed(data_seed: int) -> int:
    """The seed of data that belong to no run with this data seed: far from all that people use."""
    return (data_seed + 1_000_000) % 2**32


TaskT = TypeVar("TaskT", bound=Task)

TASKS: dict[str, type[Task]] = {}
"""The known tasks by name. `register_task` adds to it."""


def register_task(task: type[TaskT]) -> type[TaskT]:
    """Make a task known to `get_task` and to the command line; use it as a class decorator."""
    known = TASKS.get(task.name)
    if known is not None and known.__qualname__ != task.__qualname__:
        raise InputError(f"there is already a task named {task.name!r}: {known.__qualname__}")
    TASKS[task.name] = task
    return task


def get_task(name: str, **settings: object) -> Task:
    """Make the task `name` with these settings; a setting that is None keeps its default.

    `name` is a registered name, or `FILE.py` for a file that registers one task of its own.

    Raises:
        InputError: there is no such task or setting, or a setting has a wrong value.
    """
    task = _task_from_file(Path(name)) if name.endswith(".py") else TASKS.get(name)
    if task is None:
        raise InputError(
            f"there is no task {name!r}; choose one of {', '.join(sorted(TASKS))}, or name a "
            f"Python file that registers one{nearest(name, list(TASKS))}"
        )
    given = {key: value for key, value in settings.items() if value is not None}
    fields = list(task.settings_type.model_fields)
    for unknown in sorted(given.keys() - set(fields)):
        raise InputError(
            f"task {task.name} has no setting {unknown}; it takes {', '.join(fields)}"
            f"{nearest(unknown, fields)}"
        )
    try:
        return task(task.settings_type.model_validate(given))
    except ValidationError as error:
        raise InputError(f"task {task.name}: {describe(error)}") from None


def _task_from_file(path: Path) -> type[Task]:
    if not path.is_file():
        raise InputError(f"there is no task file {path}")
    spec = importlib.util.spec_from_file_location(f"keelback_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    before = dict(TASKS)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    found = [task for key, task in TASKS.items() if before.get(key) is not task]
    if len(found) != 1:
        raise InputError(
            f"{path} registers {len(found)} tasks with @register_task; it should register one"
        )
    return found[0]
