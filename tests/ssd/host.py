"""Puts the kernels compiled for the host in the place of those for the GPU."""

from typing import Any

from host_kernels import host_kernel

from keelback.ssd.cuda import backward, forward, launches, operator
from keelback.ssd.cuda.plan import Card

HOPPER = Card(processors=132, shared_bytes=227 << 10, wide=True)
AMPERE = Card(processors=108, shared_bytes=163 << 10)


def on_host(replace: Any, card: Card = HOPPER) -> None:
    """`replace(module, name, value)` for everything that needs a GPU."""
    for module in (forward, backward, launches):
        replace(module, "kernel", host_kernel)
    replace(operator, "card_of", lambda device: card)
