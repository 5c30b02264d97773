"""Losses of a language model on documents, token by token, each document on its own."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keelback.bounds.outward import largest_loss
from keelback.certify._alphabet import BYTES, OF_BYTES, Alphabet, Tokens
from keelback.certify._compress import run, scanning
from keelback.errors import InputError
from keelback.progress import tell

SMOOTHINGS = tuple(2.0**-power for power in range(1, 17))
"""Candidates for alpha, the share of the uniform distribution; a union over them is paid for."""

UNIT = 2.0**-20
"""Losses and their sums are kept as whole multiples of this many bits."""

_ROWS = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Stakes:
    """What is chosen before the documents are run; each is paid for as a choice among few.

    Attributes:
        smoothing: alpha, one of `SMOOTHINGS`.
        bits: rate of the bound on bits, one of `RATES`.
        errors: rate of the bound on errors.
        vocab_size: V, the number of tokens.
    """

    smoothing: float
    bits: float
    errors: float
    vocab_size: int = BYTES

    @property
    def width(self) -> float:
        """The largest loss of a token in bits, log2(V / alpha), rounded up to whole units."""
        return math.ceil(largest_loss(self.vocab_size, self.smoothing) / UNIT) * UNIT


@dataclass(frozen=True)
class Sums:
    """Sums over one document's tokens, of one kind of loss; whole units, rounded to the safe side.

    Attributes:
        loss: of the losses, rounded up.
        forecast: of the forecasts, rounded up.
        squares: of (loss - forecast)^2, rounded up.
        log_wealth: of log(1 + rate (forecast - loss) / width), in units of `UNIT`, rounded down.
    """

    loss: Sequence[int]
    forecast: Sequence[int]
    squares: Sequence[int]
    log_wealth: Sequence[int]


@dataclass(frozen=True)
class DocumentLosses:
    """What a model lost on each document.

    Attributes:
        bits: bits of the tokens.
        errors: 1 where another token was more probable.
        sizes: bytes of each document.
        tokens: tokens of each document; as many as bytes where the model reads bytes.
        stakes: what was chosen before.
    """

    bits: Sums
    errors: Sums
    sizes: Sequence[int]
    tokens: Sequence[int]
    stakes: Stakes


@dataclass(frozen=True)
class TokenLosses:
    """Losses and forecasts at some positions, in float64.

    Attributes:
        bits: -log2 of the smoothed probability of the token that came.
        forecast: the expectation of `bits` under the smoothed probabilities themselves.
        wrong: whether another token was more probable.
        wrong_forecast: one minus the largest smoothed probability.
    """

    bits: Float[Tensor, "*positions"]
    forecast: Float[Tensor, "*positions"]
    wrong: Bool[Tensor, "*positions"]
    wrong_forecast: Float[Tensor, "*positions"]


def token_losses(
    logits: Float[Tensor, "*positions vocab"], came: Int[Tensor, "*positions"], smoothing: float
) -> TokenLosses:
    """What smoothed predictions, (1 - alpha) p + alpha / V, lose.

    Logits of which one is not a number, or infinite, make the prediction uniform.

    Args:
        logits: of a model, at each position.
        came: which token came at each position.
        smoothing: alpha, in (0, 1).
    """
    vocab_size = logits.shape[-1]
    bad = ~torch.isfinite(logits).all(-1, keepdim=True)
    p = torch.softmax(torch.where(bad, 0.0, logits).double(), -1)
    p = p * (1 - smoothing) + smoothing / vocab_size
    log_p = torch.log2(p)
    width = math.log2(vocab_size) - math.log2(smoothing)
    largest, best = p.max(-1)
    return TokenLosses(
        bits=-log_p.gather(-1, came.unsqueeze(-1)).squeeze(-1).clamp(-width, 0.0),
        forecast=-(p * log_p).sum(-1).clamp(-width, 0.0),
        wrong=best != came,
        wrong_forecast=(1 - largest).clamp(0, 1),
    )


def document_losses(
    model: nn.Module,
    documents: Sequence[bytes],
    *,
    context: int,
    window: int,
    stakes: Stakes,
    alphabet: Alphabet = OF_BYTES,
) -> DocumentLosses:
    """Run a model on documents, each from its start.

    A document is cut into windows; the model reads a window together with the `context` tokens
    before it, line breaks standing before the document. All batches have one shape and follow the
    text's order, so that the arithmetic behind a prediction does not depend on what comes after.

    Args:
        model: a language model of transformers over the alphabet, in evaluation mode.
        documents: at least one byte each.
        context: tokens before a window.
        window: tokens that are predicted at a time.
        stakes: smoothing and rates.
        alphabet: what the model reads.

    Raises:
        InputError: no document, or an empty one.
    """
    [found] = losses_under(
        model, documents, context=context, window=window, choices=[stakes], alphabet=alphabet
    )
    return found


@torch.no_grad()
def losses_under(
    model: nn.Module,
    documents: Sequence[bytes],
    *,
    context: int,
    window: int,
    choices: Sequence[Stakes],
    alphabet: Alphabet = OF_BYTES,
) -> list[DocumentLosses]:
    """`document_losses` for each of several smoothings and rates; the model is run once."""
    if not documents or not all(documents):
        raise InputError("a certificate needs at least one document with text")
    read = alphabet.encode(documents)
    sums = np.zeros((len(choices), 2, 4, len(documents)))
    device = next(model.parameters()).device
    with scanning(model):
        for owners, *batch in _batches(read, context, window, _ROWS[device.type]):
            inputs, scored = (part.to(device) for part in batch)
            came = inputs[:, context:]
            logits = run(model, inputs[:, :-1])[:, context - 1 :]
            for own, stakes in zip(sums, choices, strict=True):
                _add(own, token_losses(logits, came, stakes.smoothing), stakes, owners, scored)
    sizes, tokens = list(map(len, documents)), list(map(len, read))
    return [
        DocumentLosses(_sums(bits), _sums(errors, whole=True), sizes, tokens, stakes)
        for (bits, errors), stakes in zip(sums, choices, strict=True)
    ]


def _add(
    sums: Float[np.ndarray, "2 parts documents"],
    found: TokenLosses,
    stakes: Stakes,
    owners: npt.NDArray[np.int64],
    scored: Bool[Tensor, "rows window"],
) -> None:
    """Add a batch's bits and errors to the sums of the documents that own its rows."""
    for kind, loss, forecast, width, rate in (
        (0, found.bits, found.forecast, stakes.width, stakes.bits),
        (1, found.wrong.double(), found.wrong_forecast, 1.0, stakes.errors),
    ):
        gap = forecast - loss
        parts = (loss, forecast, gap**2, torch.log1p(rate * gap / width))
        for which, part in enumerate(parts):
            of_rows = torch.where(scored, part, 0.0).sum(-1).cpu().numpy()[: len(owners)]
            np.add.at(sums[kind, which], owners, of_rows)


def _sums(parts: Float[np.ndarray, "parts documents"], *, whole: bool = False) -> Sums:
    """Whole units, one more than needed: a document's sums in float64 are right to 1e-9."""
    loss, forecast, squares, log_wealth = parts
    exact = [round(x) * round(1 / UNIT) for x in loss.tolist()]
    return Sums(
        loss=exact if whole else _up(loss),
        forecast=_up(forecast),
        squares=_up(squares),
        log_wealth=[-x for x in _up(-log_wealth)],
    )


def _up(values: Float[np.ndarray, " documents"]) -> list[int]:
    return [math.ceil(value / UNIT) + 1 for value in values.tolist()]


def _batches(
    documents: Sequence[Tokens], context: int, window: int, rows: int
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, Tensor]]:
    """Owners of the rows, tokens (rows, context + window), and which tokens of windows count."""
    pieces = [
        (index, start)
        for index, document in enumerate(documents)
        for start in range(0, len(document), window)
    ]
    for first in range(0, len(pieces), rows):
        batch = pieces[first : first + rows]
        inputs = np.full((rows, context + window), ord("\n"), dtype=np.int64)
        scored = torch.zeros(rows, window, dtype=torch.bool)
        for row, (index, start) in enumerate(batch):
            own = documents[index][max(0, start - context) : start + window]
            at = context - min(start, context)
            inputs[row, at : at + len(own)] = own
            scored[row, : at + len(own) - context] = True
        yield np.array([index for index, _ in batch]), torch.from_numpy(inputs), scored
        tell("scoring documents", min(first + rows, len(pieces)), len(pieces))
