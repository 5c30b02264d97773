// Step sizes, made of what is given for them.
#pragma once

#include "numbers.cuh"

// What a step size is clamped to.
struct Limits {
  float low, high;
};

template <bool kThroughSoftplus>
INLINE float step_size(float raw, Limits limits) {
  const float size = kThroughSoftplus ? softplus(raw) : raw;
  return size < limits.low ? limits.low : size > limits.high ? limits.high : size;
}
