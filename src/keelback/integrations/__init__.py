"""keelback's operators where models are: in transformers, in code for mamba_ssm or fla."""

from keelback.integrations._delta import who_computes_on_gpu
from keelback.integrations._fla import provide_fla
from keelback.integrations._mamba_ssm import provide_mamba_ssm
from keelback.integrations._replacement import Replacement
from keelback.integrations._transformers import use_in_transformers

__all__ = [
    "Replacement",
    "provide_fla",
    "provide_mamba_ssm",
    "use_in_transformers",
    "who_computes_on_gpu",
]
