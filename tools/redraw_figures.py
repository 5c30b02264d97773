"""Draw committed figures again from committed numbers, without the runs.

    python tools/redraw_figures.py [--data IMDB --tokenizer VOCAB] RESULT [RESULT/FIGURE ...]

RESULT is a folder under results/experiments, RESULT/FIGURE one of its figures. A figure is drawn by
today's code from the numbers in `results.json`, or, where these do not suffice, from the figure's
own data beside it, FIGURE.json; what has neither is named and left. The numbers stay as they are.
`results.json` notes, under `redrawn`, from what each figure was drawn, by which commit and when.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keelback.audit import PositionLoss
from keelback.commit import require_clean
from keelback.errors import InputError
from keelback.experiments.experiment import Experiment
from keelback.experiments.first_paper import baselines, length_independence
from keelback.experiments.length.byte_lm import loss_figure
from keelback.experiments.measures import tables
from keelback.experiments.second_paper import (
    gate_alignment,
    locality,
    locality_laws,
    majority_laws,
    majority_voting,
    sample_complexity,
)
from keelback.experiments.second_paper.gated_experiment import GatedSettings
from keelback.files import write_json
from keelback.outcome import Figure
from keelback.report import load_figure, save_figure, save_figure_data
from keelback.sweeps import provenance
from keelback.sweeps.store import StoredRun

RESULTS = Path(__file__).resolve().parents[1] / "results" / "experiments"

Numbers = dict[str, Any]


def planned(experiment: Experiment[Any], settings: Any) -> Sequence[StoredRun]:
    """The runs of an experiment by their fields, without what they ended in."""
    return [
        StoredRun(run.name, RESULTS, run.fields(), summary={}, provenance={})
        for run in experiment.runs(settings)
    ]


def of_baselines(numbers: Numbers, paths: dict[str, Any]) -> Iterator[Figure]:
    settings = baselines.BaselinesSettings(task=numbers["task"], **paths)
    names = list(dict.fromkeys(row["model"] for row in numbers["rows"]))
    runs = planned(baselines.Baselines(), settings)
    yield baselines._figure(settings, numbers["rows"], names, runs)


def of_length_independence(numbers: Numbers, paths: dict[str, Any]) -> Iterator[Figure]:
    settings = length_independence.LengthIndependenceSettings(
        task=numbers["task"], norm_precision=numbers.get("norm_precision", "float32"), **paths
    )
    runs = planned(length_independence.LengthIndependence(), settings)
    yield length_independence._accuracy_figure(settings, numbers["rows"], runs)


def of_majority_voting(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    settings = GatedSettings(setting=numbers["setting"])
    yield majority_voting.grid_figure(settings, numbers["grid"])


def of_sample_complexity(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    data, setting = numbers["setting"].split("-")
    settings = sample_complexity.SampleComplexitySettings(data=data, setting=setting)
    thresholds, ranking = (
        [{key: math.inf if value is None else value for key, value in row.items()} for row in rows]
        for rows in (numbers["thresholds"], numbers["ranking_thresholds"])
    )
    yield sample_complexity._figure(settings, numbers["grid"], thresholds, ranking)


def of_gate_alignment(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    settings = gate_alignment.GateAlignmentSettings()
    yield gate_alignment._figure(settings, numbers["gates"])


def of_measures(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    yield tables.bar_figure(numbers["measures"])
    yield tables.heatmap_figure(numbers["measures"])


def of_locality_laws(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    settings = locality_laws.LawSettings(quick=numbers["setting"] == "quick")
    yield locality_laws.regimes_figure(settings, numbers["grid"])


def of_locality(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    setting = numbers["setting"]
    which: Numbers = {"quick": True} if setting == "quick" else {"setting": setting}
    yield locality.grid_figure(GatedSettings(**which), numbers["grid"])


def of_majority_laws(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    settings = majority_laws.MajorityLawSettings(quick=numbers["setting"] == "quick")
    yield majority_laws.grid_figure(settings, numbers["grid"])


def of_byte_lm(numbers: Numbers, _: dict[str, Any]) -> Iterator[Figure]:
    for study in numbers["studies"]:
        before, after = (_losses(study[end]["loss_by_position"]) for end in ("before", "after"))
        yield loss_figure(study["before"]["model"], study["config"]["seq_len"], before, after)


def _losses(rows: Sequence[Numbers]) -> list[PositionLoss]:
    """What JSON has null for is not a number: of positions that no context was cut before."""
    plain = [{key: math.nan if x is None else x for key, x in row.items()} for row in rows]
    return [PositionLoss(**dict[str, Any](row)) for row in plain]


DRAWN: dict[str, Callable[[Numbers, dict[str, Any]], Iterator[Figure]]] = {
    "baselines": of_baselines,
    "length-independence": of_length_independence,
    "majority-voting": of_majority_voting,
    "sample-complexity": of_sample_complexity,
    "gate-alignment": of_gate_alignment,
    "locality-laws": of_locality_laws,
    "locality": of_locality,
    "majority-laws": of_majority_laws,
    "byte-lm": of_byte_lm,
    "measures": of_measures,
}


def from_numbers(
    folder: Path, result: Numbers, paths: dict[str, Any]
) -> Iterator[tuple[str, Figure]]:
    """The figures that today's code draws from the numbers of `results.json`, by file name."""
    prefix = next((name for name in DRAWN if folder.name.startswith(name)), None)
    if prefix is None:
        return
    for name, numbers in result.get("outcomes", {folder.name: result}).items():
        precision = {"norm_precision": "float64"} if "float64" in name else {}
        own = paths if numbers.get("task") == "imdb" else {}
        for figure in DRAWN[prefix](numbers | precision, own):
            yield figure.name, figure


def redraw(folder: Path, wanted: str, paths: dict[str, Any], record: Numbers) -> None:
    """Draw the figures of a folder, or the one that is `wanted`, and note it in `results.json`."""
    kept = folder / "figures"
    result = json.loads((folder / "results.json").read_text())
    known = {path.stem for path in kept.glob("*.png")}
    chosen = {wanted} if wanted else known
    if unknown := chosen - known:
        sys.exit(f"error: no figure {min(unknown)} in {kept}; it has {', '.join(sorted(known))}")
    found = {stem: ("results.json", own) for stem, own in from_numbers(folder, result, paths)}
    for path in kept.glob("*.json"):
        found.setdefault(path.stem, (f"figures/{path.name}", load_figure(path)))
    noted = result.setdefault("redrawn", {})
    for stem in sorted(chosen & set(found)):
        source, figure = found[stem]
        save_figure(figure, kept, stem)
        save_figure_data(figure, kept, stem)
        noted[stem] = {"from": source, **record}
        print(f"drawn  {folder.name}/{stem}, from {source}")
    for stem in sorted(chosen - set(found)):
        print(f"left   {folder.name}/{stem}: needs its runs")
    if chosen & set(found):
        write_json(folder / "results.json", result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="RESULT[/FIGURE]")
    parser.add_argument("--data", type=Path, help="the film reviews, for the results on IMDb")
    parser.add_argument("--tokenizer", type=Path, help="BERT's vocabulary, for the same")
    parser.add_argument("--allow-dirty", action="store_true", help="draw from changed code")
    given = parser.parse_args()
    try:
        require_clean(RESULTS, allow_dirty=given.allow_dirty)
    except InputError as error:
        sys.exit(f"error: {error}")
    given_paths = {"data": given.data, "tokenizer": given.tokenizer}
    paths = {name: path.resolve() for name, path in given_paths.items() if path is not None}
    record = provenance(command=shlex.join(["python", "tools/redraw_figures.py", *sys.argv[1:]]))
    for name in given.results:
        folder, _, figure = name.partition("/")
        if not (RESULTS / folder / "results.json").is_file():
            sys.exit(f"error: there is no result {folder} in {RESULTS}")
        redraw(RESULTS / folder, figure, paths, record)


if __name__ == "__main__":
    main()
