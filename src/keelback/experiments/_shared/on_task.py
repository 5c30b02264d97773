"""Settings of the experiments that train on a task."""

from pathlib import Path

from pydantic import PositiveInt

from keelback.experiments.experiment import Settings


class OnTaskSettings(Settings):
    """The task, where its data lie, and how many seeds for how long; the paper's by default."""

    task: str = "majority"
    seeds: PositiveInt = 5
    epochs: PositiveInt | None = None
    data: Path | None = None
    tokenizer: Path | None = None

    @property
    def label(self) -> str:
        """The task."""
        return self.task

    @property
    def paths(self) -> dict[str, Path]:
        """Where the data and the vocabulary lie, of those that were said."""
        given = {"data": self.data, "tokenizer": self.tokenizer}
        return {name: path for name, path in given.items() if path is not None}

    @property
    def seed_range(self) -> range:
        """Seeds 1, 2, ..."""
        return range(1, self.seeds + 1)
