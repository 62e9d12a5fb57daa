// One random incarnation for the life of this process, a counter that rises with each stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>

#include "trail/v1/engine.pb.h"

class Epochs {
 public:
  trail::v1::Epoch next() {
    trail::v1::Epoch epoch;
    epoch.set_incarnation(incarnation_);
    epoch.set_counter(++counter_);
    return epoch;
  }

 private:
  static uint64_t draw() {
    std::random_device device;
    return std::max<uint64_t>(uint64_t{device()} << 32 | device(), 1);
  }

  uint64_t incarnation_ = draw();
  uint64_t counter_ = 0;
};
