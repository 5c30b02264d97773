"""The pages of the API reference: one per room, each with every public name of that room.

The names are read from the sources, without importing them: `__all__`, or in a module without one
what it defines itself without a leading underscore. So a new public name is on its page at once.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[1] / "src"
FOLDER = "reference/api"
MODULES = ("errors", "plugins")
"""Public modules that are no rooms."""


def rooms() -> list[str]:
    """The rooms that `keelback` itself names, and the public modules beside them."""
    return sorted([*_literal(SOURCES / "keelback/__init__.py", "_ROOMS"), *MODULES])


def names_of(room: str) -> list[str]:
    """Public names of a room, sorted without regard to case."""
    package = SOURCES / "keelback" / room / "__init__.py"
    path = package if package.is_file() else SOURCES / "keelback" / f"{room}.py"
    names = _literal(path, "__all__") or [name for name in _defined(path) if name[0] != "_"]
    return sorted(names, key=lambda name: (name.lower(), name))


def page_of(room: str) -> str:
    """The page in Markdown; mkdocstrings fills it."""
    whole = f"# keelback.{room}\n\n::: keelback.{room}\n    options:\n"
    whole += (
        "      members: false\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    )
    parts = [f"::: keelback.{room}.{name}\n" for name in names_of(room)]
    return "\n".join([whole, *parts])


def front_page() -> str:
    """What `keelback` itself offers, and where it lives."""
    top = SOURCES / "keelback/__init__.py"
    home = _literal(top, "_NAMES")
    rows = [f"- [`keelback.{n}`]({_page_with(home[n], n)})" for n in sorted(home)]
    listed = [f"- [`keelback.{room}`]({room}.md)" for room in rooms()]
    head = ["# The Python API", "", "Every public name, by room:", "", *listed, ""]
    said = "The names that people need most can be imported from `keelback` itself:"
    return "\n".join([*head, said, "", *rows, ""])


def _page_with(module: str, name: str) -> str:
    """Where a name is described: on its room's page, or on that of its module's room."""
    room = module.split(".")[0]
    return f"{room}.md#keelback.{room}.{name}" if name in names_of(room) else f"{room}.md"


def pages() -> dict[str, str]:
    """Every page by its path in the docs."""
    found = {f"{FOLDER}/{room}.md": page_of(room) for room in rooms()}
    return {f"{FOLDER}/index.md": front_page(), **found}


def _assigned(path: Path) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _literal(path: Path, name: str) -> Any:
    return next((ast.literal_eval(value) for n, value in _assigned(path) if n == name), None)


def _defined(path: Path) -> list[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    made = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [*made, *(name for name, _ in _assigned(path))]
