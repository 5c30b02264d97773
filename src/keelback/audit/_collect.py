"""Collecting what every layer does while a model runs, and whether the readings are true."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from keelback.audit._directions import FORWARD, REVERSED, UNKNOWN
from keelback.audit._layers import Layer
from keelback.audit._losses import Windows
from keelback.audit._measures import LayerMeasures
from keelback.audit._recurrence import Recurrence
from keelback.audit._replay import NOT_COMPARED, Replay
from keelback.audit._spans import Span
from keelback.audit._statistics import LayerStatistics


@dataclass(frozen=True)
class NotAudited:
    """Part of a model that was not read, and why.

    `what` is the name of a layer, or a class; `count` is how many there are of it.
    """

    what: str
    kind: str
    count: int
    reason: str


class Collector:
    """Statistics of every layer that runs, and the proof of its reading.

    Args:
        layers: to collect from.
        span: of a layer that sees a sequence of so many positions.
        n_tokens: how many different tokens the text has; 0 for inputs that are no tokens.
        features: directions in the layers' inputs to compare gates with.
        done: told after each layer of each pass.
        orders: which way round the layers are given the text, by index; forward if not given.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        span: Callable[[int], Span],
        n_tokens: int,
        features: Float[Tensor, "features d_model"] | None,
        done: Callable[[], None] = lambda: None,
        orders: Mapping[int, str] | None = None,
    ) -> None:
        self.layers, self._orders = layers, orders or {}
        self._span, self._n_tokens, self._features, self._done = span, n_tokens, features, done
        self._statistics: dict[int, LayerStatistics] = {}
        self._replays: dict[int, Replay] = {}
        self._tokens: Tensor | None = None
        self._windows: Windows = ()

    def on(self, tokens: Int[Tensor, "batch length"] | None) -> None:
        """What the next pass runs on: indices into the text's different tokens, if it is one."""
        self._tokens = tokens

    def on_windows(self, windows: Windows) -> None:
        """Which windows of a sequence the next restarted pass runs on."""
        self._windows = windows

    def receive(self, layer: Layer, hidden_states: Tensor, recurrence: Recurrence) -> None:
        """Take in one pass of a layer."""
        own = self._statistics.get(layer.index)
        if own is None:
            span = self._span(recurrence.length)
            own = LayerStatistics(recurrence.A, span, self._n_tokens, self._features)
            self._statistics[layer.index] = own
        own.update(recurrence, hidden_states, self._tokens_of(layer, recurrence))
        self._done()

    def _tokens_of(self, layer: Layer, recurrence: Recurrence) -> Tensor | None:
        """The tokens in the order of the layer's input; `None` where that is not known."""
        order = self._orders.get(layer.index, FORWARD)
        if self._tokens is None or self._tokens.shape[1] != recurrence.length or order == UNKNOWN:
            return None
        return self._tokens.flip(1) if order == REVERSED else self._tokens

    def receive_restarted(
        self, layer: Layer, hidden_states: Tensor, recurrence: Recurrence
    ) -> None:
        """Take in one pass of a layer over windows that each begin anew."""
        own = self._statistics.get(layer.index)
        whole = self._windows[0][0]
        fits = recurrence.length == whole.stop - whole.start and recurrence.order is None
        fits = fits and self._orders.get(layer.index, FORWARD) == FORWARD
        if own is not None and fits and len(recurrence.delta) == len(self._windows):
            own.restarted.update(recurrence, self._windows)

    def prove(self, directions: Sequence[Layer], replay: Replay) -> None:
        """Take in how a reading compares with what the layer handed on."""
        for layer in directions:
            self._replays[layer.index] = replay.worse_of(self._replays.get(layer.index))

    def measures(self) -> list[LayerMeasures]:
        """Of the layers that ran and whose reading is not refuted."""
        return [
            LayerMeasures(layer, self._statistics[layer.index], self._replay(layer))
            for layer in self.layers
            if layer.index in self._statistics and self._replay(layer).why_not is None
        ]

    def not_read(self) -> list[NotAudited]:
        """The others, and why."""
        missed = []
        for layer in self.layers:
            reason = self._replay(layer).why_not
            if reason is None and layer.index not in self._statistics:
                reason = "the forward pass does not call it"
            if reason is not None:
                missed.append(NotAudited(layer.name, type(layer.module).__name__, 1, reason))
        return missed

    def _replay(self, layer: Layer) -> Replay:
        return self._replays.get(layer.index, NOT_COMPARED)


def parameters_of(layers: Sequence[Layer]) -> int:
    """How many parameters the layers have."""
    seen = {id(p): p.numel() for layer in layers for p in layer.module.parameters()}
    return sum(seen.values())


def share_read(measures: Sequence[LayerMeasures], layers: Sequence[Layer]) -> float:
    """Of the parameters of all state-space layers, the share that lies in those that were read."""
    whole = parameters_of(layers)
    return parameters_of([own.layer for own in measures]) / whole if whole else float("nan")
