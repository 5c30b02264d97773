// The gradients of the gated norm; those of the weights as sums over the rows of each block.
#include "rows.cuh"

struct GradientsArguments {
  NormSizes sizes;
  Rows<Stored> x;
  Rows<Gate> gate;
  Rows<Out> dy;
  const Weight* weight;
  Index of_replica;  // weights
  const Real* scales;
  Stored* dx;     // without gaps, as the next
  Gate* dgate;
  Real* partial;  // (replica, slot, channel)
};

struct GradientsShared {
  TeamSums sums;
  alignas(kPieceBytes) Real of_teams[kHasWeight && kTeams > 1 ? kTeams : 1][kHasWeight && kTeams > 1 ? kSize : 1];
};
EXPORTED_SIZE(gradients_shared_bytes, GradientsShared)

// What is read of a row.
struct Given {
  Values<Stored> x[kPacks];
  Values<Gate> gate[kPacks];
  Values<Out> dy[kPacks];
  Real scale;

  INLINE void load(const Place& place, const GradientsArguments& p, int row) {
    place.load(x, p.x, row);
    if constexpr (kHasGate) place.load(gate, p.gate, row);
    place.load(dy, p.dy, row);
    scale = row < place.rows ? p.scales[place.segment(row)] : Real(0);
  }
};

// Adds up what the teams of a block have found, and writes it.
INLINE void store_weights(const GradientsArguments& p, const Place& place, GradientsShared& shared,
                          const Real (&dweight)[kPacks][kVector]) {
  Real* partial = p.partial + ((Index(place.replica) * place.slots + place.slot) * place.groups + place.group) * kSize;
  Real* own = kTeams > 1 ? shared.of_teams[place.team] : partial;
#pragma unroll
  for (int part = 0; part < kPacks; ++part)
    if (place.has(part)) store_values(own + place.channel(part), dweight[part]);
  if constexpr (kTeams > 1) {
    synchronize_block();
    for (int channel = threadIdx.x; channel < kSize; channel += kThreads) {
      Real sum = Real(0);
#pragma unroll 8
      for (int team = 0; team < kTeams; ++team) sum += shared.of_teams[team][channel];
      partial[channel] = sum;
    }
  }
}

KERNEL void __launch_bounds__(kThreads, kBlocks) keelback_gradients(const GradientsArguments p) {
  SHARED_MEMORY(GradientsShared, shared);
  const Place place(p.sizes);
  Values<Weight> weights[kPacks];
  place.load_weights(weights, p.weight, p.of_replica);
  Real dweight[kPacks][kVector];
#pragma unroll
  for (int part = 0; part < kPacks; ++part)
#pragma unroll
    for (int i = 0; i < kVector; ++i) dweight[part][i] = Real(0);
  Given given;
  given.load(place, p, place.first_row());
  int round = 0;
  for (int row = place.first_row(); place.has_round(row); row += place.rows_of_round(), ++round) {
    Given next;
    const int next_row = row + place.rows_of_round();
    if constexpr (kAhead) next.load(place, p, next_row);
    const Index begin = place.segment(row) * kSize;
    // Of each gate its logistic function waits for the sum; all else is computed again, which takes fewer registers.
    Real shares[kPacks][kVector], products = Real(0);
#pragma unroll
    for (int part = 0; part < kPacks; ++part) {
      Real of_gate[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const Real gate = kHasGate ? given.gate[part].at(i) : Real(0);
        const Real share = shares[part][i] = kHasGate ? sigmoid(gate) : Real(0);
        const Real weight = kHasWeight ? weights[part].at(i) : Real(1);
        Real value = given.x[part].at(i), slope = given.dy[part].at(i);
        if constexpr (kGateFirst) value *= opened(gate, share);
        value *= given.scale;
        const Real kept = kRounded ? rounded<Stored>(value) : value;
        if constexpr (kGateLast) {
          of_gate[i] = slope * (weight * kept) * slope_of(gate, share);
          slope *= opened(gate, share);
        }
        dweight[part][i] += slope * kept;
        products += slope * (weight * value);
      }
      if constexpr (kGateLast)
        if (row < place.rows && place.has(part)) store_values(p.dgate + begin + place.channel(part), of_gate);
    }
    const Real mean = shared.sums.sum(products, round) / Real(kSize);
    if (row < place.rows) {
#pragma unroll
      for (int part = 0; part < kPacks; ++part) {
        if (!place.has(part)) continue;
        Real of_x[kVector], of_gate[kVector];
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const Real gate = kHasGate ? given.gate[part].at(i) : Real(0), share = opaque(shares[part][i]);
          const Real weight = kHasWeight ? weights[part].at(i) : Real(1);
          const Real x = given.x[part].at(i), multiplier = kHasGate ? opened(gate, share) : Real(1);
          Real value = x, slope = given.dy[part].at(i) * weight;
          if constexpr (kGateFirst) value *= multiplier;
          if constexpr (kGateLast) slope *= multiplier;
          of_x[i] = given.scale * (slope - value * given.scale * mean);
          if constexpr (kGateFirst) {
            of_gate[i] = of_x[i] * x * slope_of(gate, share);
            of_x[i] *= multiplier;
          }
        }
        store_values(p.dx + begin + place.channel(part), of_x);
        if constexpr (kGateFirst) store_values(p.dgate + begin + place.channel(part), of_gate);
      }
    }
    if constexpr (!kAhead) next.load(place, p, next_row);
    given = next;
  }
  if constexpr (kHasWeight) store_weights(p, place, shared, dweight);
}
