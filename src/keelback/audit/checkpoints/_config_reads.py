"""Which settings the source code of a model reads from its configuration."""

import ast
from collections.abc import Iterator

_BY_NAME = ("getattr", "hasattr", "setattr")
_BY_KEY = ("get", "pop", "setdefault")


def settings_read(source: str, of: str = "config", exports: bool = True) -> frozenset[str]:
    """Names of settings that `source` reads from what it calls `of`, or something with that in it.

    Those are attributes (`self.config.hidden_size`, `text_config.hidden_size`), keys
    (`config["hidden_size"]`, `config.get("hidden_size")`, `"hidden_size" in config`), and names
    given to `getattr`. A word that stands elsewhere, as the name of an argument or of a variable,
    is no setting. Without `exports`, functions are passed over that only write settings down for
    another library or a file (`to_dict`, `to_xlstm_block_config`).
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return frozenset()
    return frozenset(name for node in _walk(tree, exports) for name in _read_in(node, of))


def _walk(node: ast.AST, exports: bool) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        is_export = isinstance(child, ast.FunctionDef) and child.name.startswith("to_")
        if exports or not is_export:
            yield from _walk(child, exports)


def _read_in(node: ast.AST, of: str) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        if _is_called(node.value, of):
            yield node.attr
    elif isinstance(node, ast.Subscript):
        if _is_called(node.value, of):
            yield from _words([node.slice])
    elif isinstance(node, ast.Compare):
        if any(_is_called(other, of) for other in node.comparators):
            yield from _words([node.left])
    elif isinstance(node, ast.Call):
        function, arguments = node.func, node.args
        if isinstance(function, ast.Name) and function.id in _BY_NAME and len(arguments) > 1:
            if _is_called(arguments[0], of):
                yield from _words(arguments[1:2])
        elif (
            isinstance(function, ast.Attribute)
            and function.attr in _BY_KEY
            and _is_called(function.value, of)
        ):
            yield from _words(arguments[:1])


def _is_called(node: ast.AST, of: str) -> bool:
    """Whether the last name of an expression has `of` in it."""
    if isinstance(node, ast.Name):
        return of in node.id.lower()
    return isinstance(node, ast.Attribute) and of in node.attr.lower()


def _words(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
