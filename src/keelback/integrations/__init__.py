"""keelback's scan where models already are: in transformers, and in code written for mamba_ssm."""

from keelback.integrations._mamba_ssm import provide_mamba_ssm
from keelback.integrations._replacement import Replacement
from keelback.integrations._transformers import use_in_transformers

__all__ = ["Replacement", "provide_mamba_ssm", "use_in_transformers"]
