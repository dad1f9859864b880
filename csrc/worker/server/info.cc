// SPDX-License-Identifier: Apache-2.0
#include "worker/server/info.h"

#include <algorithm>
#include <chrono>
#include <string_view>

#include "worker/base/percent.h"
#include "worker/base/words.h"
#include "worker/execution/pipeline.h"
#include "worker/protocol/request_v2.h"

namespace lmshm {

namespace {

// Of what each directory holds, in one answer.
constexpr size_t kMostDirectoryUses = 32;
constexpr size_t kMostUseBytes = 16384;

void AddStore(const Service& service, const ObjectStore& store, Words* words) {
  const StoreFacts& facts = store.facts();
  words->Add("engine", facts.engine);
  words->Add("attributes", facts.attributes ? 1 : 0);
  words->Add("io_modes", facts.io_modes ? 1 : 0);
  words->Add("durability", facts.durability ? 1 : 0);
  if (facts.max_object_bytes != UINT64_MAX) {
    words->Add("max_object_bytes", facts.max_object_bytes);
  }
  if (facts.io_modes) words->Add("io", IoModeName(service.io));
  if (facts.durability) words->Add("sync", DurabilityName(service.sync));
  words->Append(store.Describe());
  words->Append(service.stores->Describe());
}

void AddEngine(const Engine& engine, Words* words) {
  const Engine::Counts counts = engine.counts();
  words->Add("threads", counts.threads);
  words->Add("nice", static_cast<uint64_t>(counts.nice));
  words->Add("window", kWindow);
  words->Add("max_bytes_in_flight", counts.max_bytes);
  words->Add("queued", counts.queued);
  words->Add("running", counts.running);
  words->Add("bytes_in_flight", counts.bytes);
}

void AddObjects(const Metrics& metrics, Words* words) {
  words->Add("puts", metrics.puts);
  words->Add("gets", metrics.gets);
  words->Add("put_bytes", metrics.put_bytes);
  words->Add("get_bytes", metrics.get_bytes);
  words->Add("write_bytes", metrics.write_bytes);
  words->Add("read_bytes", metrics.read_bytes);
  words->Add("hits", metrics.hits);
  words->Add("misses", metrics.misses);
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

void AddQuota(const Quota& quota, Words* words) {
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

std::string DescribeService(const Service& service, const ObjectStore& store) {
  Words words;
  AddStore(service, store, &words);
  if (service.engine != nullptr) AddEngine(*service.engine, &words);
  const Metrics& metrics = service.stores->share().metrics;
  AddObjects(metrics, &words);
  AddClients(metrics, &words);
  if (service.quota != nullptr) AddQuota(*service.quota, &words);
  AddVerbs(metrics, &words);
  return words.Take();
}

}  // namespace lmshm
