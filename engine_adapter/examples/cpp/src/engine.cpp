#include "engine.h"

trail::v1::RequestDeclaration Request::declaration(uint32_t age_tokens) const {
  trail::v1::RequestDeclaration declared;
  declared.set_handle(handle);
  declared.set_request_id(id());
  for (uint32_t token : said.at("prompt_token_ids")) declared.add_prompt_token_ids(token);
  declared.set_prompt_tokens(declared.prompt_token_ids_size());
  declared.set_age_tokens(age_tokens);
  declared.set_arrival_time_s(said.at("arrival_time_s"));
  declared.set_priority(said.at("priority"));
  declared.set_tenant(said.at("tenant"));
  declared.set_max_tokens(said.at("max_tokens"));
  return declared;
}

Requested Living::arrived(const json& said) {
  auto request = std::make_shared<Request>(Request{++newest_, said});
  by_id_[request->id()] = by_handle_[request->handle] = request;
  return request;
}

void Living::stepped(const json& said) {
  running_.clear();
  for (const json& each : said.at("running")) {
    const Requested& request = get(each.at("request_id"));
    request->age = each.at("age");
    running_.insert(request->handle);
  }
}

Requested Living::finished(const std::string& id) {
  Requested request = get(id);
  by_id_.erase(id);
  by_handle_.erase(request->handle);
  running_.erase(request->handle);
  return request;
}

Requested Living::with_handle(uint64_t handle) const {
  auto found = by_handle_.find(handle);
  return found == by_handle_.end() ? nullptr : found->second;
}

std::vector<trail::v1::RequestDeclaration> Living::declarations() const {
  std::vector<trail::v1::RequestDeclaration> declared;
  for (const auto& [handle, request] : by_handle_) declared.push_back(request->declaration(request->age));
  return declared;
}
