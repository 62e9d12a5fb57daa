// The newest plan, and what the engine should do by it now.
#pragma once

#include <chrono>

#include "engine.h"
#include "trail/v1/scheduler.pb.h"

class PlanKeeper {
 public:
  explicit PlanKeeper(const Living& living) : living_(living) {}

  // A plan's life starts when it comes. One that contradicts itself is not followed.
  void follow(const trail::v1::EnginePlan& plan);
  void withdraw() { expires_ = {}; }

  // For the engine's next step: {"order": ids, best first, none: the engine's own; "preempt": ids}.
  // Reads memory only: an engine asks before every step.
  json decide();

 private:
  using Clock = std::chrono::steady_clock;

  // The victim runs and is young enough, and somebody waits for its place.
  bool holds(const trail::v1::Preemption& preemption) const;

  const Living& living_;
  trail::v1::EnginePlan plan_;
  Clock::time_point expires_;
};
