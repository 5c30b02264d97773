"""Write `results/index.json`: for each committed result who made it, with what, by which command.

    python tools/results_index.py           writes it
    python tools/results_index.py --check   fails where it is not what the files and docs say

A result is a folder of `results/experiments` with a `results.json`, or a JSON file with a
`provenance`; all it says of itself is read from there. `results/made_by.toml` holds, by hand, what
no file says: the command of a file without provenance, and today's form of a recorded command whose
script has other options now. The docs show no result that was made from code that differed from its
commit: the index calls it `dirty`.
`results/times.json` holds how long it took to rebuild each (`tools/rebuild_results.py`).
A file that a benchmark has not finished is refused: it names the rows that it lacks. It may be
committed if `results/made_by.toml` has `unfinished = true` for it; the index then names the rows.

In a command `IMDB`, `VOCAB` and `CHECKPOINTS` stand for where the reviews, BERT's vocabulary and
the checkpoints of the first paper's reference implementation lie, `PACKAGES` for a folder where
packages of others were unpacked, `STORES` for one of sweeps. What lies below `runs` is not kept.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keelback.commit import is_clean
from keelback.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
INDEX, BY_HAND = RESULTS / "index.json", RESULTS / "made_by.toml"
TIMES = RESULTS / "times.json"
#: What reports write beside a result, and .gitignore leaves out.
PAGE = "report.html"

SHOWN = re.compile(r"(?<![\w/])(?:\.\./)?(results/[\w./-]*\w)")
_OUT = re.compile(r"(?<= --out[ =])('[^']*'|\S+)")
PLACES = {
    "../shared/data/imdb": "IMDB",
    "../shared/data/bert-base-uncased/vocab.txt": "VOCAB",
    "../shared/reference/checkpoints": "CHECKPOINTS",
}


@dataclass
class Result:
    """One result and all its files, paths from the root of the repository.

    `commits` are those of everything that made a number of it: of a sweep each run's, and that
    which drew the figures; None stands for one that was not recorded. `made_from` are the results
    behind one that has no provenance of its own, `not_measured` the rows that an unfinished one
    lacks.
    """

    path: str
    commands: list[str]
    commits: set[str | None] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    made_from: list[str] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)

    @property
    def dirty(self) -> bool:
        """Whether some number of it cannot be traced to one state of the code."""
        return not self.commits or not all(is_clean(commit) for commit in self.commits)

    def as_dict(self, shown: Mapping[str, set[str]]) -> dict[str, Any]:
        return {
            "commands": self.commands,
            "commits": sorted(commit or "not recorded" for commit in self.commits),
            "dirty": self.dirty,
            "devices": sorted(self.devices),
            "dates": [min(self.dates), max(self.dates)] if self.dates else [],
            **({"not_measured": self.not_measured} if self.not_measured else {}),
            "files": {file: sorted(shown.get(file, ())) for file in self.files},
        }


def results() -> dict[str, Result]:
    """Every result by its path.

    Raises:
        SystemExit: a file that belongs to none.
    """
    by_hand = _by_hand()
    found: dict[str, Result] = {}
    files = sorted(path for path in RESULTS.rglob("*") if path.is_file())
    files = [path for path in files if path not in (INDEX, BY_HAND, TIMES)]
    files = [path for path in files if path.name != PAGE]
    for path in files:
        if path.suffix == ".json" and "provenance" in (document := read(path)):
            name = _name(_whole(path))
            commands = by_hand.get(name, {}).get("commands") or _commands(document, name)
            missing = document.get("not_measured", [])
            found[name] = Result(name, commands, not_measured=missing)
            _note(document, found[name])
    for name, written in by_hand.items():
        if name not in found and "commands" in written:
            found[name] = Result(name, written["commands"], made_from=_owners(written["from"]))
            for source in written["from"]:
                _note(read(ROOT / source), found[name])
    orphans = []
    for path in files:
        name = _name(path)
        owner = next((found[n] for n in (name, *map(_name, path.parents)) if n in found), None)
        if owner is None:
            orphans.append(name)
        else:
            owner.files.append(name)
    if orphans:
        sys.exit(
            f"nothing says which command made {', '.join(orphans)}: a result holds a provenance, "
            f"or {_name(BY_HAND)} says it"
        )
    missing = [name for name in by_hand if name not in found or not found[name].files]
    if missing:
        sys.exit(f"{_name(BY_HAND)} speaks of files that are not there: {', '.join(missing)}")
    return dict(sorted(found.items()))


def _whole(path: Path) -> Path:
    """The result that a file with a provenance belongs to: of a `results.json` its folder."""
    return path.parent if path.name == "results.json" else path


def _by_hand() -> dict[str, Any]:
    return tomllib.loads(BY_HAND.read_text())


def _owners(sources: Iterable[str]) -> list[str]:
    """The results that files belong to: of a folder's `results.json` the folder."""
    return [source.removesuffix("/results.json") for source in sources]


def read(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        SystemExit: it is no JSON, or a benchmark that lacks rows and is not known to.
    """
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        sys.exit(f"{_name(path)} is not JSON ({error}); git checkout {_name(path)} brings it back")
    missing = document.get("not_measured") if isinstance(document, dict) else None
    if missing and not _by_hand().get(_name(_whole(path)), {}).get("unfinished"):
        sys.exit(
            f"{_name(path)} is not finished, it lacks {'; '.join(missing)}; the command in its "
            "provenance continues it"
        )
    return document


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _note(document: Any, result: Result) -> None:
    """Take up the commits, devices and dates of everything that the document says was made."""
    for record in _records(document):
        commits = record.get("commits") or [record.get("commit")]
        result.commits |= set(commits)
        result.devices.add(record["device"])
        result.dates |= {record[name] for name in ("date", "first", "last") if name in record}


def _records(document: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, Mapping):
        if "versions" in document and "python" in document:
            yield document
            return
        document = list(document.values())
    if isinstance(document, list):
        for part in document:
            yield from _records(part)


def _commands(document: Mapping[str, Any], name: str) -> list[str]:
    """The commands that rebuild the result, from those that are recorded in it."""
    made_by = as_of_today(document["provenance"]["command"])
    if made_by.startswith("keelback report "):
        runs = dict.fromkeys(as_of_today(run["command"]) for run in document["runs"])
        return [f"{command} --report-to {name}" for command in runs]
    if made_by.startswith("keelback bench ") and name not in made_by and _OUT.search(made_by):
        return [_OUT.sub(name, made_by)]  # It was written elsewhere and moved here.
    writes_it = name in made_by or made_by.startswith("make ")
    return [made_by if writes_it else f"{made_by} > {name}"]


def as_of_today(command: str) -> str:
    """A recorded command with the folders as they are named now.

    `tools/rebuild_results.py` reaches a reader's own folders by links in `runs`, and keeps the
    sweeps of a commit in `runs/COMMIT`. Until commit 44c8773 the scripts of `tools/` lay in
    `benchmarks/`, their results in `benchmarks/results/`, and the experiments' in `results/`.
    """
    for there, name in PLACES.items():
        command = command.replace(there, name)
    command = re.sub(r"(?<![\w/])runs/(?=(?:IMDB|VOCAB|CHECKPOINTS|PACKAGES)\b)", "", command)
    command = re.sub(r"(?<![\w/])runs/[0-9a-f]{12}/", "runs/", command)
    command = re.sub(r"(?<!\S)\.\./(?=[\w.]+\.parts\.json)", "runs/", command)
    command = command.replace(" --allow-dirty", "")
    command = command.replace("python benchmarks/", "python tools/")
    command = command.replace("benchmarks/results/", "results/benchmarks/")
    return re.sub(
        r"(?<!\S)results/(?!benchmarks/|experiments/|proofs/|versions/)",
        "results/experiments/",
        command,
    )


def documents() -> list[Path]:
    """The README and the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown() -> dict[str, set[str]]:
    """The documents that name each file, in a table, as a figure or in words."""
    found: dict[str, set[str]] = {}
    for document in documents():
        for name in SHOWN.findall(document.read_text()):
            found.setdefault(name, set()).add(_name(document))
    return found


def refused() -> set[str]:
    """Files that no table may show: of results made from a dirty tree."""
    return {file for one in results().values() if one.dirty for file in one.files}


def index() -> str:
    """The text of the index."""
    named = shown()
    entries = {name: result.as_dict(named) for name, result in results().items()}
    return json.dumps({"written_by": "python tools/results_index.py", "results": entries}, indent=1)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="fail where the index is stale")
    return options


def main() -> None:
    text = index() + "\n"
    if not parser().parse_args().check:
        write_atomically(INDEX, text)
    elif not INDEX.is_file() or INDEX.read_text() != text:
        sys.exit(f"{_name(INDEX)} is stale: run python tools/results_index.py")


if __name__ == "__main__":
    main()
