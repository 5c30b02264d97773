"""Where a script of `tools/` writes its result, and what made it.

Every script that measures has `--out FILE` (standard output without it) and `--allow-dirty`, and
its JSON holds a `provenance` with the command, as `keelback ... --json` does.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keelback.commit import require_clean
from keelback.errors import InputError
from keelback.files import write_json
from keelback.sweeps import provenance


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--out` and `--allow-dirty`."""
    parser.add_argument("--out", type=Path, help="file of the result; standard output without it")
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="write under results/ from code that differs from its commit",
    )


def started(given: argparse.Namespace) -> dict[str, Any]:
    """What makes the result, asked before the work; ends the script where it may not be written."""
    target = given.out or Path("/proc/self/fd/1").resolve()
    try:
        require_clean(target, allow_dirty=given.allow_dirty)
    except InputError as error:
        sys.exit(f"error: {error}")
    name = Path(sys.argv[0]).name
    return provenance(command=shlex.join(["python", f"tools/{name}", *sys.argv[1:]]))


def write(given: argparse.Namespace, record: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write what was found, with what made it."""
    document = {"provenance": record, **found}
    if given.out is None:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, document)
