#include "predictor_link.h"

namespace {

// Little-endian, row after row; this machine is taken to be little-endian.
void pack(const std::vector<float>& values, trail::v1::Vectors& into) {
  into.set_dtype(trail::v1::DTYPE_FLOAT32);
  into.set_rows(into.rows() + 1);
  into.set_dim(values.size());
  into.mutable_data()->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

}  // namespace

PredictorLink::PredictorLink(const std::string& address, std::mutex& mutex, Epochs& epochs, const json& engine,
                             Living& living)
    : Link(mutex, epochs),
      stub_(trail::v1::PredictorService::NewStub(channel_to(address))),
      engine_(engine),
      living_(living) {}

void PredictorLink::stepped(const json& said) {
  if (!collecting_) return;
  for (const json& row : said.at("rows")) {
    rows_[living_.get(row.at("request_id"))->handle] = Row{row.at("age"), row.at("values")};
  }
  changed_.notify_all();
}

void PredictorLink::finished(const Requested& request, const json& said) {
  rows_.erase(request->handle);
  Link::finished(request, said);
}

std::unique_ptr<PredictorLink::Stream> PredictorLink::start(grpc::ClientContext& context) {
  return stub_->StreamPredict(&context);
}

trail::v1::StreamPredictRequest PredictorLink::opening() {
  trail::v1::StreamPredictRequest request;
  auto& open = *request.mutable_open();
  open.set_engine_id(engine_.at("engine_id"));
  *open.mutable_epoch() = epoch_;
  open.set_dtype(trail::v1::DTYPE_FLOAT32);
  open.set_dim(engine_.at("dim"));
  for (auto& declared : living_.declarations()) *open.add_requests() = declared;
  return request;
}

std::optional<trail::v1::StreamPredictRequest> PredictorLink::take() {
  bool has_rows = std::any_of(rows_.begin(), rows_.end(),
                              [&](const auto& each) { return !is_declared_later(each.first); });
  if (!has_rows && declared_.empty() && ended_.empty()) return std::nullopt;
  trail::v1::StreamPredictRequest request;
  auto& step = *request.mutable_step();
  *step.mutable_epoch() = epoch_;
  step.set_step(++step_);
  for (const Requested& each : declared_) *step.add_declared() = each->declaration(0);
  for (const auto& end : ended_) step.add_finished(end.first->handle);
  for (auto row = rows_.begin(); row != rows_.end();) {
    const auto& [handle, content] = *row;
    if (is_declared_later(handle)) {
      ++row;
      continue;
    }
    if (content.age == 0) {
      step.mutable_prompts()->add_handles(handle);
      pack(content.values, *step.mutable_prompts()->mutable_last());
    } else {
      step.mutable_decodes()->add_handles(handle);
      step.mutable_decodes()->add_ages(content.age);
      pack(content.values, *step.mutable_decodes()->mutable_last());
    }
    row = rows_.erase(row);
  }
  taken();
  unanswered_ = true;
  return request;
}

// Predictions reach the scheduler by themselves; whoever wants them here finds them in the answer.
void PredictorLink::received(const trail::v1::StreamPredictResponse&) { unanswered_ = false; }

void PredictorLink::clear() {
  Link::clear();
  rows_.clear();
  unanswered_ = false;
}
