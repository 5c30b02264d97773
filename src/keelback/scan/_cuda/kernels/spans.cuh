// Spans of the length that run at the same time. Each passes on its end state from a zero start (and, backward,
// the adjoint of its start from a zero end); what a span receives follows from these.
#pragma once

#include "place.cuh"

// Spans whose values are on their way together.
constexpr int kBatch = 4;

// What the spans of a sequence pass on: states or adjoints (span, channel, state), and the sums of their step
// sizes (span, channel), endless where there is a reset.
struct Passed {
  const Real *values, *totals;

  INLINE Passed(const Real* values, const Real* totals, const Place& place, const Sizes& sizes)
      : values(part(values, place.sequence * sizes.spans, sizes)),
        totals(totals + place.sequence * sizes.spans * sizes.channels + place.first_channel) {}
};

// Walks over the spans `from`, `from` + direction, ... up to this block's, which is not included. `values` are
// what the first of them received, then what this one does.
INLINE void receive(Real (&values)[kStatesPerThread], const Passed& passed, int from, int direction,
                    const Place& place, const Sizes& sizes, const Seat& seat, const Real (&rates)[kStatesPerThread]) {
  for (int left = (place.span - from) * direction; left > 0; left -= kBatch, from += kBatch * direction) {
    Real added[kBatch][kStatesPerThread], elapsed[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const bool exists = i < left;
      const Index span = from + i * direction;
      read_states(exists ? part(passed.values, span, sizes) : nullptr, place, seat, added[i]);
      elapsed[i] = exists && seat.active ? passed.totals[span * sizes.channels + seat.channel] : Real(0);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int j = 0; j < kStatesPerThread; ++j)
        values[j] = decayed(decay_over(elapsed[i], rates[j]), values[j]) + added[i][j];
  }
}
