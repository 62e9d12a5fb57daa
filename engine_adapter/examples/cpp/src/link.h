// The life of one stream: open, exchange, break, wait, open again.
//
// A link has two threads of its own, one that reads and one that writes. The engine's thread only puts things into its
// outbox: it holds the adapter's one mutex for that, which nobody holds while they wait for the network.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "engine.h"
#include "epochs.h"

using Lock = std::unique_lock<std::mutex>;

// The channel must not wait longer before it connects again than a link does before it tries again.
inline std::shared_ptr<grpc::Channel> channel_to(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

template <class Question, class Answer>
class Link {
 public:
  using Stream = grpc::ClientReaderWriter<Question, Answer>;
  using Milliseconds = std::chrono::milliseconds;

  Link(std::mutex& mutex, Epochs& epochs) : mutex_(mutex), epochs_(epochs) {}
  virtual ~Link() = default;

  // Keeps the stream open; never returns.
  void run() {
    auto wait = kFirstWait;
    std::mt19937 jitter{std::random_device{}()};
    for (;;) {
      auto started = std::chrono::steady_clock::now();
      Milliseconds asked = session();
      if (std::chrono::steady_clock::now() - started > kSettled) wait = kFirstWait;
      Milliseconds jittered{std::uniform_int_distribution<int64_t>(wait.count() / 2, wait.count())(jitter)};
      std::this_thread::sleep_for(std::max(jittered, asked));
      wait = std::min(2 * wait, kLongestWait);
    }
  }

  // The three below are called with the mutex held.
  void arrived(const Requested& request) {
    if (!collecting_) return;
    bool is_ending = std::any_of(ended_.begin(), ended_.end(),
                                 [&](const auto& end) { return end.first->id() == request->id(); });
    (is_ending ? reused_ : declared_).push_back(request);
    changed_.notify_all();
  }

  virtual void finished(const Requested& request, const json& said) {
    if (!collecting_) return;
    if (!erase(declared_, request) && !erase(reused_, request)) ended_.emplace_back(request, said);
    changed_.notify_all();
  }

 protected:
  virtual std::unique_ptr<Stream> start(grpc::ClientContext& context) = 0;
  virtual Question opening() = 0;
  // Everything that waits as one message; nothing where nothing does.
  virtual std::optional<Question> take() = 0;
  virtual void received(const Answer& answer) = 0;
  virtual void lost() = 0;
  // Whether the service can be told more now; where not, what comes meanwhile is merged.
  virtual bool may_send() const { return true; }

  virtual void clear() {
    declared_.clear();
    reused_.clear();
    ended_.clear();
  }

  // All but the reused are in a message.
  void taken() {
    declared_ = std::exchange(reused_, {});
    ended_.clear();
  }

  bool is_declared_later(uint64_t handle) const {
    return std::any_of(reused_.begin(), reused_.end(), [&](const Requested& each) { return each->handle == handle; });
  }

  std::mutex& mutex_;
  std::condition_variable changed_;
  trail::v1::Epoch epoch_;
  uint64_t step_ = 0;
  bool collecting_ = false;
  std::vector<Requested> declared_;
  std::vector<std::pair<Requested, json>> ended_;

 private:
  static constexpr Milliseconds kFirstWait{100}, kLongestWait{2000};
  // A stream that lived this long was a good one: the next wait starts from the shortest again.
  static constexpr Milliseconds kSettled{1000};

  // One stream from its opening to its end; how long the service asks to be left alone.
  Milliseconds session() {
    grpc::ClientContext context;
    std::unique_ptr<Stream> stream = start(context);
    Question first;
    {
      // The opening names all who live now; what happens from here on is collected for this stream.
      Lock lock(mutex_);
      epoch_ = epochs_.next();
      clear();
      collecting_ = true;
      first = opening();
    }
    Answer answer;
    if (stream->Write(first) && stream->Read(&answer)) {
      std::thread writer([&] { write(*stream); });
      while (stream->Read(&answer)) {
        Lock lock(mutex_);
        received(answer);
        changed_.notify_all();
      }
      close();
      context.TryCancel();
      writer.join();
    }
    close();
    grpc::Status status = stream->Finish();
    std::cerr << "stream down: " << status.error_code() << ": " << status.error_message() << std::endl;
    const auto& trailing = context.GetServerTrailingMetadata();
    auto pushback = trailing.find("grpc-retry-pushback-ms");
    if (pushback == trailing.end()) return Milliseconds{0};
    return Milliseconds{std::strtoll(std::string(pushback->second.data(), pushback->second.size()).c_str(), nullptr, 10)};
  }

  void write(Stream& stream) {
    Lock lock(mutex_);
    while (collecting_) {
      std::optional<Question> message = may_send() ? take() : std::nullopt;
      if (!message) {
        changed_.wait(lock);
        continue;
      }
      lock.unlock();
      bool written = stream.Write(*message);
      lock.lock();
      if (!written) return;
    }
  }

  void close() {
    Lock lock(mutex_);
    if (!std::exchange(collecting_, false)) return;
    clear();
    lost();
    changed_.notify_all();
  }

  static bool erase(std::vector<Requested>& room, const Requested& request) {
    auto found = std::find(room.begin(), room.end(), request);
    if (found == room.end()) return false;
    room.erase(found);
    return true;
  }

  Epochs& epochs_;
  // Arrivals whose id is still among the ended: they wait for the message after that.
  std::vector<Requested> reused_;
};
