"""How large a Mamba is, before it is made."""

_EXPAND = 2


def mamba_numbers(layers: int, d_model: int, tokens: int) -> float:
    """Numbers of the projections of a Mamba, and of what one of its layers computes for a batch.

    Args:
        layers: number of layers.
        d_model: number of channels of the model.
        tokens: number of tokens of the batch, all sequences together.

    Examples:
        >>> mamba_numbers(24, 768, 2048) / 1e6
        94.37184
    """
    weights = 3.0 * layers * _EXPAND * d_model**2
    return weights + 3.0 * _EXPAND * d_model * tokens
