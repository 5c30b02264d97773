"""What an experiment is: settings, the runs they call for, and what the results say."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from keelback.errors import InputError, describe, nearest
from keelback.outcome import Outcome
from keelback.sweeps.run import Run
from keelback.sweeps.store import StoredRun


class Settings(BaseModel):
    """What a user may choose of an experiment. Subclasses add fields with the paper's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = False

    @property
    def label(self) -> str:
        """What tells two requests for one experiment apart, fit for a folder's name."""
        return "quick" if self.quick else "full"


S = TypeVar("S", bound=Settings)


class Experiment(ABC, Generic[S]):
    """A sweep with a question: the runs that it needs, and the answer that they give."""

    name: ClassVar[str]
    summary: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    tasks: ClassVar[tuple[str, ...]] = ()
    """The tasks that it is made for, where its settings have a `task`."""

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
        try:
            return cast(S, self.settings_type.model_validate(dict(given)))
        except ValidationError as error:
            raise InputError(f"experiment {self.name}: {describe(error)}") from None
