"""A run that trains at one length and scores the model at others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from pydantic import PositiveInt

from keelback.data import Task, get_task
from keelback.models import model_config
from keelback.sweeps.run import Progress, RunResult, Scalar
from keelback.sweeps.training_run import TrainingRun
from keelback.training import accuracy


class LengthTransferRun(TrainingRun):
    """One training, then the test accuracy at each of `test_lengths`.

    The summary has `test_accuracy_at_T` for each of them, None where the training diverged. Bounds
    on the lengths of the training sequences do not apply to them.
    """

    kind: ClassVar[str] = "length-transfer"

    test_lengths: tuple[PositiveInt, ...]

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Train the runs side by side, then score each at every length."""
        for run, result in super().execute(runs, progress):
            yield run, replace(result, summary={**result.summary, **run._scores(result)})

    def require_room(self) -> None:
        """Check that the examples of every length fit besides."""
        super().require_room()
        for length in self.test_lengths:
            self._task_at(length).require_room()

    def _scores(self, result: RunResult) -> dict[str, Scalar]:
        names = {length: f"test_accuracy_at_{length}" for length in self.test_lengths}
        if result.summary["diverged"]:
            return dict.fromkeys(names.values())
        device = next(iter(result.weights.values())).device
        model = model_config(self.model).build().to(device)
        model.load_state_dict(result.weights)
        scores: dict[str, Scalar] = {}
        for length, name in names.items():
            scores[name] = accuracy(model, self._task_at(length).split("test").to(device))
        return scores

    def _task_at(self, length: int) -> Task:
        at_length = {"seq_len": length, "min_length": None, "max_length": None}
        return get_task(self.task, **{**self.task_settings, **at_length}, **self.paths)
