"""What an experiment is: settings, the runs they call for, and what the results say."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from keelback.errors import InputError, describe, in_one_line, nearest
from keelback.experiments._checked_outcome import checked_outcome
from keelback.memory import require_memory
from keelback.outcome import Outcome
from keelback.plugins import check_output, require_methods
from keelback.registry import Registry, is_from_outside, require_name
from keelback.sweeps.run import Run
from keelback.sweeps.store import StoredRun


class Settings(BaseModel):
    """What a user may choose of an experiment. Subclasses add fields with the paper's defaults.

    Examples:
        >>> Settings(quick=True).label
        'quick'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = False

    @property
    def label(self) -> str:
        """What tells two requests for one experiment apart, fit for a folder's name."""
        return "quick" if self.quick else "full"


S = TypeVar("S", bound=Settings)


class Experiment(ABC, Generic[S]):
    """A sweep with a question: the runs that it needs, and the answer that they give.

    Examples:
        >>> class Nothing(Experiment[Settings]):
        ...     name = "nothing"
        ...     summary = "does nothing happen?"
        ...     settings_type = Settings
        ...
        ...     def runs(self, settings):
        ...         return []
        ...
        ...     def outcome(self, settings, results):
        ...         raise NotImplementedError
        >>> Nothing().runs(Settings())
        []
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    tasks: ClassVar[tuple[str, ...]] = ()
    """The tasks that it is made for, where its settings have a `task`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """What an experiment from outside gives is checked, whoever asks for it."""
        super().__init_subclass__(**options)
        if is_from_outside(cls):
            check_output(cls, "runs", _check_runs)
            check_output(cls, "outcome", _check_outcome)

    @abstractmethod
    def runs(self, settings: S) -> Sequence[Run]:
        """The runs to execute, each the full configuration of one training."""

    @abstractmethod
    def outcome(self, settings: S, results: Sequence[StoredRun]) -> Outcome:
        """What the results of `runs(settings)`, in their order, say."""

    def settings(self, given: Mapping[str, Any]) -> S:
        """Settings from what the user gave.

        Raises:
            InputError: a field that this experiment does not have, or a value that it cannot take.
        """
        fields = list(self.settings_type.model_fields)
        for name in given:
            if name not in fields:
                raise InputError(
                    f"experiment {self.name} has no setting {name}{nearest(name, fields)}"
                    f"; it has {', '.join(fields)}"
                )
        given = {name: _as_list(self.settings_type, name, value) for name, value in given.items()}
        try:
            settings = cast(S, self.settings_type.model_validate(given))
        except ValidationError as error:
            raise InputError(f"experiment {self.name}: {describe(error)}") from None
        if is_from_outside(self):
            require_name(f"label of {self.name}'s settings", settings.label)
        return settings

    def planned(self, settings: S, *, here: bool = True) -> Sequence[Run]:
        """`runs(settings)`, once it is known that this machine has the memory for their sizes.

        Args:
            settings: what the user chose.
            here: whether they are to be executed on this machine.

        Raises:
            InputError: it has not.
        """
        for name in ("seeds", "trials"):
            count = getattr(settings, name, None)
            if isinstance(count, int) and count > 2:
                one, two = (
                    len(self.runs(settings.model_copy(update={name: few}))) for few in (1, 2)
                )
                runs_of_all = one + (two - one) * (count - 1)
                require_memory(_BYTES_OF_RUN * runs_of_all, f"the runs of {count} {name}")
        runs = self.runs(settings)
        for run in runs if here else ():
            run.require_room()
        return runs


def _as_list(settings: type[Settings], name: str, value: object) -> object:
    """A text with commas, as a command line gives it, as a list where the field is one."""
    annotation = settings.model_fields[name].annotation
    kinds = {get_origin(one) for one in (annotation, *get_args(annotation))}
    if isinstance(value, str) and tuple in kinds:
        return [part.strip() for part in value.split(",")]
    return value


_BYTES_OF_RUN = 10_000.0
"""Of a run's configuration, while a sweep is under way."""


def _check_runs(experiment: Experiment[Any], runs: object, *_: Any, **__: Any) -> list[Run]:
    if not isinstance(runs, Iterable) or isinstance(runs, str | bytes | Mapping):
        raise InputError(f"experiment {experiment.name}: runs() gives {runs!r:.60}, not runs")
    found = list(runs)
    for run in found:
        if not isinstance(run, Run):
            raise InputError(f"experiment {experiment.name}: {run!r:.60} is no run")
    return found


def _check_outcome(experiment: Experiment[Any], outcome: object, *_: Any, **__: Any) -> Outcome:
    try:
        return checked_outcome(outcome)
    except InputError as error:
        raise InputError(f"experiment {experiment.name}, outcome(): {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"experiment {experiment.name}, outcome(): {in_one_line(error)}"
        ) from error


E = TypeVar("E", bound=Experiment[Any])


def register_experiment(experiment: type[E]) -> type[E]:
    """Make an experiment known to `keelback reproduce`; use it as a class decorator.

    The class is called without arguments.

    Raises:
        InputError: it is no whole experiment, or another one has its name.

    Examples:
        >>> @register_experiment
        ... class Nothing(Experiment[Settings]):
        ...     name = "nothing-of-an-example"
        ...     summary = "does nothing happen?"
        ...     settings_type = Settings
        ...
        ...     def runs(self, settings):
        ...         return []
        ...
        ...     def outcome(self, settings, results):
        ...         raise NotImplementedError
        >>> Nothing.name
        'nothing-of-an-example'
    """
    if not (isinstance(experiment, type) and issubclass(experiment, Experiment)):
        raise InputError(
            f"{experiment!r} is no experiment: derive a class from keelback.experiments.Experiment"
        )
    missing = sorted(getattr(experiment, "__abstractmethods__", ()))
    missing += [n for n in ("name", "summary", "settings_type") if not hasattr(experiment, n)]
    if missing:
        raise InputError(f"the experiment {experiment.__qualname__} lacks {', '.join(missing)}")
    settings = experiment.settings_type
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise InputError(
            f"the settings_type of the experiment {experiment.__qualname__} should be a class "
            "derived from keelback.experiments.Settings"
        )
    if not isinstance(experiment.summary, str) or experiment.name == "all":
        raise InputError(
            f"the experiment {experiment.__qualname__} needs a name other than `all`, and a "
            "summary in one line"
        )
    made = experiment()
    require_methods(made, ("runs", "outcome"))
    EXPERIMENTS.add(experiment.name, made)
    return experiment


EXPERIMENTS: Registry[Experiment[Any]] = Registry(
    "experiment", "keelback.experiments", register_experiment
)
"""The known experiments by name. `register_experiment` adds to it, as do installed packages."""
