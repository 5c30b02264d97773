"""Recurrences of one number per channel (RG-LRU, RWKV-4), and the mLSTM's matrix memory."""

from keelback.recurrence._api import diagonal_recurrence
from keelback.recurrence._mlstm import MlstmStates, mlstm, mlstm_step
from keelback.recurrence._wkv import WkvStates, wkv

__all__ = ["MlstmStates", "WkvStates", "diagonal_recurrence", "mlstm", "mlstm_step", "wkv"]
