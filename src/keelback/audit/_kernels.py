"""Running transformers' Mamba layers through keelback's scan while an audit lasts."""

import sys
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from keelback.integrations import use_in_transformers
from keelback.integrations._transformers import has_its_own_functions

_SCANS = ("mamba_selective_scan", "mamba2_chunk_scan")


def fast_scans(model: nn.Module) -> AbstractContextManager[object]:
    """Within the block, a model with Mamba layers of transformers scans by `keelback.scan`.

    Not where someone has put another scan or convolution in their place: it is to be seen. The
    norms stay, so that a model placed by accelerate gives the numbers of one in memory to the bit.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16).build()
        >>> with fast_scans(model):
        ...     logits = model(torch.zeros(1, 20, dtype=torch.int64))
        >>> logits.shape
        torch.Size([1, 20, 256])
    """
    modules = {sys.modules[type(part).__module__] for part in model.modules()}
    scanning = [one for one in modules if any(hasattr(one, scan) for scan in _SCANS)]
    known = all(has_its_own_functions(module) for module in scanning)
    return use_in_transformers(norms=False) if scanning and known else nullcontext()
