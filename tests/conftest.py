"""Shapes are checked in every test: jaxtyping annotations are enforced by beartype."""

import importlib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from beartype.claw import beartype_packages
from jaxtyping import install_import_hook

from runtime_types import CONFIGURATION

# Rooms with compiled kernels (compiled, scan, conv, and of dynamics what computes gradients) are
# left alone: functions there are read by a compiler, not by Python. So is `dynamics.alignment`,
# which itself says to people which shape it wants.
_hook = install_import_hook(
    [
        "keelback.models",
        "keelback.data",
        "keelback.training",
        "keelback.bounds",
        "keelback.certify",
        *(
            f"keelback.dynamics.{module}"
            for module in (
                "bayes",
                "descent",
                "descent_of_models",
                "exponents",
                "gated",
                "gated_mamba",
                "noise",
                "patterns",
                "recurrences",
                "theory",
            )
        ),
    ],
    "runtime_types.checked",
)

# These have no shapes, and `Self` in their annotations, which only beartype's own hook takes. What
# Ray sends to its workers is left alone: the wrapper cannot be loaded there.
beartype_packages(
    (
        "keelback.experiments",
        *(
            f"keelback.sweeps.{module}"
            for module in (
                "executor",
                "local",
                "provenance",
                "run",
                "runner",
                "selection",
                "single_training",
                "store",
                "training_run",
                "worker",
            )
        ),
    ),
    conf=CONFIGURATION,
)

# How long an example takes depends on the machine and on what else it does, and is no fault.
# Where CI is set, as on GitHub, examples are the same each time: a change is not failed by the
# fault of another. Everywhere else they are drawn anew.
hypothesis.settings.register_profile(
    "keelback",
    deadline=None,
    derandomize=os.environ.get("CI", "") not in ("", "false"),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("keelback")

# Two workers share the cores: a thread that waits for another one by spinning takes them from both.
# An audit of many small products takes five times as long then. Read when PyTorch is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# `torch.compile` would start processes of half a gigabyte each, for a few small graphs.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first: at the end of a run no worker waits long for the other.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if _SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="the reference data folder is not here")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data folder; for tests that carry the `shared` marker."""
    return _SHARED


@pytest.fixture(autouse=True)
def _few_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests share a machine anything may take long enough for a line of progress."""
    progress = importlib.import_module("keelback.cli.progress")
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_LINES", 600.0)


ENDS = ("passed", "failed", "error", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        metavar="LABEL",
        help="write the versions that were tested, and how the tests ended, to "
        "results/versions/LABEL-PYTHON.json",
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    label = session.config.getoption("--record")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if label is None or reporter is None or hasattr(session.config, "workerinput"):
        return
    from keelback.sweeps import provenance

    ended = {name: len(reporter.stats.get(name, ())) for name in ENDS}
    name, _, release = label.partition("-")
    target = {"locked": "test"}.get(name, f"test-{name}")
    target += f" {name.upper()}={release}" if release else ""
    made_by = provenance(command=f"make {target} RECORD=1")
    record = {
        "provenance": made_by,
        "label": label,
        "tests": ended,
        "versions": dict(_versions()),
    }
    folder = _ROOT / "results" / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    python = ".".join(str(made_by["python"]).split(".")[:2])
    (folder / f"{label}-{python}.json").write_text(json.dumps(record, indent=1) + "\n")


def _versions() -> Iterator[tuple[str, str]]:
    """The installed versions of what pyproject.toml names, by package."""
    from importlib.metadata import PackageNotFoundError, version

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    listed = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {text.split(">=")[0] for texts in listed for text in texts if ">=" in text}
    for name in sorted(names):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
