#include "scheduler_link.h"

#include <cctype>

namespace {

trail::v1::Outcome outcome(uint64_t handle, const json& said) {
  std::string reason = said.at("reason");
  for (char& letter : reason) letter = std::toupper(static_cast<unsigned char>(letter));
  trail::v1::FinishReason named = trail::v1::FINISH_REASON_UNSPECIFIED;
  trail::v1::FinishReason_Parse("FINISH_REASON_" + reason, &named);
  trail::v1::Outcome outcome;
  outcome.set_handle(handle);
  outcome.set_reason(named);
  outcome.set_output_tokens(said.at("output_tokens"));
  outcome.set_latency_s(said.at("latency_s"));
  outcome.set_time_to_first_token_s(said.at("time_to_first_token_s"));
  outcome.set_preemptions(said.at("preemptions"));
  outcome.set_recomputed_tokens(said.at("recomputed_tokens"));
  return outcome;
}

}  // namespace

SchedulerLink::SchedulerLink(const std::string& address, std::mutex& mutex, Epochs& epochs, const json& engine,
                             Living& living, PlanKeeper& plans)
    : Link(mutex, epochs),
      stub_(trail::v1::SchedulerService::NewStub(channel_to(address))),
      engine_(engine),
      living_(living),
      plans_(plans),
      free_kv_blocks_(engine.at("kv_blocks")) {}

void SchedulerLink::stepped(const json& said) {
  free_kv_blocks_ = said.at("free_kv_blocks");
  if (!collecting_) return;
  batch_.emplace();
  for (const json& each : said.at("running")) {
    batch_->add_handles(living_.get(each.at("request_id"))->handle);
    batch_->add_ages(each.at("age"));
    batch_->add_computed_tokens(each.at("computed_tokens"));
  }
  for (const json& id : said.at("preempted")) preempted_.insert(living_.get(id)->handle);
  step_duration_s_ = said.at("duration_s");
  ++engine_steps_;
  changed_.notify_all();
}

std::unique_ptr<SchedulerLink::Stream> SchedulerLink::start(grpc::ClientContext& context) {
  return stub_->Coordinate(&context);
}

trail::v1::CoordinateRequest SchedulerLink::opening() {
  trail::v1::CoordinateRequest request;
  auto& open = *request.mutable_open();
  open.set_engine_id(engine_.at("engine_id"));
  *open.mutable_epoch() = epoch_;
  auto& capacity = *open.mutable_capacity();
  capacity.set_max_running_requests(engine_.at("max_running_requests"));
  capacity.set_kv_blocks(engine_.at("kv_blocks"));
  capacity.set_kv_block_tokens(engine_.at("kv_block_tokens"));
  capacity.set_step_token_budget(engine_.at("step_token_budget"));
  for (auto& declared : living_.declarations()) *open.add_requests() = declared;
  return request;
}

std::optional<trail::v1::CoordinateRequest> SchedulerLink::take() {
  if (!batch_ && declared_.empty() && ended_.empty()) return std::nullopt;
  trail::v1::CoordinateRequest request;
  auto& delta = *request.mutable_delta();
  *delta.mutable_epoch() = epoch_;
  delta.set_step(++step_);
  for (const Requested& each : declared_) *delta.add_arrived() = each->declaration(0);
  if (batch_) {
    *delta.mutable_running() = *batch_;
    delta.set_step_duration_s(step_duration_s_);
  }
  for (uint64_t handle : preempted_) delta.add_preempted(handle);
  for (const auto& [ended, said] : ended_) *delta.add_finished() = outcome(ended->handle, said);
  delta.set_free_kv_blocks(free_kv_blocks_);
  delta.set_engine_steps(engine_steps_);
  taken();
  forget_batch();
  return request;
}

void SchedulerLink::received(const trail::v1::CoordinateResponse& answer) {
  const auto& epoch = answer.plan().epoch();
  bool is_ours = epoch.incarnation() == epoch_.incarnation() && epoch.counter() == epoch_.counter();
  if (answer.has_plan() && is_ours) plans_.follow(answer.plan());
}

void SchedulerLink::clear() {
  Link::clear();
  forget_batch();
}

void SchedulerLink::forget_batch() {
  batch_.reset();
  preempted_.clear();
  engine_steps_ = 0;
}
