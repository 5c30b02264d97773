"""What it takes to rebuild the committed results: jobs, where each runs, how long, after which.

`python tools/rebuild_results.py` shows and runs this plan. Everything in it is read from the
results themselves, as `tools/results_index.py` reads them; there is no second list of commands.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from graphlib import TopologicalSorter
from typing import Any

import results_index
from keelback.commit import CODE, is_clean
from results_index import Result

PLACES = {
    "IMDB": "the folder of the film reviews, as Parquet files",
    "VOCAB": "BERT's uncased vocabulary, vocab.txt",
    "CHECKPOINTS": "the folder of the checkpoints of the first paper's reference implementation",
    "PACKAGES": "a folder in which the packages of others are unpacked that two audits read",
}
"""Words of the recorded commands that stand for a path of the reader's."""

_PLACE = re.compile(rf"(?:^|(?<==))({'|'.join(PLACES)})(?=/|$)")
_PEER = re.compile(r"--peer[ =](\w+)")
WHERE = ("cpu", "gpu", "gpus")


@dataclass(frozen=True)
class Job:
    """Commands that belong together, and the results that they make.

    Attributes:
        commands: run one after the other, as the index names them.
        makes: paths of the results.
        where: "cpu" (two cores), "gpu" (one GPU) or "gpus" (several).
        devices: the GPUs that measured it, of a benchmark, which is of that device alone.
        seconds: how long it took when last measured; None where nothing says.
        whole: whether `seconds` is of all of it, or of the trainings alone.
        after: paths of the results that it reads.
        places: the words of `PLACES` that stand in its commands.
        packages: those that a benchmark of it compares with, as they are imported.
    """

    commands: tuple[str, ...]
    makes: tuple[str, ...]
    where: str
    devices: tuple[str, ...]
    seconds: float | None
    whole: bool
    after: tuple[str, ...]
    places: tuple[str, ...]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One command as it is run: words, what it adds to the environment, the file of its output."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    stdout: str | None


def jobs(results: Mapping[str, Result], times: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """All jobs, each after those whose results it reads."""
    makers: dict[tuple[str, ...], list[Result]] = {}
    for result in results.values():
        makers.setdefault(tuple(result.commands), []).append(result)
    reads = {commands: _reads(commands, made, results) for commands, made in makers.items()}
    order = TopologicalSorter(
        {
            commands: [tuple(results[path].commands) for path in reads[commands]]
            for commands in makers
        }
    ).static_order()
    return [_job(commands, makers[commands], reads[commands], times) for commands in order]


def _job(
    commands: tuple[str, ...],
    made: Sequence[Result],
    reads: Sequence[str],
    times: Mapping[str, Mapping[str, Any]],
) -> Job:
    makes = tuple(result.path for result in made)
    measured = [times[path]["seconds"] for path in makes if path in times]
    recorded = [
        seconds for path in makes if (seconds := recorded_seconds(document_of(path))) is not None
    ]
    found = measured or recorded
    named = {place for command in commands for place in _places(command)}
    return Job(
        commands=commands,
        makes=makes,
        where=max((_where(result) for result in made), key=WHERE.index),
        devices=tuple(sorted({name for result in made for name in _gpus_of_benchmark(result)})),
        seconds=max(found) if found else None,
        whole=bool(measured),
        after=tuple(reads),
        places=tuple(place for place in PLACES if place in named),
        packages=tuple(sorted({name for command in commands for name in _PEER.findall(command)})),
    )


def _reads(
    commands: Sequence[str], made: Sequence[Result], results: Mapping[str, Result]
) -> list[str]:
    """The results that the commands name, or that a table without a provenance is made from."""
    own = {result.path for result in made}
    words = {word for command in commands for word in shlex.split(command)}
    found = []
    for path, other in results.items():
        if path in own:
            continue
        named = not words.isdisjoint({path, *other.files})
        source = any(path in result.made_from for result in made)
        back = {word for command in other.commands for word in shlex.split(command)}
        if named or (source and back.isdisjoint(own)):
            found.append(path)
    return found


def _where(result: Result) -> str:
    if set(result.made_from) - {result.path}:
        return "cpu"  # The devices are those of its sources.
    if not any("NVIDIA" in device for device in result.devices):
        return "cpu"
    return "gpus" if document_of(result.path).get("processes", 1) > 1 else "gpu"


def _gpus_of_benchmark(result: Result) -> Iterable[str]:
    if result.path.startswith("results/benchmarks/"):
        yield from (device for device in result.devices if "NVIDIA" in device)


def document_of(path: str) -> Mapping[str, Any]:
    """The JSON of a result; empty where it is none."""
    whole = results_index.ROOT / path
    file = whole / "results.json" if whole.is_dir() else whole
    return json.loads(file.read_text()) if file.suffix == ".json" and file.is_file() else {}


def recorded_seconds(document: Mapping[str, Any]) -> float | None:
    """What a result says of how long its trainings took; None where it says nothing.

    Of a sweep that is the time from the end of its first run to that of its last one, for each of
    the parts that it ran in.
    """
    if isinstance(seconds := document.get("seconds"), int | float):
        return float(seconds)
    if "studies" in document:
        return float(sum(study["seconds"] for study in document["studies"]))
    runs = document.get("runs")
    if isinstance(runs, list) and all("first" in part and "last" in part for part in runs):
        ends = [[datetime.fromisoformat(part[name]) for name in ("first", "last")] for part in runs]
        return sum((last - first).total_seconds() for first, last in ends) or None
    return None


@cache
def same_code(commit: str | None, now: str | None) -> bool:
    """Whether two commits hold the same code; results and pages may differ."""
    if commit is None or now is None or not is_clean(commit) or not is_clean(now):
        return False
    if commit[:12] == now[:12]:
        return True
    git = ["git", "-C", str(results_index.ROOT), "diff", "--quiet", commit, now, "--", *CODE]
    try:
        return subprocess.run(git, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def is_done(
    job: Job,
    results: Mapping[str, Result],
    times: Mapping[str, Mapping[str, Any]],
    now: str | None,
) -> bool:
    """Whether everything that the job makes was made from the present commit's code.

    A file says so itself; of one without a provenance of its own `results/times.json` says it.
    """
    for path in job.makes:
        result = results[path]
        noted = {times.get(path, {}).get("commit")}
        commits = noted if set(result.made_from) - {path} else result.commits or {None}
        if not all(same_code(commit, now) for commit in commits):
            return False
    return True


def _places(command: str) -> Iterable[str]:
    return (found[1] for word in shlex.split(command) for found in _PLACE.finditer(word))


def step(command: str, name: str, store: str, *, allow_dirty: bool) -> Step:
    """A command of the index as it is run.

    Args:
        name: of the folder below `store` where a sweep goes that names none.
        store: folder of the present commit's sweeps; it stands for the `runs` of the command.
    """
    words = shlex.split(command)
    environment = {}
    while re.match(r"[A-Z_]+=", words[0]):
        variable, _, value = words.pop(0).partition("=")
        environment[variable] = value
    stdout = None
    if ">" in words:
        at = words.index(">")
        stdout, words = words[at + 1], words[:at]
    words = [_PLACE.sub(r"runs/\1", word) for word in words]
    words = [re.sub(r"^runs/(?!(?:[A-Z]+)(?:/|$))", f"{store}/", word) for word in words]
    words = [f"{store}/stores" if word == "STORES" else word for word in words]
    if words[0] == "keelback":
        if "reproduce" in words and "--out" not in words:
            words += ["--out", f"{store}/{name}"]
        words = [sys.executable, "-m", "keelback", *words[1:]]
        takes = True
    elif words[0] == "python":
        script = (results_index.ROOT / words[1]).read_text()
        takes = "--allow-dirty" in script or "result_file.add_options" in script
        words[0] = sys.executable
    else:
        takes = False
    if allow_dirty and takes:
        words.append("--allow-dirty")
    return Step(tuple(words), environment, stdout)
