"""What the optional parts of the installation need, and whether it is there."""

import importlib.util
from collections.abc import Sequence

from keelback.errors import InputError

EXTRAS = {
    "report": ("matplotlib", "jinja2"),
    "hf": ("transformers", "tokenizers", "datasets", "accelerate"),
    "ray": ("ray",),
    "bench": ("transformers", "mambapy"),
    "certify": ("flint",),
}
"""The packages behind each extra, by the names under which they are imported."""


def missing_of(extra: str, packages: Sequence[str] | None = None) -> list[str]:
    """Those of an extra's packages, or of `packages` among them, that are not installed."""
    return [name for name in packages or EXTRAS[extra] if importlib.util.find_spec(name) is None]


def require_extra(extra: str, what: str, packages: Sequence[str] | None = None) -> None:
    """Check, before any work, that what an extra brings is installed.

    Args:
        extra: its name in `EXTRAS`.
        what: what needs it, as the subject of a sentence in the singular.
        packages: those of the extra's packages that are needed; all by default.

    Raises:
        InputError: something is missing; the message holds the command that helps.
    """
    missing = missing_of(extra, packages)
    if missing:
        raise InputError(
            f"{what} needs {', '.join(missing)}, not installed here: "
            f'pip install "keelback[{extra}]"'
        )
