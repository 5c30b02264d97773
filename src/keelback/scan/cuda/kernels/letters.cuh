// Letters: what the spans of a backward pass tell each other, where the host gave no tensors for it.
//
// Each span has a letter from all others in rows of its last tile, after the states of the tile, where the gradient of u
// will be: the state or adjoint that a span passes on, and the sum of its step sizes, in kStates + 1 rows. As with
// tile states, only the block that overwrites those rows reads them.
#pragma once

#include "tile_states.cuh"
#include "spans.cuh"

INLINE Real* letter_to(int span, const TileStates& kept, const Place& place, const Sizes& sizes) {
  const int stop = span + 1 < sizes.spans ? (span + 1) * sizes.span_length : sizes.length;
  const Index row = stop - kTile + kStates;
  return reinterpret_cast<Real*>(kept.data) + (place.sequence * kept.rows + row) * sizes.channels +
         place.first_channel;
}

// This span's lines in every other one's letter: the state in those after it, the adjoint in those before it.
INLINE void write_letters(const TileStates& kept, const Place& place, const Sizes& sizes, const Seat& seat,
                          const Real (&h)[kStatesPerThread], const Real (&adjoint)[kStatesPerThread], Real elapsed) {
#pragma unroll 1
  for (int to = 0; to < sizes.spans; ++to) {
    if (to == place.span) continue;
    const int number = place.span < to ? place.span : place.span - 1;
    Real* lines = letter_to(to, kept, place, sizes) + Index(number) * (kStates + 1) * sizes.channels + seat.channel;
#pragma unroll
    for (int j = 0; j < kStatesPerThread; ++j)
      if (seat.holds(j))
        lines[(seat.state_lane * kStatesPerThread + j) * Index(sizes.channels)] = to > place.span ? h[j] : adjoint[j];
    if (seat.active && seat.state_lane == 0) lines[Index(kStates) * sizes.channels] = elapsed;
  }
}
