// An adapter between an engine and the services of trail.v1. The engine speaks JSON lines, as docs/contract.md says.
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "plan.h"
#include "predictor_link.h"
#include "scheduler_link.h"

namespace {

std::string setting(const char* name, const char* usual) {
  const char* given = std::getenv(name);
  return given ? given : usual;
}

}  // namespace

int main() {
  std::string line;
  if (!std::getline(std::cin, line)) return 0;
  const json engine = json::parse(line);
  std::mutex mutex;
  Living living;
  PlanKeeper plans(living);
  Epochs epochs;
  PredictorLink predictor(setting("TRAIL_PREDICTOR", "127.0.0.1:50061"), mutex, epochs, engine, living);
  SchedulerLink scheduler(setting("TRAIL_SCHEDULER", "127.0.0.1:50062"), mutex, epochs, engine, living, plans);
  std::thread([&] { predictor.run(); }).detach();
  std::thread([&] { scheduler.run(); }).detach();
  while (std::getline(std::cin, line)) {
    const json said = json::parse(line);
    const std::string event = said.at("event");
    Lock lock(mutex);
    if (event == "schedule") {
      const json decision = plans.decide();
      lock.unlock();
      std::cout << decision << std::endl;
    } else if (event == "arrived") {
      Requested request = living.arrived(said);
      predictor.arrived(request);
      scheduler.arrived(request);
    } else if (event == "step") {
      living.stepped(said);
      predictor.stepped(said);
      scheduler.stepped(said);
    } else if (event == "finished") {
      Requested request = living.finished(said.at("request_id"));
      predictor.finished(request, said);
      scheduler.finished(request, said);
    }
  }
  // The streams end with the process; their threads may be waiting.
  std::_Exit(0);
}
