"""A kernel's launch with all but its tensors' addresses worked out beforehand."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from keelback.compiled import cuda_driver
from keelback.compiled.cuda_driver import Compilable

Field: TypeAlias = int | Sequence[int]
"""Of a kernel's argument: a number, or an address, of which only what follows it is given."""

# Replaced where the kernels run on the host.
kernel: Any = cuda_driver.kernel


class Launch:
    """A kernel, its blocks of threads, and its argument less the addresses.

    The argument is `Sizes`, 32 bits each, and then the fields in the order of the structure, 64
    bits each.
    """

    def __init__(
        self,
        name: str,
        configuration: Compilable,
        device: int | None,
        blocks: int,
        threads: int,
        sizes: Sequence[int],
        fields: Mapping[str, Field],
    ) -> None:
        self._kernel = kernel(name, configuration, device)
        self._blocks, self._threads = blocks, threads
        head = f"={len(sizes)}i{len(sizes) % 2 * 4}x"
        self._start = struct.calcsize(head)
        values: list[int] = []
        self._places: list[int] = []
        for field in fields.values():
            if isinstance(field, int):
                values.append(field)
            else:
                self._places.append(len(values))
                values += [0, *field]
        self._argument = struct.pack(head, *sizes) + struct.pack(f"={len(values)}q", *values)

    def __call__(self, addresses: Iterable[int]) -> None:
        """Run the kernel over tensors at these addresses, in the order of the fields."""
        argument = bytearray(self._argument)
        words = memoryview(argument)[self._start :].cast("q")
        for place, address in zip(self._places, addresses, strict=True):
            words[place] = address
        self._kernel.launch(self._blocks, self._threads, bytes(argument))
