"""The glossary: each entry once, none empty."""

import re
from pathlib import Path

GLOSSARY = Path(__file__).resolve().parents[2] / "docs/reference/glossary.md"


def test_each_entry_stands_once_and_says_something() -> None:
    parts = re.split(r"^### (.+)$", GLOSSARY.read_text(), flags=re.MULTILINE)
    names, bodies = parts[1::2], parts[2::2]
    words = [word.strip().lower() for name in names for word in name.split(",")]
    assert len(words) == len(set(words)) > 30
    for name, body in zip(names, bodies, strict=True):
        said = body.split("\n## ")[0].strip()
        assert len(said) > 40, name
        assert said.endswith((".", ")")), name
