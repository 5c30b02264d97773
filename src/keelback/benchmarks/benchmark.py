"""A benchmark as rows that are measured one after the other, so that a part of them is of use."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keelback.errors import InputError

Found = Mapping[str, Any]
"""What has been measured so far, by the name of the row, in the order of the benchmark."""


@dataclass(frozen=True)
class Group:
    """Rows that share what is prepared for them, such as the passes on one shape.

    Attributes:
        rows: What `measure` takes for a row, by the row's name.
        measure: Measures some of the rows, in the order given. It yields for each what JSON holds.
    """

    rows: Mapping[str, Any]
    measure: Callable[[Sequence[Any]], Iterator[Any]]


def only_rows(found: Found) -> dict[str, Any]:
    """The result of a benchmark that measures nothing but rows."""
    return {"rows": list(found.values())}


@dataclass(frozen=True)
class Benchmark:
    """All that a benchmark measures, and the result.

    Attributes:
        groups: The rows, in the order in which they are measured.
        result: The result, from what has been measured so far, which may be a part.
        about: What the result says beside that, such as the versions of what is compared; rows
            with different ones do not belong together.

    Raises:
        InputError: Two rows have the same name: something was asked for twice.

    Examples:
        >>> squares = Group({"two": 2, "three": 3}, lambda numbers: (n * n for n in numbers))
        >>> benchmark = Benchmark([squares])
        >>> benchmark.run()
        {'rows': [4, 9]}
        >>> next(benchmark.measured())
        {'two': 4}
        >>> list(benchmark.measured({"three": 9}))
        [{'two': 4, 'three': 9}]
    """

    groups: Sequence[Group]
    result: Callable[[Found], dict[str, Any]] = only_rows
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise InputError(f"{twice[0]} would be measured twice; ask for it once")

    @property
    def names(self) -> list[str]:
        """The names of all rows."""
        return [name for group in self.groups for name in group.rows]

    def measured(self, earlier: Found | None = None) -> Iterator[dict[str, Any]]:
        """What has been measured, after each row that is not among the earlier ones.

        Values are as JSON gives them back, so that it makes no difference whether they were read
        from a file.
        """
        found = dict(earlier or {})
        for group in self.groups:
            missing = [name for name in group.rows if name not in found]
            if not missing:
                continue
            values = group.measure([group.rows[name] for name in missing])
            for name, value in zip(missing, values, strict=True):
                found[name] = json.loads(json.dumps(value))
                yield {name: found[name] for name in self.names if name in found}

    def run(self) -> dict[str, Any]:
        """Measure all of it; gives the result."""
        found = [{}, *self.measured()][-1]
        return {**self.about, **self.result(found)}
