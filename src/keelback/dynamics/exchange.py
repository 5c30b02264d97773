"""Exchange of the two classes in the weights of a gated SSM, and weights that it leaves alone.

Exchanging o_+ with o_- in the data does the same as exchanging them in w and W_O. The output
weights v have one half positive and one half negative; exchanging the halves of the hidden units
changes the sign of F. A read-out that is unchanged when both are exchanged,

    W_O[i, o_+] = W_O[i + m/2, o_-],   W_O[i, o] = W_O[i + m/2, o] for every irrelevant o,

has a_+ = -a_- and a_o = 0, where `a_o = sum_i v_i relu(W_O[i, o])` is the read-out of feature o; if
w is the same on o_+ and o_- as well, F changes its sign exactly when the classes are exchanged.
"""

from jaxtyping import Float
from torch import Tensor


def exchanged_gate(w: Float[Tensor, "replicas dim"]) -> Float[Tensor, "replicas dim"]:
    """The gating vector with its values on o_+ and o_- exchanged."""
    found = w.clone()
    found[..., 0], found[..., 1] = w[..., 1], w[..., 0]
    return found


def exchanged_readout(
    W_O: Float[Tensor, "replicas width dim"],
) -> Float[Tensor, "replicas width dim"]:
    """The read-out with o_+ and o_- exchanged, and the halves of the hidden units."""
    return exchanged_gate(W_O.roll(W_O.shape[-2] // 2, -2))


def symmetric_gate(w: Float[Tensor, "replicas dim"]) -> Float[Tensor, "replicas dim"]:
    """The nearest gating vector (or gradient) that exchanging the classes leaves alone."""
    return (w + exchanged_gate(w)) / 2


def symmetric_readout(
    W_O: Float[Tensor, "replicas width dim"],
) -> Float[Tensor, "replicas width dim"]:
    """The nearest read-out (or gradient) that exchanging the classes leaves alone."""
    return (W_O + exchanged_readout(W_O)) / 2
