// The gated root-mean-square norm: each number is read once, and waits in registers for its group's sum.
#include "rows.cuh"

struct NormaliseArguments {
  NormSizes sizes;
  double epsilon;
  Rows<Stored> x;
  Rows<Gate> gate;
  const Weight* weight;
  Index of_replica;  // weights
  Out* y;
  Real* scales;  // (row, group): one over the root mean square, for the backward pass; or null
};

struct NormaliseShared {
  TeamSums sums;
};
EXPORTED_SIZE(normalise_shared_bytes, NormaliseShared)

// What is read of a row.
struct Given {
  Values<Stored> x[kPacks];
  Values<Gate> gate[kPacks];

  INLINE void load(const Place& place, const NormaliseArguments& p, int row) {
    place.load(x, p.x, row);
    if constexpr (kHasGate) place.load(gate, p.gate, row);
  }
  INLINE Real opened_at(int part, int i) const {
    const Real g = gate[part].at(i);
    return opened(g, sigmoid(g));
  }
};

KERNEL void __launch_bounds__(kThreads, kBlocks) keelback_normalise(const NormaliseArguments p) {
  SHARED_MEMORY(NormaliseShared, shared);
  const Place place(p.sizes);
  Values<Weight> weights[kPacks];
  place.load_weights(weights, p.weight, p.of_replica);
  Given given;
  given.load(place, p, place.first_row());
  int round = 0;
  for (int row = place.first_row(); place.has_round(row); row += place.rows_of_round(), ++round) {
    Given next;
    const int next_row = row + place.rows_of_round();
    if constexpr (kAhead) next.load(place, p, next_row);
    Real values[kPacks][kVector], squares = Real(0);
#pragma unroll
    for (int part = 0; part < kPacks; ++part) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        Real value = given.x[part].at(i);
        if constexpr (kGateFirst) value *= given.opened_at(part, i);
        values[part][i] = value;
        squares += value * value;
      }
    }
    const Real scale = inverse_root(shared.sums.sum(squares, round) / Real(kSize) + Real(p.epsilon));
    if (row < place.rows) {
      if (p.scales && place.lane == 0) p.scales[place.segment(row)] = scale;
      Out* y = p.y + place.segment(row) * kSize;
#pragma unroll
      for (int part = 0; part < kPacks; ++part) {
        if (!place.has(part)) continue;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          Real value = values[part][i] * scale;
          if constexpr (kRounded) value = rounded<Stored>(value);
          if constexpr (kHasWeight) value *= weights[part].at(i);
          if constexpr (kHasWeight && kRounded) value = rounded<Product>(value);
          if constexpr (kGateLast) value *= given.opened_at(part, i);
          values[part][i] = value;
        }
        store_values(y + place.channel(part), values[part]);
      }
    }
    if constexpr (!kAhead) next.load(place, p, next_row);
    given = next;
  }
}
