// The stream to the predictor: declarations, rows and ends out. One message at a time: until it is answered, the newest
// row of each request wins here, and nothing queues up.
#pragma once

#include "link.h"
#include "trail/v1/predictor.grpc.pb.h"

class PredictorLink : public Link<trail::v1::StreamPredictRequest, trail::v1::StreamPredictResponse> {
 public:
  PredictorLink(const std::string& address, std::mutex& mutex, Epochs& epochs, const json& engine, Living& living);

  void stepped(const json& said);
  void finished(const Requested& request, const json& said) override;

 protected:
  std::unique_ptr<Stream> start(grpc::ClientContext& context) override;
  trail::v1::StreamPredictRequest opening() override;
  std::optional<trail::v1::StreamPredictRequest> take() override;
  void received(const trail::v1::StreamPredictResponse& answer) override;
  void lost() override {}
  bool may_send() const override { return !unanswered_; }
  void clear() override;

 private:
  struct Row {
    uint32_t age;
    std::vector<float> values;
  };

  std::unique_ptr<trail::v1::PredictorService::Stub> stub_;
  const json& engine_;
  Living& living_;
  std::map<uint64_t, Row> rows_;
  bool unanswered_ = false;
};
