// Whether this language reads and writes the byte-exact vectors of proto/vectors: one line for each that it does not.
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "trail/v1/predictor.pb.h"
#include "trail/v1/scheduler.pb.h"
#include "trail/v1/state.pb.h"

namespace protobuf = google::protobuf;
using nlohmann::json;

namespace {

std::string hex(const std::string& bytes) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  for (unsigned char byte : bytes) (text += digits[byte >> 4]) += digits[byte & 15];
  return text;
}

std::string bytes(const std::string& hex) {
  std::string found;
  for (size_t at = 0; at < hex.size(); at += 2) found += static_cast<char>(std::stoi(hex.substr(at, 2), nullptr, 16));
  return found;
}

// What is wrong with one vector; empty: nothing.
std::string fault(const json& vector) {
  const std::string name = vector.at("message"), wanted = vector.at("hex");
  const auto* type = protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(name);
  if (!type) return "no such message";
  const auto* prototype = protobuf::MessageFactory::generated_factory()->GetPrototype(type);
  std::unique_ptr<protobuf::Message> written(prototype->New()), read(prototype->New());
  const auto parsed = protobuf::util::JsonStringToMessage(vector.at("json").dump(), written.get());
  if (!parsed.ok()) return "its JSON form cannot be read: " + std::string(parsed.message());
  if (hex(written->SerializeAsString()) != wanted) return "written as " + hex(written->SerializeAsString());
  if (!read->ParseFromString(bytes(wanted))) return "its bytes cannot be read";
  std::string as_read, as_written;
  (void)protobuf::util::MessageToJsonString(*read, &as_read);
  (void)protobuf::util::MessageToJsonString(*written, &as_written);
  return as_read == as_written ? "" : "read as " + as_read;
}

}  // namespace

int main(int argc, char** argv) {
  // The messages are linked in because they are named here.
  trail::v1::StreamPredictRequest::descriptor();
  trail::v1::CoordinateRequest::descriptor();
  trail::v1::StoredPosterior::descriptor();
  int checked = 0, wrong = 0;
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i]);
    for (const json& vector : json::parse(file)) {
      ++checked;
      if (const std::string found = fault(vector); !found.empty()) {
        ++wrong;
        std::cout << vector.at("name").get<std::string>() << ": " << found << std::endl;
      }
    }
  }
  std::cout << checked - wrong << " of " << checked << " vectors" << std::endl;
  return wrong || !checked;
}
