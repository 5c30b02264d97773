"""Which experiments a store was made for, so that a report can be written again from it."""

import json

from keelback.errors import InputError
from keelback.experiments._catalogue import get_experiment
from keelback.experiments.experiment import Settings
from keelback.files import write_json
from keelback.outcome import Outcome
from keelback.sweeps.store import Store

_REQUESTS = "requests"


def save_request(store: Store, experiment: str, settings: Settings, command: str) -> None:
    """Note that the store serves `experiment`; the newest note of a label counts."""
    folder = store.directory / _REQUESTS
    folder.mkdir(exist_ok=True)
    record = {
        "experiment": experiment,
        "settings": settings.model_dump(mode="json"),
        "command": command,
    }
    path = folder / f"{experiment}-{settings.label}.json"
    write_json(path, record)


def outcomes(store: Store) -> list[Outcome]:
    """What each experiment noted in the store says of the runs that are finished by now.

    Raises:
        InputError: a note was damaged or edited, or none of an experiment's runs is finished.
    """
    found = []
    for path in sorted((store.directory / _REQUESTS).glob("*.json")):
        try:
            record = json.loads(path.read_text())
            experiment = get_experiment(record["experiment"])
            settings = experiment.settings(record["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged or was edited: {error}") from None
        planned = experiment.runs(settings)
        finished = [store.get(run.name) for run in planned if run in store]
        if planned and not finished:
            raise InputError(f"none of the runs of {path.stem} is finished; run its command again")
        found.append(experiment.outcome(settings, finished))
    return found
