"""The runs that a store's experiments plan, from the notes that `keelback reproduce` leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keelback.errors import InputError, in_one_line
from keelback.experiments import EXPERIMENTS, get_experiment
from keelback.experiments.requests import PATHS
from keelback.files import parsed_json
from keelback.sweeps.claims import byte_of
from keelback.sweeps.run import name_of
from keelback.sweeps.store import Store
from keelback.watch._snapshot import finite, require_inside, short


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan: its configuration, its cost, and the byte that its batch locks."""

    name: str
    fields: Mapping[str, Any]
    cost: float
    byte: int


@dataclass(frozen=True)
class PlannedRuns:
    """The runs of one experiment, by their names, or why they are not known."""

    name: str
    runs: Mapping[str, PlannedRun]
    problem: str = ""


class Plans:
    """Reads the notes of a store; each is planned again only when its file has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Path, tuple[tuple[int, int], PlannedRuns]] = {}

    def read(self) -> list[PlannedRuns]:
        """One plan per note, in the order of their names."""
        folder = self._store.directory / "requests"
        found = []
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # Replaced at this moment.
            stamp = (status.st_mtime_ns, status.st_size)
            if self._known.get(path, (None,))[0] != stamp:
                self._known[path] = stamp, self._planned(path)
            found.append(self._known[path][1])
        return found

    def _planned(self, path: Path) -> PlannedRuns:
        name = short(path.stem)
        try:
            return PlannedRuns(name, self._runs(path))
        except Exception as error:  # whatever a damaged note or a part from outside raises
            return PlannedRuns(name, {}, f"its plan cannot be read: {in_one_line(error)}")

    def _runs(self, path: Path) -> dict[str, PlannedRun]:
        require_inside(path, self._store.directory)
        if not path.is_file():
            raise InputError(f"{path} is no file of the store")
        record = parsed_json(path.read_text())
        name, given = str(record["experiment"]), dict(record["settings"])
        if any(given.get(setting) is not None for setting in PATHS):
            return _listed(record)
        if name not in EXPERIMENTS:
            self._store.require_plugins(dict(record.get("plugins", {})))
        experiment = get_experiment(name)
        runs = experiment.planned(experiment.settings(given), here=False)
        return {
            run.name: PlannedRun(run.name, run.fields(), run.cost(), byte_of(run.batch_key()))
            for run in runs
        }


def _listed(record: Mapping[str, Any]) -> dict[str, PlannedRun]:
    """The runs as the note lists them: what they depend on lies outside the store."""
    if "runs" not in record:
        raise InputError("its runs are not listed, and its data lie elsewhere")
    return {run.name: run for run in map(_listed_run, record["runs"])}


def _listed_run(record: Mapping[str, Any]) -> PlannedRun:
    cost = finite(record["cost"])
    if cost is None or cost < 0:
        raise InputError(f"the cost of a run is {short(record['cost'])}")
    fields = dict(record["fields"])
    return PlannedRun(name_of(fields), fields, cost, int(record["byte"]))
