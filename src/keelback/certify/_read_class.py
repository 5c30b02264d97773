"""The class of a trained model of each kind that the bounds speak of, read off its weights."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.bounds import (
    AnyConstants,
    ClassConstants,
    ComplexConstants,
    DenseConstants,
    MambaBlockConstants,
    ResidualConstants,
    StackConstants,
)
from keelback.certify._measure import measure_constants, require_finite
from keelback.errors import InputError
from keelback.models import (
    ComplexSSM,
    DenseSSM,
    MambaBlocks,
    MambaClassifier,
    SelectiveClassifier,
    SelectiveSSM,
    SelectiveStack,
    SequenceClassifier,
)
from keelback.models.mamba_stack import NORM_EPS


def read_class(model: nn.Module, seq_len: int, m: int) -> AnyConstants:
    """The smallest class that holds a model, for any sequence of its tokens.

    Args:
        model: a `SelectiveClassifier`, a `MambaClassifier`, or a `SequenceClassifier` around a
            complex, dense or stacked selective SSM or Mamba blocks.
        seq_len: T.
        m: number of training samples.

    Raises:
        InputError: another architecture, or weights that are not finite.

    Source: docs/studies/bounds.md, Theorem 4, Corollaries 8, 9, 14 and 15 and the paragraphs on
    other states.

    Examples:
        >>> from keelback.models import model_config
        >>> model = model_config({"kind": "complex-ssm", "vocab_size": 2}).build()
        >>> type(read_class(model, seq_len=20, m=500)).__name__
        'ComplexConstants'
    """
    if isinstance(model, SelectiveClassifier):
        return measure_constants(model, seq_len, m)
    if isinstance(model, MambaClassifier):
        require_finite(model)
        return _residual(model, {"T": seq_len, "m": m})
    read = _READERS.get(type(model.mixer)) if isinstance(model, SequenceClassifier) else None
    if read is None:
        raise InputError(
            "the bounds are about one selective SSM (real, complex or dense), a stack of them, or "
            f"Mamba blocks, with or without norms and residuals, with a linear head, not "
            f"{_name(model)}"
        )
    require_finite(model)
    return read(model, {"T": seq_len, "m": m})


def _name(model: nn.Module) -> str:
    return type(model.mixer if isinstance(model, SequenceClassifier) else model).__name__


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _norms(name: str, matrix: Float[Tensor, "rows columns"]) -> dict[str, Any]:
    """Spectral and entrywise l1 norm of a matrix."""
    spectral = float(torch.linalg.matrix_norm(matrix, ord=2))
    return {f"B_{name}": spectral, f"M_{name}": max(spectral, float(matrix.abs().sum()))}


def _row_norms(name: str, rows: Float[Tensor, "rows columns"]) -> dict[str, Any]:
    """The largest l2 and l1 norm of a row."""
    euclidean = float(rows.norm(dim=-1).max())
    return {f"B_{name}": euclidean, f"M_{name}": max(euclidean, float(rows.abs().sum(-1).max()))}


def _head(model: Any) -> Float[Tensor, "rows d_output"]:
    weight = _wide(model.head.weight)
    return weight.reshape(-1, weight.shape[-1])


def _token_norm(model: Any) -> float:
    return float(_wide(model.embedding).norm(dim=-1).max())


def _gate_and_maps(ssm: Any) -> dict[str, Any]:
    """What a selective part has whatever its states are."""
    p = float(_wide(ssm.p))
    return {
        **_norms("B", _wide(ssm.W_B)),
        **_norms("C", _wide(ssm.W_C)),
        **_row_norms("q", _wide(ssm.q)[None]),
        "p_lo": p,
        "p_hi": p,
        "d": ssm.W_B.shape[1],
        "N": ssm.W_B.shape[0],
    }


def _complex(model: Any, sizes: dict[str, int]) -> ComplexConstants:
    ssm: ComplexSSM = model.mixer
    real = _wide(ssm.A_real)
    return ComplexConstants(
        **_gate_and_maps(ssm),
        **_row_norms("w", _head(model)),
        **sizes,
        B_u=_token_norm(model),
        s_A=float(real.max()),
        B_A=max(-float(real.min()), 0.0),
        omega=float(_wide(ssm.A_imag).abs().max()),
    )


def _dense(model: Any, sizes: dict[str, int]) -> DenseConstants:
    ssm: DenseSSM = model.mixer
    A = _wide(ssm.A)
    abscissa = float(torch.linalg.eigvalsh((A + A.mT) / 2).max())
    return DenseConstants(
        **_gate_and_maps(ssm),
        **_row_norms("w", _head(model)),
        **sizes,
        B_u=_token_norm(model),
        s_A=abscissa,
        B_A=max(float(torch.linalg.matrix_norm(A, ord=2).max()), -abscissa),
    )


def _stack(model: Any, sizes: dict[str, int]) -> StackConstants:
    stack: SelectiveStack = model.mixer

    def layer(ssm: SelectiveSSM) -> ClassConstants:
        A = _wide(ssm.A)
        return ClassConstants(
            **_gate_and_maps(ssm),
            **_row_norms("w", _head(model)),
            **sizes,
            B_u=_token_norm(model),
            s_A=float(A.max()),
            B_A=max(-float(A.min()), 0.0),
        )

    return StackConstants(tuple(layer(ssm) for ssm in stack.layers))  # type: ignore[arg-type]


def _mamba_blocks(model: Any, sizes: dict[str, int]) -> MambaBlockConstants | StackConstants:
    blocks: MambaBlocks = model.mixer
    *below, top = blocks.blocks
    tokens = _token_norm(model)
    last = _mamba_block(tokens, top, sizes, _row_norms("w", _head(model) @ _wide(top.W_out)))  # type: ignore[arg-type]
    if not below:
        return last
    found = []
    for block in below:
        back = float(torch.linalg.matrix_norm(_wide(block.W_out), ord=2))  # type: ignore[arg-type]
        found.append(_mamba_block(tokens, block, sizes, {"B_w": back, "M_w": back}))
    return StackConstants((*found, last))


def _residual(model: MambaClassifier, sizes: dict[str, int]) -> ResidualConstants:
    backbone = model.backbone

    def gain(norm: Any) -> float:
        return float(_wide(norm.weight).abs().max())

    blocks = []
    for block in backbone.blocks:
        back = float(torch.linalg.matrix_norm(_wide(block.W_out), ord=2))  # type: ignore[arg-type]
        blocks.append(_mamba_block(0.0, block, sizes, {"B_w": back, "M_w": back}))
    return ResidualConstants(
        tuple(blocks),
        gains=tuple(gain(norm) for norm in backbone.norms),
        last_gain=gain(backbone.last_norm),
        B_e=float(_wide(backbone.embedding).norm(dim=-1).max()),
        **_row_norms("w", _head(model)),
        eps=NORM_EPS,
    )


def _mamba_block(
    token_norm: float, block: Any, sizes: dict[str, int], head: dict[str, Any]
) -> MambaBlockConstants:
    rank = block.dt_rank
    W_x, A = _wide(block.W_x), _wide(block.A)
    W_in, W_gate = _wide(block.W_in).chunk(2)
    p, norm = _wide(block.delta_bias), float(_wide(block.conv_bias).norm())
    selective = ClassConstants(
        **_norms("B", W_x[rank : rank + block.d_state]),
        **_norms("C", W_x[rank + block.d_state :]),
        **_row_norms("q", _wide(block.W_delta) @ W_x[:rank]),
        **head,
        **sizes,
        B_u=0.0,
        s_A=float(A.max()),
        B_A=-float(A.min()),
        p_lo=float(p.min()),
        p_hi=float(p.max()),
        d=W_in.shape[0],
        N=block.d_state,
    )
    return MambaBlockConstants(
        selective,
        B_x=token_norm,
        d_model=W_in.shape[1],
        B_in=float(torch.linalg.matrix_norm(W_in, ord=2)),
        B_g=float(torch.linalg.matrix_norm(W_gate, ord=2)),
        B_conv=float(_wide(block.conv_weight).abs().amax(0).sum()),
        d_conv=block.d_conv,
        B_bias=norm,
        B_D=float(_wide(block.D).abs().max()),
    )


_READERS: dict[type, Callable[[Any, dict[str, int]], AnyConstants]] = {
    ComplexSSM: _complex,
    DenseSSM: _dense,
    SelectiveStack: _stack,
    MambaBlocks: _mamba_blocks,
}
