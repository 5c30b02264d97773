"""Where a training computes: one device, or several processes with a part of each batch each."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.errors import InputError, JobError, nearest


class Place:
    """One device, which the whole of each batch is computed on.

    With several processes, which `AcceleratePlace` brings, each computes the logits of its share of
    a batch; the loss and its gradient are those of the whole batch, as on one device.

    Examples:
        >>> Place("cpu").device
        device(type='cpu')
    """

    is_main = True
    """Whether this process is the one that writes."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def share(self, index: Int[Tensor, "replicas batch"]) -> Int[Tensor, "replicas share"]:
        """This process's part of a batch of examples."""
        return index

    def gather(
        self, logits: Float[Tensor, "replicas share *classes"], batch: int
    ) -> Float[Tensor, "replicas batch *classes"]:
        """The logits of the whole batch; only this process's own part carries a gradient."""
        return logits

    def sum(self, gradient: Float[Tensor, "replicas size"]) -> Float[Tensor, "replicas size"]:
        """The sum of the processes' gradients."""
        return gradient

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of the processes."""
        return flag

    def wait_for_all(self) -> None:
        """Go on once every process has come here."""
        self.any(False)

    def track(self, rows: Sequence[dict[str, float | int | None]]) -> None:
        """Log an epoch's rows, one a replica, to whatever trackers were asked for."""

    def __enter__(self) -> "Place":
        """Start the trackers."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Let the trackers write what they hold, and the processes part."""


class AcceleratePlace(Place):
    """The device, processes and trackers of Hugging Face's accelerate.

    Started by `accelerate launch` or `torchrun`, every process takes part in each training;
    otherwise one does. Trackers log inside a `with` block, at whose end the processes part.

    Args:
        cpu: stay on the CPU where there is a GPU.
        trackers: names that accelerate knows: tensorboard, wandb, mlflow, trackio and others.
        folder: where trackers that write files write them.
        settings: what the trackers note at the start.

    Raises:
        InputError: accelerate or a tracker is not installed, or there is no tracker of the name.

    Examples:
        >>> AcceleratePlace(cpu=True).device
        device(type='cpu')
    """

    def __init__(
        self,
        *,
        cpu: bool = False,
        trackers: Sequence[str] = (),
        folder: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise InputError(
                "several processes and trackers need accelerate: pip install 'keelback[hf]'"
            ) from None
        _require_trackers(trackers)
        with _stdout_kept_clean():
            self._accelerator = Accelerator(
                cpu=cpu, log_with=list(trackers) or None, project_dir=folder
            )
        self._tracked, self._settings = list(trackers), settings
        self.is_main = self._accelerator.is_main_process
        super().__init__(self._accelerator.device)

    def share(self, index: Int[Tensor, "replicas batch"]) -> Int[Tensor, "replicas share"]:
        """As even a part as there can be; none where the batch is smaller than the processes."""
        if self._accelerator.num_processes == 1:
            return index
        parts = torch.tensor_split(index, self._accelerator.num_processes, dim=1)
        return parts[self._accelerator.process_index]

    def gather(
        self, logits: Float[Tensor, "replicas share *classes"], batch: int
    ) -> Float[Tensor, "replicas batch *classes"]:
        """All processes' logits in the order of the batch."""
        processes = self._accelerator.num_processes
        if processes == 1:
            return logits
        shares = [len(part) for part in torch.tensor_split(torch.arange(batch), processes)]
        padded = logits.new_zeros(1, len(logits), max(shares), *logits.shape[2:])
        padded[0, :, : logits.shape[1]] = logits.detach()
        gathered = self._accelerator.gather(padded)
        parts = [rows[:, :share] for rows, share in zip(gathered, shares, strict=True)]
        parts[self._accelerator.process_index] = logits
        return torch.cat(parts, dim=1)

    def sum(self, gradient: Float[Tensor, "replicas size"]) -> Float[Tensor, "replicas size"]:
        """Reduced over the processes."""
        if self._accelerator.num_processes == 1:
            return gradient
        return self._accelerator.reduce(gradient, reduction="sum")

    def any(self, flag: bool) -> bool:
        """Asked of all processes."""
        if self._accelerator.num_processes == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        return bool(self._accelerator.reduce(flags, reduction="sum"))

    def track(self, rows: Sequence[dict[str, float | int | None]]) -> None:
        """Each column by its name, with the replica's number before it where there are several."""
        if not self._accelerator.trackers:
            return
        values = {
            name if len(rows) == 1 else f"{replica}/{name}": value
            for replica, row in enumerate(rows)
            for name, value in row.items()
            if value is not None and name != "epoch"
        }
        self._accelerator.log(values, step=int(rows[0]["epoch"] or 0))

    def __enter__(self) -> "AcceleratePlace":
        """Start the trackers, which may make their files or sign in.

        Raises:
            JobError: one of them cannot.
        """
        if self._tracked and not self._accelerator.trackers:
            try:
                self._accelerator.init_trackers("keelback", config=self._settings)
            except Exception as error:
                raise JobError(f"cannot log to {', '.join(self._tracked)}: {error}") from error
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Let the trackers write what they hold, and the processes part."""
        if error is None:
            self.wait_for_all()
        self._accelerator.end_training()


def _require_trackers(names: Sequence[str]) -> None:
    """Accelerate itself leaves a tracker that is not installed out."""
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = sorted(kind.value for kind in LoggerType if kind.value != "all")
    installed = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InputError(
                f"unknown tracker {name!r}; there are {', '.join(known)}{nearest(name, known)}"
            )
        if name not in installed:
            raise InputError(f"tracker {name} is not installed: pip install {name}")


@contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send to stderr what native code writes to stdout: Gloo of PyTorch 2.8 reports its peers."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
