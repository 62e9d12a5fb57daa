#include "plan.h"

void PlanKeeper::follow(const trail::v1::EnginePlan& plan) {
  if (plan.ranks_size() != plan.handles_size() || plan.predicted_at_ages_size() != plan.handles_size()) return;
  plan_ = plan;
  expires_ = Clock::now() + std::chrono::milliseconds(plan.ttl_ms());
}

json PlanKeeper::decide() {
  json order = json::array(), preempt = json::array();
  if (Clock::now() < expires_) {
    for (uint64_t handle : plan_.handles()) {
      if (auto request = living_.with_handle(handle)) order.push_back(request->id());
    }
    for (const auto& preemption : plan_.preemptions()) {
      if (holds(preemption)) preempt.push_back(living_.with_handle(preemption.victim())->id());
    }
    // Each is asked for once: whoever comes back under the same plan stays.
    plan_.clear_preemptions();
  }
  return {{"order", order}, {"preempt", preempt}};
}

bool PlanKeeper::holds(const trail::v1::Preemption& preemption) const {
  auto victim = living_.with_handle(preemption.victim());
  auto beneficiary = living_.with_handle(preemption.beneficiary());
  bool waits = beneficiary && !living_.runs(beneficiary->handle);
  return victim && living_.runs(victim->handle) && victim->age < preemption.only_if_age_below() && waits;
}
