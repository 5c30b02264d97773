"""What a scan cannot do for a layer of transformers."""

from typing import Any

from keelback.errors import InputError


def refuse_packed(options: dict[str, Any]) -> None:
    """Several sequences in one would run into each other.

    Raises:
        InputError: `options` tell where packed sequences begin.
    """
    for name in ("cu_seqlens", "seq_idx"):
        if options.get(name) is not None:
            raise InputError(
                f"{name} is given to a Mamba layer of transformers; packed sequences are not "
                "kept apart there: pad them, or call keelback.selective_scan with cu_seqlens"
            )
