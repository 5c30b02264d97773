"""Running a benchmark: rows into a file as soon as they are measured, the result at the end."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelback.cli.app import ANYWHERE, print_json, provenance_of_command
from keelback.cli.progress import work_progress
from keelback.errors import InputError
from keelback.files import made, write_atomically, write_json

if TYPE_CHECKING:
    from keelback.benchmarks.benchmark import Benchmark

Document = dict[str, Any]
Show = Callable[[Mapping[str, Any]], None]

NOT_MEASURED = "not_measured"
"""Only in an unfinished result: the names of the rows that are missing."""
_MEASURED = "measured"
"""Only in an unfinished result: what was measured, by the row's name, to continue from."""
_SAME = {
    "keelback": "another version of keelback",
    "commit": "another commit",
    "python": "another Python",
    "versions": "other versions of libraries",
    "device": "another device",
}
"""Parts of the provenance that rows of one file share, and how a difference is named."""


def run_benchmark(
    command: str, benchmark: "Benchmark", out: Path | None, *, as_json: bool, show: Show
) -> Document:
    """Measure what a benchmark lacks, write the file after each row, and print the result.

    What was measured is printed too where the work is interrupted or fails.

    Args:
        command: such as "bench scan", for the progress.
        out: the file to write, and to continue from.
        as_json: whether to print the result as JSON, or by `show`.

    Raises:
        InputError: there is something else at `out`, or its folder is not there.
    """
    document: Document = {}
    try:
        with work_progress(command):
            for document in documents(benchmark, out):
                if out is not None:
                    write_json(out, document)
    finally:
        if document:
            print_json(document) if as_json else show(document)
        if missing := document.get(NOT_MEASURED):
            print(f"not measured: {'; '.join(missing)}", file=sys.stderr)
    return document


def run_into_folder(
    command: str,
    benchmark: "Benchmark",
    folder: Path | None,
    tables: Mapping[str, Callable[[Mapping[str, Any]], str]],
    *,
    as_json: bool,
    show: Show,
) -> None:
    """`run_benchmark` into `results.json` of a folder, and tables beside it once all is measured.

    Args:
        tables: by the name of the file, what the result makes of it.
    """
    if folder is None:
        run_benchmark(command, benchmark, None, as_json=as_json, show=show)
        return
    with made(folder):
        out = folder / "results.json"
        document = run_benchmark(command, benchmark, out, as_json=as_json, show=show)
        for name, text in tables.items():
            write_atomically(folder / name, text(document))


def documents(benchmark: "Benchmark", out: Path | None) -> Iterator[Document]:
    """The result after each row, with what made it.

    One that is not finished names its missing rows. At least one is given: of a finished file its
    content.

    Raises:
        InputError: there is something else at `out`, or its folder is not there.
    """
    record = provenance_of_command()
    before = None if out is None else _earlier(out, record, benchmark)
    if before is not None:
        if not before.get(NOT_MEASURED):
            yield before
            return
        record = {**before["provenance"], "last": record["date"]}
    for found in benchmark.measured(before and before.get(_MEASURED)):
        missing = [name for name in benchmark.names if name not in found]
        unfinished = {NOT_MEASURED: missing} if missing else {}
        kept = {_MEASURED: found} if missing else {}
        result = {**benchmark.about, **benchmark.result(found)}
        yield {"provenance": record, **unfinished, **result, **kept}


def _earlier(out: Path, record: Mapping[str, Any], benchmark: "Benchmark") -> Document | None:
    """What the same command had written before, with the same code on the same device.

    Raises:
        InputError: there is something else, or the folder is not there.
    """
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out is {out}; its folder does not exist")
    if out.is_dir():
        raise InputError(f"--out is {out}, a folder; it should be a file")
    if not out.exists():
        return None
    try:
        found: Document = json.loads(out.read_text(encoding="utf-8"))
        before = found["provenance"]
        same_command = _settings(before["command"]) == _settings(record["command"])
        known = {*found.get(_MEASURED, {}).keys(), *found.get(NOT_MEASURED, ())}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{out} is not a result of this command; name another file") from None
    differs = [words for name, words in _SAME.items() if before.get(name) != record.get(name)]
    if not same_command:
        differs = ["other options"]
    elif any(found.get(name) != value for name, value in _as_json(benchmark.about).items()):
        differs = differs or ["other versions or settings"]
    elif known and known != set(benchmark.names):
        differs = differs or ["other rows"]
    if differs:
        what = ", ".join(differs)
        raise InputError(f"{out} was measured with {what}; remove it or name another file")
    return found


def _as_json(value: Mapping[str, Any]) -> Document:
    found: Document = json.loads(json.dumps(value))
    return found


def _settings(command: str) -> list[str]:
    """The words of a command but for those that change no row."""
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out=") and word not in ("--json", *ANYWHERE):
            kept.append(word)
    return kept
