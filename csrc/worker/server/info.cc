// SPDX-License-Identifier: Apache-2.0
#include "worker/server/info.h"

#include <chrono>
#include <string_view>
#include <utility>

#include "worker/base/percent.h"
#include "worker/execution/pipeline.h"

namespace lmshm {

namespace {

// Appends words.
class Words {
 public:
  void Add(std::string_view name, std::string_view value) {
    text_.append(" ").append(name).append("=");
    AppendPercent(value, &text_);
  }
  void Add(std::string_view name, uint64_t value) { Add(name, std::to_string(value)); }
  std::string Take() { return std::move(text_); }

 private:
  std::string text_;
};

void AddStorage(const Service& service, const KeyStore& store, Words* words) {
  const StorageFacts& facts = store.facts();
  words->Add("io", IoModeName(service.io));
  words->Add("sync", DurabilityName(service.sync));
  if (facts.direct()) {
    words->Add("direct",
               std::to_string(facts.direct_offset) + "/" + std::to_string(facts.direct_memory));
  } else {
    words->Add("direct", "no");
    words->Add("direct_reason", facts.direct_reason);
  }
  words->Add("fs", facts.file_system);
  words->Add("directories", service.directories->size());
  words->Add("kept_open", store.share().kept_files.size());
  words->Add("gets_kept", store.share().kept_files.found());
}

void AddEngine(const Engine& engine, Words* words) {
  const Engine::Counts counts = engine.counts();
  words->Add("engine", "threads");
  words->Add("threads", counts.threads);
  words->Add("nice", static_cast<uint64_t>(counts.nice));
  words->Add("window", kWindow);
  words->Add("max_bytes_in_flight", counts.max_bytes);
  words->Add("queued", counts.queued);
  words->Add("running", counts.running);
  words->Add("bytes_in_flight", counts.bytes);
}

void AddCounters(const IoCounters& counters, Words* words) {
  words->Add("puts_direct", counters.puts_direct);
  words->Add("puts_cached", counters.puts_cached);
  words->Add("gets_direct", counters.gets_direct);
  words->Add("gets_cached", counters.gets_cached);
  words->Add("put_bytes", counters.put_bytes);
  words->Add("got_bytes", counters.got_bytes);
  words->Add("fallbacks", counters.fallbacks());
  const std::string reason = counters.fallback_reason();
  if (!reason.empty()) words->Add("fallback_reason", reason);
}

void AddFigures(const Figures& figures, Words* words) {
  words->Add("clients", figures.clients);
  words->Add("errors", figures.errors);
  words->Add("cancelled", figures.cancelled);
  const auto up = std::chrono::steady_clock::now() - figures.started;
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(up).count();
  words->Add("uptime_ms", static_cast<uint64_t>(ms));
}

}  // namespace

std::string DescribeService(const Service& service, const KeyStore& store) {
  Words words;
  AddStorage(service, store, &words);
  if (service.engine != nullptr) AddEngine(*service.engine, &words);
  AddCounters(store.share().counters, &words);
  if (service.figures != nullptr) AddFigures(*service.figures, &words);
  return words.Take();
}

}  // namespace lmshm
