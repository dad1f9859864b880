// SPDX-License-Identifier: Apache-2.0
#include "worker/server/info.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include "worker/base/percent.h"
#include "worker/execution/pipeline.h"
#include "worker/protocol/request_v2.h"

namespace lmshm {

namespace {

// Of what each directory holds, in one answer.
constexpr size_t kMostDirectoryUses = 32;
constexpr size_t kMostUseBytes = 16384;

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

void AddObjects(const Metrics& metrics, Words* words) {
  words->Add("puts_direct", metrics.puts_direct);
  words->Add("puts_cached", metrics.puts_cached);
  words->Add("gets_direct", metrics.gets_direct);
  words->Add("gets_cached", metrics.gets_cached);
  words->Add("put_bytes", metrics.put_bytes);
  words->Add("get_bytes", metrics.get_bytes);
  words->Add("write_bytes", metrics.write_bytes);
  words->Add("read_bytes", metrics.read_bytes);
  words->Add("hits", metrics.hits);
  words->Add("misses", metrics.misses);
  words->Add("fallbacks", metrics.fallbacks());
  const std::string reason = metrics.fallback_reason();
  if (!reason.empty()) words->Add("fallback_reason", reason);
}

// As a histogram of OpenMetrics: cumulative.
void AddVerb(std::string name, const VerbMetrics& verb, Words* words) {
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
  });
  uint64_t requests = 0;
  std::string histogram;
  for (size_t i = 0; i < kLatencyBuckets; i++) {
    requests += verb.latency[i];
    const bool last = i == kLatencyBoundsUs.size();
    histogram += (i == 0 ? "" : ",") + (last ? "inf" : std::to_string(kLatencyBoundsUs[i])) + ":" +
                 std::to_string(requests);
  }
  words->Add(name + "_requests", requests);
  words->Add(name + "_errors", verb.errors);
  words->Add(name + "_latency_us", histogram);
  words->Add(name + "_latency_us_sum", verb.latency_us);
}

void AddVerbs(const Metrics& metrics, Words* words) {
  static_assert(static_cast<size_t>(Verb::kQuit) < kWriteMetrics);
  for (size_t i = 0; i <= static_cast<size_t>(Verb::kQuit); i++) {
    AddVerb(std::string(VerbName(static_cast<Verb>(i))), metrics.Of(i), words);
  }
  AddVerb("WRITE", metrics.Of(kWriteMetrics), words);
  AddVerb("READ", metrics.Of(kReadMetrics), words);
}

// <objects>:<bytes>:<path>,... with the paths percent-coded, the comma too.
std::string DescribeUse(const Quota& quota) {
  std::string list;
  for (const Quota::DirectoryUse& use : quota.Largest(kMostDirectoryUses)) {
    std::string one = std::to_string(use.objects) + ":" + std::to_string(use.bytes) + ":";
    for (const char c : use.path) {
      if (c == ',') {
        one += "%2C";
      } else {
        AppendPercent(std::string_view(&c, 1), &one);
      }
    }
    if (list.size() + one.size() > kMostUseBytes) break;
    list += (list.empty() ? "" : ",") + one;
  }
  return list;
}

void AddQuota(const Quota& quota, const KeyStore& store, Words* words) {
  const Quota::Stats stats = quota.stats();
  words->Add("max_bytes", quota.max_bytes() == UINT64_MAX ? 0 : quota.max_bytes());
  words->Add("used_bytes", stats.used_bytes);
  words->Add("objects", stats.objects);
  words->Add("counted", stats.counted ? 1 : 0);
  words->Add("counted_directories", stats.directories);
  words->Add("index_bytes", stats.memory_bytes);
  words->Add("evictions", stats.evictions);
  words->Add("evicted_bytes", stats.evicted_bytes);
  words->Add("stale_temporaries", stats.stale_temporaries);
  words->Add("stale_keys", stats.stale_keys);
  words->Add("dir_used_bytes", store.quota()->bytes());
  words->Add("dir_objects", store.quota()->objects());
  words->Add("directory_use", DescribeUse(quota));
}

void AddClients(const Metrics& metrics, Words* words) {
  words->Add("clients", metrics.clients);
  words->Add("errors", metrics.errors);
  words->Add("cancelled", metrics.cancelled);
  const auto up = std::chrono::steady_clock::now() - metrics.started;
  const auto ms = std::chrono::floor<std::chrono::milliseconds>(up).count();
  words->Add("uptime_ms", static_cast<uint64_t>(ms));
}

}  // namespace

std::string DescribeService(const Service& service, const KeyStore& store) {
  Words words;
  AddStorage(service, store, &words);
  if (service.engine != nullptr) AddEngine(*service.engine, &words);
  const Metrics& metrics = store.share().metrics;
  AddObjects(metrics, &words);
  AddClients(metrics, &words);
  if (service.quota != nullptr) AddQuota(*service.quota, store, &words);
  AddVerbs(metrics, &words);
  return words.Take();
}

}  // namespace lmshm
