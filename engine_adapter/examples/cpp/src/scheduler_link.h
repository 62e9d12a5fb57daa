// The stream to the scheduler: what changed in the engine out, plans in.
#pragma once

#include "link.h"
#include "plan.h"
#include "trail/v1/scheduler.grpc.pb.h"

class SchedulerLink : public Link<trail::v1::CoordinateRequest, trail::v1::CoordinateResponse> {
 public:
  SchedulerLink(const std::string& address, std::mutex& mutex, Epochs& epochs, const json& engine, Living& living,
                PlanKeeper& plans);

  // The newest batch wins; preemptions and the count of steps add up.
  void stepped(const json& said);

 protected:
  std::unique_ptr<Stream> start(grpc::ClientContext& context) override;
  trail::v1::CoordinateRequest opening() override;
  std::optional<trail::v1::CoordinateRequest> take() override;
  void received(const trail::v1::CoordinateResponse& answer) override;
  void lost() override { plans_.withdraw(); }  // A plan dies with its stream.
  void clear() override;

 private:
  void forget_batch();

  std::unique_ptr<trail::v1::SchedulerService::Stub> stub_;
  const json& engine_;
  Living& living_;
  PlanKeeper& plans_;
  std::optional<trail::v1::RunningRequests> batch_;
  double step_duration_s_ = 0;
  std::set<uint64_t> preempted_;
  uint32_t engine_steps_ = 0;
  uint32_t free_kv_blocks_;
};
