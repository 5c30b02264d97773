"""A kernel's launch with all but its tensors' addresses worked out beforehand."""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from keelback.compiled import cuda_driver
from keelback.compiled.cuda_driver import Compilable
from keelback.compiled.cuda_operands import PIECE_BYTES
from keelback.compiled.layouts import Layout

Field: TypeAlias = int | Sequence[int]
"""Of a kernel's argument: a number, or an address, of which only what follows it is given."""

# Replaced where the kernels run on the host.
kernel: Any = cuda_driver.kernel
encoded_map: Any = cuda_driver.encoded_map

MAP_BYTES = 128
_MAP_ALIGNMENT = 64
#: Columns of a panel, which lie side by side.
PANEL_COLUMNS = 64
#: Addresses whose maps are remembered: allocators return to few of them.
_ADDRESSES = 64


class BoxMap:
    """What the copying unit of Hopper is given of a tensor in half precision, less its address.

    Sizes, strides and the box begin with the last axis, whose numbers are adjacent; `strides` are
    those of the other axes, in bytes.
    """

    def __init__(
        self,
        device: int | None,
        dtype: torch.dtype,
        sizes: Sequence[int],
        strides: Sequence[int],
        box: Sequence[int],
    ) -> None:
        self._device, self._layout = device, (dtype, tuple(sizes), tuple(strides), tuple(box))
        self._known: dict[int, bytes] = {}

    def __call__(self, address: int) -> bytes:
        """The map of a tensor that begins at an address."""
        found = self._known.get(address)
        if found is None:
            if len(self._known) >= _ADDRESSES:
                self._known.clear()
            found = self._known[address] = encoded_map(self._device, address, *self._layout)
        return found


def box_map(x: Layout, columns: int, rows: int) -> BoxMap | None:
    """`TensorMap` of an operand (row, time, head, number), for boxes of some columns and times.

    float32 has none: threads split its numbers as they copy them.
    """
    if x.dtype == torch.float32:
        return None
    strides = [stride * x.dtype.itemsize for stride in x.stride[2::-1]]
    box = (min(columns, PANEL_COLUMNS), 1, rows, 1)
    return BoxMap(x.device.index, x.dtype, tuple(x.shape[::-1]), strides, box)


class Launch:
    """A kernel, its blocks of threads, and its argument less the addresses.

    The argument is maps of tensors, if the kernel takes any, `Sizes`, 32 bits each, and then the
    fields in the order of the structure, 64 bits each.
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
        maps: Sequence[BoxMap | None] = (),
    ) -> None:
        self._kernel = kernel(name, configuration, device)
        self._blocks, self._threads = blocks, threads
        self._maps = maps
        head = f"={len(maps) * MAP_BYTES}x{len(sizes)}i{len(sizes) % 2 * 4}x"
        self._values: list[int] = []
        self._places: list[int] = []
        for field in fields.values():
            if isinstance(field, int):
                self._values.append(field)
            else:
                self._places.append(len(self._values))
                self._values += [0, *field]
        self._head = struct.pack(head, *sizes)
        count = len(self._values)
        gap = -(len(self._head) + 8 * count) % _MAP_ALIGNMENT if maps else 0
        self._pack = struct.Struct(f"={count}q{gap}x").pack

    def __call__(self, addresses: Iterable[int], mapped: Iterable[int] = ()) -> None:
        """Run the kernel over tensors at these addresses, in the order of the fields.

        `mapped` are the addresses of the tensors that the maps are of.
        """
        values = self._values.copy()
        for place, address in zip(self._places, addresses, strict=True):
            values[place] = address
        head = self._head
        if self._maps:
            maps = [
                bytes(MAP_BYTES) if of_layout is None else of_layout(address)
                for of_layout, address in zip(self._maps, mapped, strict=True)
            ]
            head = b"".join([*maps, head[len(maps) * MAP_BYTES :]])
        self._kernel.launch(self._blocks, self._threads, head + self._pack(*values))


class ShortLaunch:
    """A launch of a kernel that is short: what it takes of the host's time counts.

    The argument is the tensors' addresses, then all else, which is packed once: 32-bit numbers.

    Args:
        addresses: How many.
        integers: The numbers after them.
        floats: And those after these.
    """

    def __init__(
        self,
        name: str,
        configuration: Compilable,
        device: int | None,
        blocks: int,
        threads: int,
        addresses: int,
        integers: Sequence[int],
        floats: Sequence[float] = (),
    ) -> None:
        self._kernel = kernel(name, configuration, device)
        self._blocks, self._threads = blocks, threads
        self._pack = struct.Struct(f"={addresses}q").pack
        padding = (len(integers) + len(floats)) % 2 * 4
        layout = f"={len(integers)}i{len(floats)}f{padding}x"
        self._rest = struct.pack(layout, *integers, *floats)

    def __call__(self, addresses: Iterable[int]) -> None:
        """Run the kernel over tensors at these addresses."""
        self._kernel.launch(self._blocks, self._threads, self._pack(*addresses) + self._rest)


class ByPieces:
    """A launch for tensors that begin where a piece may, and another for others, each made once.

    Args:
        make: Makes the launch, given whether they do.
    """

    def __init__(self, make: Callable[[bool], ShortLaunch]) -> None:
        self._make = make
        self._made: dict[bool, ShortLaunch] = {}

    def __call__(self, addresses: Iterable[int], joined: int) -> None:
        """Run the kernel; `joined` has the bits of all addresses that count."""
        in_pieces = not joined % PIECE_BYTES
        launch = self._made.get(in_pieces)
        if launch is None:
            launch = self._made[in_pieces] = self._make(in_pieces)
        launch(addresses)
