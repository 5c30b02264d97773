// The gradients of the causal depthwise convolution, which computes its sums again for the slope of SiLU.
#include "window.cuh"

struct CorrelateArguments {
  WindowSizes sizes;
  Sequences x, dy;
  Weights weight;
  Biases bias;
  Stored* dx;    // without gaps
  Real* dtaps;   // each run of a row has its part of the gradients of the weights (channel, tap) and, behind it, of the bias
};

KERNEL void __launch_bounds__(kThreads) keelback_correlate(CorrelateArguments arguments) {
  const WindowSizes& sizes = arguments.sizes;
  const Window window(sizes);
  if (!window.inside) return;
  const Taps taps(window, arguments.weight, arguments.bias);
  const Stored *x = window.in(arguments.x), *dy = window.in(arguments.dy);
  const Index x_time = arguments.x.time, dy_time = arguments.dy.time;
  Stored* dx = arguments.dx + window.sequence * sizes.length * sizes.channels + window.channel;
  Past past(window, x, x_time);
  Reals dweight[kWidth], dbias = none();
  Reals pending[kWidth];  // of dx: the present step's and those before it, to which later steps still add
#pragma unroll
  for (int tap = 0; tap < kWidth; ++tap) dweight[tap] = pending[tap] = none();

  const int last = window.stop + kWidth - 1;
  const int known = last < sizes.length ? last : sizes.length;
  for (int first = window.start; first < last; first += kBatch) {
    Values loaded[kBatch], gradients[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i < known) {
        loaded[i] = load_values(x + (first + i) * x_time);
        gradients[i] = load_values(dy + (first + i) * dy_time);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int t = first + i;
      if (t >= last) break;
#pragma unroll
      for (int tap = kWidth - 1; tap > 0; --tap) pending[tap] = pending[tap - 1];
      pending[0] = none();
      if (t < known) {
        past.enter(widened(loaded[i]));
        Reals of_sum = widened(gradients[i]);
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          if constexpr (kSilu) {
            const Real sum = past.convolved(taps, v), open = sigmoid(sum);
            of_sum.at[v] *= open + sum * open * (Real(1) - open);
          }
#pragma unroll
          for (int tap = 0; tap < kWidth; ++tap) {
            pending[tap].at[v] += taps.weight[tap].at[v] * of_sum.at[v];
            if (t < window.stop) dweight[tap].at[v] += past.at[tap].at[v] * of_sum.at[v];
          }
          if (t < window.stop) dbias.at[v] += of_sum.at[v];
        }
      }
      const int done = t - (kWidth - 1);
      if (done >= window.start) store_values(dx + Index(done) * sizes.channels, pending[kWidth - 1]);
    }
  }
  Real* dtaps = arguments.dtaps + window.run * (kWidth + kHasBias) * sizes.channels;
  constexpr bool kAtOnce = kVector == 4 && (kWidth == 2 || kWidth == 4);
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    Real found[kWidth];
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) found[kWidth - 1 - tap] = dweight[tap].at[v];
    store<kAtOnce, kWidth>(dtaps + Index(window.channel + v) * kWidth, 1, found);
  }
  if constexpr (kHasBias) *reinterpret_cast<Reals*>(dtaps + Index(kWidth) * sizes.channels + window.channel) = dbias;
}
