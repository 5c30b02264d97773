"""Which experiments a store was made for, so that a report can be written again from it."""

from collections.abc import Sequence
from pathlib import Path

from keelback.errors import InputError, PluginError
from keelback.experiments._catalogue import get_experiment
from keelback.experiments.experiment import EXPERIMENTS, Settings
from keelback.files import parsed_json, write_json
from keelback.outcome import Outcome
from keelback.plugins import files_of
from keelback.sweeps.claims import byte_of
from keelback.sweeps.run import Run
from keelback.sweeps.store import Store

_REQUESTS = "requests"
PATHS = ("data", "tokenizer", "checkpoints")
"""Settings that name a file outside the store, which the runs of an experiment depend on."""


def save_request(
    store: Store, experiment: str, settings: Settings, runs: Sequence[Run], command: str
) -> None:
    """Note that the store serves `experiment`; the newest note of a label counts.

    Plugin files of the experiment and its runs are named in the note, and kept with the store.
    Where the runs depend on files outside the store, they are listed, so that who looks at the
    store knows them without those files.
    """
    folder = store.directory / _REQUESTS
    folder.mkdir(exist_ok=True)
    parts = {"experiment": get_experiment(experiment)}
    needed = files_of(parts | {name: part for run in runs for name, part in run.parts().items()})
    store.keep(needed.values())
    given = settings.model_dump(mode="json")
    listed = {}
    if any(given.get(name) is not None for name in PATHS):
        listed["runs"] = [
            {"fields": run.fields(), "cost": run.cost(), "byte": byte_of(run.batch_key())}
            for run in runs
        ]
    record = {
        "experiment": experiment,
        "settings": given,
        "command": command,
        **listed,
        **({"plugins": {name: file.digest for name, file in needed.items()}} if needed else {}),
    }
    path = folder / f"{experiment}-{settings.label}.json"
    write_json(path, record)


def outcomes(store: Store) -> list[Outcome]:
    """What each experiment noted in the store says of the runs that are finished by now.

    Raises:
        InputError: a note was damaged or edited, a plugin file is missing, or none of an
            experiment's runs is finished.
    """
    return [_outcome(store, path) for path in sorted((store.directory / _REQUESTS).glob("*.json"))]


def _outcome(store: Store, path: Path) -> Outcome:
    try:
        record = parsed_json(path.read_text())
        name, given = record["experiment"], dict(record["settings"])
        plugins = dict(record.get("plugins", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged or was edited: {error}") from None
    if name not in EXPERIMENTS:
        store.require_plugins(plugins)
    try:
        experiment = get_experiment(name)
        settings = experiment.settings(given)
    except PluginError:
        raise
    except InputError as error:
        raise InputError(f"{path} is damaged or was edited: {error}") from None
    store.require_plugins(
        {part: digest for part, digest in plugins.items() if part != "experiment"}
    )
    planned = experiment.runs(settings)
    finished = [store.get(run.name) for run in planned if run in store]
    if planned and not finished:
        raise InputError(f"none of the runs of {path.stem} is finished; run its command again")
    return experiment.outcome(settings, finished)
