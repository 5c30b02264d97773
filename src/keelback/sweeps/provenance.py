"""Which code, libraries and device made a number."""

import functools
import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keelback
from keelback.commit import commit

_LIBRARIES = ("torch", "numba", "numpy", "scipy", "triton", "transformers")


def provenance(command: str | None = None) -> dict[str, str | dict[str, str]]:
    """Versions, device, date and, where known, the commit and the command.

    Examples:
        >>> "torch" in provenance()["versions"]
        True
    """
    known = {"command": command, "commit": commit()}
    return {
        **{name: text for name, text in known.items() if text is not None},
        "keelback": keelback.__version__,
        "python": platform.python_version(),
        "versions": versions(),
        "device": device(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


_OF_ONE_RUN = ("date", "seconds_of_batch")


def provenance_of_runs(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What made a sweep's runs: each combination of code, libraries and device, with its runs.

    Examples:
        >>> record = {"commit": "4f2a", "device": "CPU", "keelback": "0.1.0", "python": "3.11"}
        >>> record |= {"versions": {}, "date": "2026-01-02"}
        >>> provenance_of_runs([record, record])[0]["runs"]
        2
    """
    dates: dict[str, list[str]] = defaultdict(list)
    for record in records:
        shared = {name: value for name, value in record.items() if name not in _OF_ONE_RUN}
        dates[json.dumps(shared, sort_keys=True)].append(str(record.get("date")))
    return [
        {**json.loads(shared), "runs": len(known), "first": min(known), "last": max(known)}
        for shared, known in dates.items()
    ]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the libraries that decide numbers, of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def device() -> str:
    """The GPU's name where there is one, else the processor's."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"
