"""What a task is: sequences of token ids with labels, in a training and a test split."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from keelback.data.ragged import PaddingSide, Ragged
from keelback.data.split import Split, SplitName, checked_split
from keelback.errors import InputError, describe, nearest
from keelback.plugins import check_output, only_part, require_methods
from keelback.registry import Registry


class TaskSettings(BaseModel):
    """What every task lets its user choose. A task adds its own fields in a subclass.

    The command line offers `seq_len`, `n_train`, `n_test`, `data` and `tokenizer` to the tasks that
    have fields of these names.

    Examples:
        >>> TaskSettings(data_seed=3).data_seed
        3
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_seed: int = Field(default=0, ge=0, le=2**32 - 1)


class Task(ABC):
    """A source of labelled token sequences.

    A subclass names itself, says which settings it takes, how large its vocabulary is and how many
    classes it has, and loads or generates a split. Two classes mean a binary head (one logit),
    more a multiclass head.

    Examples:
        >>> task = get_task("majority", seq_len=10, n_train=5)
        >>> isinstance(task, Task), len(task.split("train"))
        (True, 5)
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[TaskSettings]] = TaskSettings
    n_classes: ClassVar[int]
    pad_id: ClassVar[int | None] = None
    """The id that fills a sequence up; None where all sequences have the same length."""
    shifted_test: ClassVar[bool] = False
    """Whether the test split is drawn from another distribution than the training split."""

    settings: TaskSettings

    def __init_subclass__(cls, **options: Any) -> None:
        """What a task gives is checked where it enters, whoever asks for it."""
        super().__init_subclass__(**options)
        for name, check in _CHECKS.items():
            check_output(cls, name, check)

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

    def require_room(self) -> None:  # noqa: B027 (a task need not)
        """Check, before any work, that this machine has the memory that the examples take.

        Raises:
            InputError: it has not. By default nothing is checked.
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
    """The seed of data that belong to no run with this data seed: far from all that people use.

    Examples:
        >>> fresh_seed(1) != 1
        True
    """
    return (data_seed + 1_000_000) % 2**32


def check_task(task: object) -> None:
    """Check that `task` is a class that can be registered.

    Raises:
        InputError: it says what is missing.
    """
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise InputError(f"{task!r} is no task: derive a class from keelback.data.Task")
    missing = sorted(getattr(task, "__abstractmethods__", ()))
    missing += [name for name in ("name", "n_classes") if not hasattr(task, name)]
    if missing:
        raise InputError(f"the task {task.__qualname__} lacks {', '.join(missing)}")
    if not (isinstance(task.settings_type, type) and issubclass(task.settings_type, TaskSettings)):
        raise InputError(
            f"the settings_type of the task {task.__qualname__} should be a class derived from "
            "keelback.data.TaskSettings"
        )
    for name, check in (("vocab_size", _check_vocab_size), ("n_classes", _check_n_classes)):
        value = getattr(task, name)
        if not isinstance(value, property):
            check(task, value)


def _check_split(task: Task, split: object, name: SplitName) -> Split:
    try:
        vocab_size = _check_vocab_size(task, task.vocab_size)
        return checked_split(split, vocab_size, _check_n_classes(task, task.n_classes))
    except InputError as error:
        raise InputError(f"task {task.name}, {name} split: {error}") from None


def _check_vocab_size(task: Any, size: object) -> int:
    return _whole(task, "vocab_size", size, 1, "token ids are 0, ..., vocab_size - 1")


def _check_n_classes(task: Any, classes: object) -> int:
    return _whole(task, "n_classes", classes, 2, "labels are 0, ..., n_classes - 1")


def _whole(task: Any, name: str, value: object, least: int, meaning: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31:
        return value
    raise InputError(
        f"the {name} of the task {task.name} is {value!r}; it should be a whole number, {least} or "
        f"more: {meaning}"
    )


def _check_pair(task: Task, pair: object) -> tuple[Split, Split]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise InputError(f"task {task.name}: train_and_test() gives {pair!r:.60}, not two splits")
    return _check_split(task, pair[0], "train"), _check_split(task, pair[1], "test")


def _check_fresh(task: Task, fresh: object) -> Task:
    if isinstance(fresh, Task):
        return fresh
    raise InputError(f"task {task.name}: fresh() gives {fresh!r:.60}, not a task")


def _check_fingerprint(task: Task, fingerprint: object) -> str | None:
    if fingerprint is None or isinstance(fingerprint, str):
        return fingerprint
    raise InputError(
        f"the fingerprint of the task {task.name} is {fingerprint!r}; it should be text that the "
        "data decide, or None"
    )


_CHECKS: dict[str, Any] = {
    "split": _check_split,
    "train_and_test": _check_pair,
    "fresh": _check_fresh,
    "vocab_size": _check_vocab_size,
    "n_classes": _check_n_classes,
    "fingerprint": _check_fingerprint,
}

TaskT = TypeVar("TaskT", bound=Task)


def register_task(task: type[TaskT]) -> type[TaskT]:
    """Make a task known to `get_task` and to the command line; use it as a class decorator.

    Raises:
        InputError: it is no task, or not a whole one, or another task has its name.

    Examples:
        >>> @register_task
        ... class Votes(Majority):
        ...     name = "votes-of-an-example"
        >>> get_task("votes-of-an-example", seq_len=5, n_train=3).name
        'votes-of-an-example'
    """
    check_task(task)
    TASKS.add(task.name, task)
    return task


TASKS: Registry[type[Task]] = Registry("task", "keelback.tasks", register_task)
"""The known tasks by name. `register_task` adds to it, and so do installed packages."""


def task_name(task: str) -> str:
    """The name of a task that is given by its name or as `FILE.py`, which is loaded.

    Raises:
        InputError: the file cannot be loaded, or does not register one task.

    Examples:
        >>> task_name("majority")
        'majority'
    """
    return only_part(TASKS, task) if task.endswith(".py") else task


def require_task(name: str) -> None:
    """Check that a task of this name is registered.

    Raises:
        InputError: there is none.

    Examples:
        >>> require_task("majority")
    """
    if name not in TASKS:
        known = sorted(TASKS)
        raise InputError(
            f"there is no task {name!r}; choose one of {', '.join(known)}, or name a "
            f"Python file that registers one{nearest(name, known)}"
        )


def get_task(name: str, **settings: object) -> Task:
    """Make the task `name` with these settings; a setting that is None keeps its default.

    `name` is a registered name, or `FILE.py` for a file that registers one task of its own.

    Raises:
        InputError: there is no such task or setting, or a setting has a wrong value.

    Examples:
        >>> task = get_task("majority", seq_len=100, data_seed=1)
        >>> task.split("test").tokens.shape
        torch.Size([1000, 100])
    """
    name = task_name(name)
    require_task(name)
    task = TASKS[name]
    given = {key: value for key, value in settings.items() if value is not None}
    fields = list(task.settings_type.model_fields)
    for unknown in sorted(given.keys() - set(fields)):
        raise InputError(
            f"task {task.name} has no setting {unknown}; it takes {', '.join(fields)}"
            f"{nearest(unknown, fields)}"
        )
    try:
        made = task(task.settings_type.model_validate(given))
    except ValidationError as error:
        raise InputError(f"task {task.name}: {describe(error)}") from None
    require_methods(made, ("split", "train_and_test", "fresh", "fingerprint"))
    return made
