"""Loss and gradient of many gated SSMs at once: in PyTorch, in Numba, in Triton."""

from keelback.dynamics.gradient._choice import clean_objective, hinge_objective
from keelback.dynamics.gradient.objective import HingeObjective, HingeStep
from keelback.dynamics.gradient.torch import TorchHinge

__all__ = ["HingeObjective", "HingeStep", "TorchHinge", "clean_objective", "hinge_objective"]
