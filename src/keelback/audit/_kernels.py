"""Running transformers' Mamba layers through keelback's scan while an audit lasts."""

import sys
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from keelback.integrations import use_in_transformers

_SCANS = ("mamba_selective_scan", "mamba2_chunk_scan")


def fast_scans(model: nn.Module) -> AbstractContextManager[object]:
    """Within the block, a model with Mamba layers of transformers scans by `keelback.scan`.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16).build()
        >>> with fast_scans(model):
        ...     logits = model(torch.zeros(1, 20, dtype=torch.int64))
        >>> logits.shape
        torch.Size([1, 20, 256])
    """
    modules = {sys.modules.get(type(part).__module__) for part in model.modules()}
    scans = any(hasattr(module, scan) for module in modules for scan in _SCANS)
    return use_in_transformers() if scans else nullcontext()
