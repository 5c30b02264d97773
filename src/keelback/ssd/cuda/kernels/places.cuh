// What all kernels of a scan by heads share: its sizes, and what is known of each step.
#pragma once

#include "sequences.cuh"
#include "step_sizes.cuh"

// The launch covers `subsets` of `heads_per_subset` heads of each group, from the group's head `first_head` on.
struct Sizes {
  int batch, length, heads, groups, chunks, head_dim, states;
  int heads_per_group, heads_per_subset, subsets, first_head;
};

// Of the steps of a chunk of a head: their sizes times the decays from each to the chunk's end; these decays; the sizes;
// the logs (base 2) of the decays from the chunk's start up to and with each; these decays; and, in float32, what it leaves
// of the logs, or in half precision the logs less those of the sizes. A decay is zero across a reset. Steps past the length
// have a size of zero.
struct ChunkSteps {
  float driving[kChunk], leaving[kChunk], sizes[kChunk], logs[kChunk], entering[kChunk], rests[kChunk];
};

constexpr int kStepFields = 6;

// The same for all, (row, head of the launch, chunk, field, step). `firsts` (row, time) has the last step of the chunk, up to this
// one, that is reset; or -1.
struct Steps {
  const float* fields;
  const int* firsts;
};

// The states of a (row, chunk, head of the launch): (head_dim, state), filled up to whole tiles, in blocks.
constexpr Index kStateNumbers = Index(kHeadTiles) * kHeadTile * kPaddedStates;

INLINE int slots_of_group(const Sizes& sizes) { return sizes.subsets * sizes.heads_per_subset; }

INLINE int slots_of(const Sizes& sizes) { return sizes.groups * slots_of_group(sizes); }

INLINE Index steps_of(const Sizes& sizes, int row, int head, int chunk) {
  const int group = head / sizes.heads_per_group;
  const int slot = group * slots_of_group(sizes) + head - group * sizes.heads_per_group - sizes.first_head;
  return ((Index(row) * slots_of(sizes) + slot) * sizes.chunks + chunk) * (kStepFields * kChunk);
}

// The heads of one subset of one group, for a launch in which all are numbered without gaps.
struct Heads {
  int group, subset, first, count;  // `first` of all heads

  INLINE Heads(const Sizes& sizes, int group, int subset) : group(group), subset(subset) {
    const int in_group = sizes.first_head + subset * sizes.heads_per_subset;
    first = group * sizes.heads_per_group + in_group;
    count = least(sizes.heads_per_subset, sizes.heads_per_group - in_group);
  }

  // The number of the subset's head, among those of the launch.
  INLINE int slot(const Sizes& sizes, int head) const {
    return (group * sizes.subsets + subset) * sizes.heads_per_subset + head;
  }
};
