"""Watching a model train: readings now and then, and warnings before a number overflows."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from keelback.audit._inputs import Inputs, are_tokens
from keelback.audit._layers import Layer, find_layers
from keelback.audit._model import unwrapped, vocab_size_of
from keelback.audit._parameters import is_partitioned, is_split, keep
from keelback.audit._tokens import check_tokens
from keelback.audit.monitoring._agreement import Agreement
from keelback.audit.monitoring._alarms import ACTIONS, Action, Alarm, Rules
from keelback.audit.monitoring._readings import (
    LayerReading,
    Look,
    ReadingError,
    Run,
    look,
    rows_as,
    run_on,
    together,
)
from keelback.audit.monitoring._trackers import Log
from keelback.errors import InputError

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger("keelback")

Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None

_LEFT_AFTER_ACTION = 0.25
_LOWER_RATE = 0.3


class TrainingMonitor:
    """Reads the state-space layers of a model while it trains, and warns before they overflow.

    Gradients overflow before states do: they are squared on the way to their norm. The limit is
    therefore half of the logarithm of the largest number of the model's type. A layer is in alarm
    when the logarithm of its largest state

    - is within a fifth of the limit, or
    - has passed two fifths of it, and would reach it within `horizon` steps at the pace of its last
      five readings (their median slope); no further ahead than three times the steps that they
      span, or
    - would reach it with the next update, if A can grow: an update of Adam moves an entry of A by
      up to the learning rate, and a state's logarithm by that times the sum of its step sizes.

    Where several processes train the model (DDP, FSDP2, tensor parallelism, accelerate), each of
    them calls the monitor at every step; also where each has other layers of it (a pipeline), with
    a function that runs those. Their readings are put together, so that all see the same
    alarms and act the same. Where one does not come within five minutes, there are no readings.
    The first reading is proved as in an audit (not in a model that is split over processes): a
    layer that only looks like one that is known is named in `failures`, and not watched. Nothing
    that goes wrong in a reading ends the training: it is logged once, and kept in `failures`. One
    thing does: where a forward pass of a model that is split over processes (FSDP2, tensor
    parallelism) fails on one of them, its error is raised there as it would be in training, for the
    others are within the same pass and would wait for ever.

    Args:
        model: any module that `find_layers` finds state-space layers in; wrappers around it (DDP,
            FSDP2, PEFT, `torch.compile`) are looked through.
        every: steps between readings; a reading is one forward pass of a few sequences.
        horizon: how many steps to look ahead.
        action: what to do about an alarm besides recording it. "clip" lowers A where the layer's
            states grow, "rescale" its step sizes, each to a quarter of the limit over the sequence;
            "lower-rate" cuts the optimiser's learning rates to 0.3 of what they are; "stop" sets
            `should_stop`; "warn" does nothing.
        log: given each reading in a few numbers and its step, on the first process; such as
            `log_to_open_runs`.
        process_group: the processes that train the model together, of `torch.distributed`; all
            there are if not given. Give a group of one where each trains a model of its own.

    Raises:
        InputError: no state-space layer, an unknown action, or `every` or `horizon` below 1.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> monitor = TrainingMonitor(model, every=2)
        >>> for step in range(3):
        ...     alarms = monitor.after_step(step, torch.randint(40, (2, 30)), optimizer)
        ...     loss = model(torch.randint(40, (2, 30))).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        >>> alarms, len(monitor.history())  # read at steps 0 and 2
        ([], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 50,
        horizon: int = 200,
        action: Action = "warn",
        log: Log | None = None,
        process_group: Any = None,
    ) -> None:
        if action not in ACTIONS:
            raise InputError(f"action is {action!r}; it must be one of {', '.join(ACTIONS)}")
        for name, value in (("every", every), ("horizon", horizon)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        self.every, self.horizon, self.action = every, horizon, action
        self.readings: list[LayerReading] = []
        self.alarms: list[Alarm] = []
        self.failures: list[str] = []
        self.should_stop = False
        self._model = unwrapped(model)
        self._layers = {layer.name: layer for layer in find_layers(self._model)}
        types = (p.dtype for p in self._model.parameters() if p.is_floating_point())
        largest = torch.finfo(next(types)).max
        self._rules = Rules(math.log(largest) / 2, horizon, action)
        self._log, self._agreement = log, Agreement(process_group)
        self._last_step: int | None = None
        self._is_alone = self._is_proved = False

    def after_step(
        self,
        step: int,
        tokens: Inputs | Run | None,
        optimizer: Optimizers = None,
        scheduler: Any = None,
    ) -> list[Alarm]:
        """Take a reading if it is time for one; gives the alarms that it raised, acted on.

        A step is read once, however often this is called for it (as with gradient accumulation).
        Step 0, before the first update, catches what cannot train at all.

        Args:
            step: updates done.
            tokens: the batch of the step; its first few sequences are used. For a model that takes
                no tokens, a tensor, tensors by name, or a function that runs the model on a few
                sequences. `None` if this process has none.
            optimizer: whose learning rates to lower, and by which to know how far an update goes;
                or several.
            scheduler: of these learning rates, so that it does not raise them again; or several.
        """
        if self._is_alone or step % self.every or step == self._last_step:
            return []
        self._last_step = step
        looks = self._looks_of_all(step, tokens)
        self.readings += [own.reading for own in looks]
        rate = _adam_rate(optimizer)
        found = [(self._alarm(own, rate), own.sums) for own in looks]
        alarms = [alarm for alarm, _ in found if alarm is not None]
        for alarm, sums in found:
            here = alarm is not None and alarm.layer in self._layers  # or on another process
            if alarm is not None and here and self.action in ("clip", "rescale"):
                self._edit(self._layers[alarm.layer], sums)
        if alarms and self.action == "lower-rate":
            _lower_rates(optimizer, scheduler)
        self.should_stop |= bool(alarms) and self.action == "stop"
        self.alarms += alarms
        if looks and self._log is not None and self._agreement.is_first:
            self._tell(self._log, step)
        return alarms

    def _looks_of_all(self, step: int, inputs: Inputs | Run | None) -> list[Look]:
        """What every process reads, put together; nothing if any of them could not."""
        absent = self._agreement.missing(step)
        if absent:
            self._is_alone = True
            self._fail(
                f"step {step}: process {', '.join(map(str, absent))} did not come: the monitor "
                "must be asked at the same steps on every process, or be given a process_group of "
                "one; it reads no more"
            )
            return []
        # A model that is split runs on all processes or on none.
        if self._all_could(step, self._agreement.gathered(self._why_not_run(inputs))):
            unread: dict[str, str] | None = None if self._is_proved or self._is_split else {}
            every = self._agreement.gathered((self._look(step, inputs, unread), unread or {}))
            looks = [one for one, _ in every if not isinstance(one, str)]
            if self._all_could(step, [one if isinstance(one, str) else "" for one, _ in every]):
                self._is_proved = True
                self._leave_out(step, {n: why for _, own in every for n, why in own.items()})
                return self._together(step, looks)
        return []

    def _leave_out(self, step: int, unread: Mapping[str, str]) -> None:
        """Layers that are not what they look like, on any process, are not read again on any."""
        for name, reason in unread.items():
            self._layers.pop(name, None)
            self._fail(f"step {step}: {name} is not watched: {reason}")

    def _together(self, step: int, every: Sequence[Sequence[Look]]) -> list[Look]:
        try:
            return together(every)
        except Exception as error:  # the same on every process, for all have the same
            self._fail(
                f"step {step}: the readings of the processes do not go together "
                f"({_reason(error)}); give each model a process_group of its own"
            )
            return []

    def _look(self, step: int, inputs: Any, unread: dict[str, str] | None) -> list[Look] | str:
        """What this process reads, or why it could not."""
        if not self._layers:
            return []
        run = inputs if callable(inputs) else partial(run_on, self._model, inputs)
        try:
            return look(self._model, list(self._layers.values()), step, run, unread)
        except ReadingError as error:
            return _reason(error)
        except Exception as error:  # whatever it is, the training must go on
            if self._is_split and self._agreement.processes > 1:
                raise  # the others are within the pass, where they would wait for this one
            return _reason(error)

    def _why_not_run(self, inputs: Inputs | Run | None) -> str:
        """What is wrong with a batch for all to see before the pass; nothing if it may run."""
        if inputs is None:
            return "it was given no batch"
        ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
        if self._is_split and isinstance(ids, Tensor) and are_tokens(ids):
            try:
                check_tokens(ids, vocab_size_of(self._model))
            except InputError as error:
                return _reason(error)
        return ""

    @property
    def _is_split(self) -> bool:
        parameters = self._model.parameters()
        return any(is_split(own) or is_partitioned(own) for own in parameters)

    def _all_could(self, step: int, reasons: Sequence[str]) -> bool:
        """Whether no process has a reason why it could not; else the first is told."""
        for rank, reason in enumerate(reasons):
            if reason:
                where = f" on process {rank}" if len(reasons) > 1 else ""
                self._fail(f"step {step}: the layers could not be read{where}: {reason}")
                return False
        return True

    def _fail(self, message: str) -> None:
        if not self.failures and (self._is_alone or self._agreement.is_first):
            logger.warning("%s; the training goes on", message)
        self.failures.append(message)

    def _alarm(self, look: Look, rate: float) -> Alarm | None:
        reading = look.reading
        earlier = [r for r in self.readings if r.layer == reading.layer]
        return self._rules.alarm(reading, earlier, look.sums, rate, look.can_grow)

    def _tell(self, log: Log, step: int) -> None:
        try:
            log(self.summary(), step)
        except Exception as error:
            self._fail(f"step {step}: a tracker did not take the reading: {_reason(error)}")

    def summary(self) -> dict[str, float]:
        """The last reading in a few numbers, for a logger; none before the first."""
        if not self.readings:
            return {}
        last = [r for r in self.readings if r.step == self.readings[-1].step]
        return {
            "keelback/spectral_abscissa": max(r.spectral_abscissa for r in last),
            "keelback/delta": sum(r.delta for r in last) / len(last),
            "keelback/log_growth": max(r.log_growth for r in last),
            "keelback/log_state": max(r.log_state for r in last),
            "keelback/alarms": float(len(self.alarms)),
        }

    def history(self) -> "pl.DataFrame":
        """One row per layer and reading."""
        import polars as pl

        return pl.DataFrame([asdict(reading) for reading in self.readings])

    def state_dict(self) -> dict[str, Any]:
        """Readings and alarms as plain values, to go on from with `load_state_dict`."""
        return {
            "readings": [asdict(reading) for reading in self.readings],
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "last_step": self._last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier training's readings and alarms: its trends are not forgotten."""
        self.readings = rows_as(LayerReading, state.get("readings", ()))
        self.alarms = rows_as(Alarm, state.get("alarms", ()))
        self._last_step = state.get("last_step")

    def _edit(self, layer: Layer, sums: Tensor) -> None:
        """Lower how the layer's states grow, the same on every process."""
        try:
            with layer.present():
                A, allowed = layer.adapter.state_matrix(layer.module), self._allowed
                sums = sums.to(A.device)
                growth = float((A.amax(-1) * sums).max())
                edits: Mapping[str, Tensor] | None = None
                if self.action == "clip":
                    ceiling = (allowed / sums.clamp_min(torch.finfo(sums.dtype).tiny)).unsqueeze(-1)
                    lowered = torch.minimum(A, ceiling.to(A.dtype))
                    edits = layer.adapter.edit_rates(layer.module, lowered)
                elif growth > allowed:
                    factor = torch.tensor(allowed / growth, device=A.device)
                    edits = layer.adapter.edit_steps(layer.module, factor)
            keep(self._model, {layer.full_name(n): x.detach() for n, x in (edits or {}).items()})
        except Exception as error:
            self._fail(f"{layer.name} could not be edited: {_reason(error)}")

    @property
    def _allowed(self) -> float:
        return _LEFT_AFTER_ACTION * self._rules.limit


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _each(one_or_several: Any) -> list[Any]:
    if one_or_several is None:
        return []
    several = isinstance(one_or_several, list | tuple)
    return list(one_or_several) if several else [one_or_several]


def _adam_rate(optimizers: Optimizers) -> float:
    """The most that an update moves a parameter, where the optimiser bounds it, as Adam does."""
    groups = [group for own in _each(optimizers) for group in own.param_groups]
    return max((float(group["lr"]) for group in groups if "betas" in group), default=0.0)


def _lower_rates(optimizers: Optimizers, schedulers: Any) -> None:
    """Cut the learning rates, and those that schedulers compute the next ones from."""
    for optimizer in _each(optimizers):
        for group in optimizer.param_groups:
            for name in {"lr", "initial_lr"} & group.keys():
                group[name] *= _LOWER_RATE
    for scheduler in _innermost(schedulers):
        for name in ("base_lrs", "_last_lr"):  # the latter is what trainers log
            if hasattr(scheduler, name):
                rates = [rate * _LOWER_RATE for rate in getattr(scheduler, name)]
                setattr(scheduler, name, rates)


def _innermost(schedulers: Any) -> Iterator[Any]:
    """The schedulers inside chains of them, and inside accelerate's wrappers."""
    for scheduler in _each(schedulers):
        inside = getattr(scheduler, "_schedulers", None) or getattr(scheduler, "scheduler", None)
        if inside is None:
            yield scheduler
        else:
            yield from _innermost(inside)
