"""The causal convolution on the CPU: hands tensors to the compiled kernels, on several threads."""

from torch import Tensor

from keelback.compiled import LANES
from keelback.compiled.threads import run_ranges

_CHUNK = 256
_PER_MICROSECOND = 1000.0  # Outputs that one thread computes.


def _like(x: Tensor) -> object:
    return x.new_empty(0).numpy()


def _taps_first(weight: Tensor) -> Tensor:
    """(replica, channel, tap), the present last, as (replica, tap, channel), the present first."""
    return weight.flip(-1).mT.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    replica, row, time, _ = x.stride()
    size = x.element_size()
    return replica * size, row * size, time * size


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def convolve(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """Output of `keelback::causal_conv1d`."""
    from keelback.conv.cpu import kernels

    replicas, rows, length, channels = x.shape
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    x, weights, bias = _adjacent(x), _taps_first(weight), bias.contiguous()
    like, addresses = _like(x), (weights.data_ptr(), bias.data_ptr(), y.data_ptr())
    sizes, strides, width = (rows, length, channels), _strides(x), weights.shape[1]

    def work(start: int, stop: int) -> None:
        kernels.convolve(
            like, x.data_ptr(), strides, *addresses, sizes, width, _CHUNK, silu, start, stop
        )

    units = replicas * rows * -(-length // _CHUNK) * -(-channels // kernels.TILE)
    run_ranges(work, units, _cost(x))
    return y


def correlate(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    from keelback.conv.cpu import kernels

    replicas, rows, length, channels = x.shape
    width = weight.shape[-1]
    dx = x.new_empty(x.shape)
    dweight = x.new_zeros(replicas, rows, width, channels)
    dbias = x.new_zeros(replicas, rows, channels)
    if dx.numel() > 0:
        x, dy = _adjacent(x), _adjacent(dy)
        weights, bias = _taps_first(weight), bias.contiguous()
        like, sizes = _like(x), (rows, length, channels)
        gradients = (dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr())
        parameters = (weights.data_ptr(), bias.data_ptr())
        given = (like, x.data_ptr(), _strides(x), dy.data_ptr(), _strides(dy), *parameters)

        def work(start: int, stop: int) -> None:
            kernels.correlate(*given, *gradients, sizes, width, silu, start, stop)

        run_ranges(work, replicas * rows * -(-channels // kernels.TILE), 3 * _cost(x))
    return dx, dweight.sum(1).mT.flip(-1), dbias.sum(1)


def _cost(x: Tensor) -> float:
    lanes = -(-x.shape[-1] // LANES) * LANES
    return x.numel() // x.shape[-1] * lanes / _PER_MICROSECOND
