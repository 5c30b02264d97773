// The sums of the step sizes over each run of steps.
#include "window.cuh"

struct ElapseArguments {
  WindowSizes sizes;
  Sequences delta;
  const Real* bias;  // (replica, channel)
  Real* elapsed;     // (run of a row, channel)
};

// The configuration is a convolution's, whose kSilu stands for softplus here.
KERNEL void __launch_bounds__(kThreads) scan_elapse(ElapseArguments arguments) {
  const WindowSizes& sizes = arguments.sizes;
  const Window window(sizes);
  if (!window.inside) return;
  const Stored* delta = window.in(arguments.delta);
  const Index time = arguments.delta.time, replica = window.replica;
  const Reals bias = *reinterpret_cast<const Reals*>(arguments.bias + replica * sizes.channels + window.channel);
  Reals sums = none();
  for (int first = window.start; first < window.stop; first += kBatch) {
    Values loaded[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i < window.stop) loaded[i] = load_values(delta + (first + i) * time);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= window.stop) break;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Real size = loaded[i].at(v) + bias.at[v];
        sums.at[v] += kSilu ? softplus(size) : size;
      }
    }
  }
  *reinterpret_cast<Reals*>(arguments.elapsed + window.run * sizes.channels + window.channel) = sums;
}
