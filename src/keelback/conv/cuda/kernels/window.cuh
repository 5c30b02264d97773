// A causal depthwise convolution: which channels of which steps a thread has.
#pragma once

#include "taps.cuh"

using Values = Packed<Stored, kVector>;
using Reals = Pack<Real, kVector>;

// A tensor (replica, row, time, channel) whose channels are adjacent; strides count elements.
struct Sequences {
  const Stored* data;
  Index replica, row, time;
};

// The length is cut into runs of `run_length` steps, the last one shorter.
struct WindowSizes {
  int replicas, rows, length, channels, runs, run_length;
};

// `kVector` channels of the steps from `start` to `stop` of a row. Neighbouring threads have neighbouring channels.
struct Window {
  int replica, row, channel, start, stop;
  Index sequence;  // counts the rows of all replicas
  Index run;       // counts the runs of all rows
  bool inside;

  INLINE explicit Window(const WindowSizes& sizes) {
    const int packs = sizes.channels / kVector;
    const Index thread = Index(blockIdx.x) * kThreads + threadIdx.x;
    run = thread / packs;
    sequence = run / sizes.runs;
    inside = sequence < Index(sizes.replicas) * sizes.rows;
    channel = static_cast<int>(thread % packs) * kVector;
    start = static_cast<int>(run % sizes.runs) * sizes.run_length;
    stop = sizes.length - start < sizes.run_length ? sizes.length : start + sizes.run_length;
    replica = static_cast<int>(sequence / sizes.rows);
    row = static_cast<int>(sequence % sizes.rows);
  }

  // Where the thread's channels of the first step of its row are.
  INLINE const Stored* in(const Sequences& x) const { return x.data + replica * x.replica + row * x.row + channel; }
};

INLINE Values load_values(const Stored* from) { return *reinterpret_cast<const Values*>(from); }

INLINE Reals widened(const Values& values) {
  Reals reals;
#pragma unroll
  for (int v = 0; v < kVector; ++v) reals.at[v] = values.at(v);
  return reals;
}

INLINE Reals none() {
  Reals reals;
#pragma unroll
  for (int v = 0; v < kVector; ++v) reals.at[v] = Real(0);
  return reals;
}

INLINE void store_values(Stored* to, const Reals& reals) {
  Values values;
  values.set(reals);
  *reinterpret_cast<Values*>(to) = values;
}

// Weights (replica, channel, tap), whose last tap is of the present step, and biases (replica, channel), if any.
struct Weights {
  const Tap* data;
  Index replica, channel, tap;
};
struct Biases {
  const Bias* data;
  Index replica, channel;
};

// What a thread's channels are weighted with; the tap of the present step comes first.
struct Taps {
  Reals weight[kWidth], bias;

  INLINE Taps(const Window& window, const Weights& weights, const Biases& biases) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const Index channel = window.channel + v;
      Real found[kWidth];
      load<kTapsInPiece, kWidth>(weights.data + window.replica * weights.replica + channel * weights.channel, weights.tap, found);
#pragma unroll
      for (int tap = 0; tap < kWidth; ++tap) weight[tap].at[v] = found[kWidth - 1 - tap];
      bias.at[v] = kHasBias ? value(biases.data + window.replica * biases.replica + channel * biases.channel) : Real(0);
    }
  }
};

// The present step's input and those of the steps before it.
struct Past {
  Reals at[kWidth];

  INLINE Past(const Window& window, const Stored* x, Index time) {
    at[0] = none();
#pragma unroll
    for (int tap = 1; tap < kWidth; ++tap) {
      const int t = window.start - tap;
      at[tap - 1] = t < 0 ? none() : widened(load_values(x + t * time));
    }
  }

  INLINE void enter(const Reals& x) {
#pragma unroll
    for (int tap = kWidth - 1; tap > 0; --tap) at[tap] = at[tap - 1];
    at[0] = x;
  }

  INLINE Real convolved(const Taps& taps, int v) const {
    Real sum = taps.bias.at[v];
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) sum += taps.weight[tap].at[v] * at[tap].at[v];
    return sum;
  }
};
