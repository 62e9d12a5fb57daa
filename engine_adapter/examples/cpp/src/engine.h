// What the engine says, and who lives in it. In an adapter of your own this is the engine itself.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "trail/v1/engine.pb.h"

using nlohmann::json;

struct Request {
  uint64_t handle;
  json said;
  uint32_t age = 0;

  std::string id() const { return said.at("request_id"); }
  // As it arrived, or, when a stream opens, at the age it has now.
  trail::v1::RequestDeclaration declaration(uint32_t age_tokens) const;
};

using Requested = std::shared_ptr<Request>;

class Living {
 public:
  Requested arrived(const json& said);
  void stepped(const json& said);
  Requested finished(const std::string& id);

  const Requested& get(const std::string& id) const { return by_id_.at(id); }
  // Null where nobody alive has the handle.
  Requested with_handle(uint64_t handle) const;
  bool runs(uint64_t handle) const { return running_.count(handle) > 0; }
  std::vector<trail::v1::RequestDeclaration> declarations() const;

 private:
  std::map<std::string, Requested> by_id_;
  std::map<uint64_t, Requested> by_handle_;
  // Handles of the batch of the newest step.
  std::set<uint64_t> running_;
  uint64_t newest_ = 0;
};
