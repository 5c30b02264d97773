"""Print the lowest version of each dependency that pyproject.toml allows, as requirements: `make
test-oldest`.

Extras that name the package itself (`keelback[report]`) are followed. What the dependencies depend
on in turn is left to pip, which takes what fits.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())[
    "project"
]
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[([\w,-]+)\])?\s*(?:>=\s*([\w.]+))?")


def lowest(extra: str | None) -> dict[str, str]:
    """Lowest version by package, of the core (None) or of an extra."""
    listed = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found: dict[str, str] = {}
    for text in listed:
        match = REQUIREMENT.match(text)
        assert match, text
        name, extras, version = match.groups()
        if name == PROJECT["name"]:
            for inner in extras.split(","):
                found |= lowest(inner)
        elif version is None:
            sys.exit(f"pyproject.toml: {text} has no lower bound")
        else:
            found[name] = version
    return found


def main() -> None:
    for name, version in sorted({**lowest("dev"), **lowest(None)}.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
