// The causal depthwise convolution, with bias and SiLU.
#include "window.cuh"

struct ConvolveArguments {
  WindowSizes sizes;
  Sequences x;
  Weights weight;
  Biases bias;
  Stored* y;  // without gaps
};

KERNEL void __launch_bounds__(kThreads) keelback_convolve(ConvolveArguments arguments) {
  const WindowSizes& sizes = arguments.sizes;
  const Window window(sizes);
  if (!window.inside) return;
  const Taps taps(window, arguments.weight, arguments.bias);
  const Stored* x = window.in(arguments.x);
  const Index time = arguments.x.time;
  Stored* y = arguments.y + window.sequence * sizes.length * sizes.channels + window.channel;
  Past past(window, x, time);
  for (int first = window.start; first < window.stop; first += kBatch) {
    Values loaded[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i < window.stop) loaded[i] = load_values(x + (first + i) * time);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= window.stop) break;
      past.enter(widened(loaded[i]));
      Reals sums;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const Real sum = past.convolved(taps, v);
        sums.at[v] = kSilu ? sum * sigmoid(sum) : sum;
      }
      store_values(y + Index(first + i) * sizes.channels, sums);
    }
  }
}
