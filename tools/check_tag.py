"""Fail unless a tag is the version of the package and of CITATION.cff, dated in the changelog.

python tools/check_tag.py v0.1.0
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    version = sys.argv[1].removeprefix("v")
    for name, pattern in (
        ("src/keelback/__init__.py", rf'^__version__ = "{re.escape(version)}"$'),
        ("CITATION.cff", rf"^version: {re.escape(version)}$"),
        ("CHANGELOG.md", rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"),
    ):
        if not re.search(pattern, (ROOT / name).read_text(), re.MULTILINE):
            sys.exit(f"{name} does not speak of version {version}")


if __name__ == "__main__":
    main()
