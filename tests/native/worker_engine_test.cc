// SPDX-License-Identifier: Apache-2.0
//
// The engine: whose turn it is, what it bounds, and that nothing is lost or done twice. Tasks here
// touch no file.
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "worker/execution/engine.h"
#include "worker_check.hh"

using lmshm::Engine;
using lmshm::EngineLimits;
using lmshm::Parallel;
using lmshm::Priority;
using lmshm::Task;
using lmshm::TaskLot;

namespace {

using std::chrono::milliseconds;

class TestTask : public Task {
 public:
  TestTask(std::function<void()> run, Priority priority, uint64_t bytes, bool small)
      : Task(priority, small), run_(std::move(run)) {
    set_bytes(bytes);
  }
  // True once it is done: after `turns` of them.
  bool Run() {
    run_();
    if (--turns == 0) return true;
    set_begun();
    return false;
  }
  int turns = 1;

 private:
  std::function<void()> run_;
};

std::unique_ptr<Task> Large(std::function<void()> run, Priority priority = Priority::kNormal,
                            uint64_t bytes = 0) {
  return std::make_unique<TestTask>(std::move(run), priority, bytes, false);
}

std::unique_ptr<Task> Small(std::function<void()> run, Priority priority = Priority::kNormal,
                            uint64_t bytes = 0) {
  return std::make_unique<TestTask>(std::move(run), priority, bytes, true);
}

// That takes several turns.
std::unique_ptr<Task> Long(int turns, std::function<void()> run,
                           Priority priority = Priority::kNormal) {
  auto task = std::make_unique<TestTask>(std::move(run), priority, 0, false);
  task->turns = turns;
  return task;
}

class TestClient : public Engine::Client {
 public:
  explicit TestClient(Engine* engine) : engine_(engine) {}
  ~TestClient() override { engine_->Leave(this); }

  void Submit(std::unique_ptr<Task> task) {
    TaskLot lot;
    lot.push_back(std::move(task));
    engine_->Submit(this, &lot);
  }

  void RunLot(TaskLot* lot) override {
    lots++;
    size_t done = 0;
    while (!lot->empty() && done++ < at_once) {
      if (!static_cast<TestTask*>(lot->front())->Run()) return;
      lot->pop_front();
    }
  }
  bool Held() const override { return held; }

  std::atomic<size_t> lots{0};
  std::atomic<size_t> at_once{1000};
  std::atomic<bool> held{false};

 private:
  Engine* const engine_;
};

// Opened once, from any thread.
class Gate {
 public:
  void Open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  // False if it is not opened for a long time.
  bool Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

bool Eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!holds()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

EngineLimits Threads(size_t threads, uint64_t bytes = 1 << 30) {
  EngineLimits limits;
  limits.threads = threads;
  limits.bytes = bytes;
  return limits;
}

// What was run, in order.
class Journal {
 public:
  std::function<void()> Note(const std::string& name) {
    return [this, name] {
      const std::lock_guard<std::mutex> lock(mutex_);
      names_ += name;
    };
  }
  std::string names() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return names_;
  }

 private:
  mutable std::mutex mutex_;
  std::string names_;
};

// Keeps all threads of `engine` busy until the gate opens.
void Occupy(TestClient* client, Gate* gate, size_t threads) {
  auto busy = std::make_shared<std::atomic<size_t>>(0);
  for (size_t i = 0; i < threads; i++) {
    client->Submit(Large([gate, busy] {
      (*busy)++;
      CHECK(gate->Wait());
    }));
  }
  CHECK(Eventually([&] { return *busy == threads; }));
}

// An engine with 100 bytes, of which a task holds 80 until the gate opens, and another waits for
// 60: a thread has seen that it does.
struct OutOfBytes {
  OutOfBytes() {
    CHECK_OK(engine.Start());
    std::atomic<bool> begun{false};
    large.Submit(Large([&] { begun = true, opened = gate.Wait(); }, Priority::kNormal, 80));
    CHECK(Eventually([&] { return begun.load(); }));
    std::unique_ptr<Task> task = Large([&] { done = true; }, Priority::kNormal, 60);
    waits = task.get();
    large.Submit(std::move(task));
    TaskLot lot;
    REQUIRE(Eventually([&] {
      if (lot.empty()) lot.push_back(Small([] {}, Priority::kNormal, 10));
      return !engine.RunNow(&small, &lot);
    }));
  }

  Engine engine{Threads(2, 100)};
  Gate gate;
  std::atomic<bool> opened{false};  // and nobody gave up waiting
  std::atomic<bool> done{false};    // what waits
  const Task* waits = nullptr;
  TestClient large{&engine};
  TestClient small{&engine};
};

}  // namespace

TEST(everything_is_run_exactly_once) {
  Engine engine(Threads(4));
  CHECK_OK(engine.Start());
  constexpr size_t kClients = 5;
  constexpr size_t kTasks = 2000;
  std::vector<std::atomic<int>> runs(kClients * kTasks);
  std::vector<std::unique_ptr<TestClient>> clients;
  for (size_t c = 0; c < kClients; c++) clients.push_back(std::make_unique<TestClient>(&engine));
  std::vector<std::thread> threads;
  for (size_t c = 0; c < kClients; c++) {
    threads.emplace_back([&, c] {
      TaskLot lot;
      for (size_t i = 0; i < kTasks; i++) {
        std::atomic<int>& count = runs[c * kTasks + i];
        const auto priority = static_cast<Priority>(i % 3);
        lot.push_back(i % 7 == 0 ? Large([&count] { count++; }, priority, i)
                                 : Small([&count] { count++; }, priority));
        if (lot.size() < i % 50) continue;
        if (i % 2 == 0 && engine.RunNow(clients[c].get(), &lot)) continue;
        engine.Submit(clients[c].get(), &lot);
        if (i % 3 == 0) engine.Help(clients[c].get());
      }
      engine.Submit(clients[c].get(), &lot);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(Eventually([&] {
    const Engine::Counts counts = engine.counts();
    return counts.queued == 0 && counts.running == 0;
  }));
  for (const std::atomic<int>& count : runs) CHECK_EQ(count.load(), 1);
  CHECK_EQ(engine.counts().bytes, 0u);
}

TEST(the_more_urgent_is_first) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient client(&engine);
  Occupy(&client, &gate, 1);
  client.Submit(Large(journal.Note("l"), Priority::kLow));
  client.Submit(Large(journal.Note("n"), Priority::kNormal));
  client.Submit(Large(journal.Note("h"), Priority::kHigh));
  client.Submit(Large(journal.Note("H"), Priority::kHigh));
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 4; }));
  CHECK_EQ(journal.names(), "hHnl");
}

TEST(the_less_urgent_does_not_starve) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient client(&engine);
  Occupy(&client, &gate, 1);
  for (int i = 0; i < 100; i++) client.Submit(Large(journal.Note("h"), Priority::kHigh));
  client.Submit(Large(journal.Note("n"), Priority::kNormal));
  client.Submit(Large(journal.Note("l"), Priority::kLow));
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 102; }));
  CHECK(journal.names().find('n') <= 10);
  CHECK(journal.names().find('l') <= 10);
}

TEST(clients_take_turns) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient busy(&engine), a(&engine), b(&engine), c(&engine);
  Occupy(&busy, &gate, 1);
  for (int i = 0; i < 4; i++) a.Submit(Large(journal.Note("a")));
  for (int i = 0; i < 2; i++) b.Submit(Large(journal.Note("b")));
  for (int i = 0; i < 3; i++) c.Submit(Large(journal.Note("c")));
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 9; }));
  CHECK_EQ(journal.names(), "abcabcaca");
}

// A task that takes many turns does not keep the thread: the others have theirs after each.
TEST(a_task_that_takes_turns_lets_others_have_theirs) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient busy(&engine), a(&engine), b(&engine), c(&engine);
  Occupy(&busy, &gate, 1);
  a.Submit(Long(5, journal.Note("a")));
  a.Submit(Long(2, journal.Note("A")));
  b.Submit(Large(journal.Note("b")));
  b.Submit(Large(journal.Note("B")));
  c.Submit(Long(2, journal.Note("c")));
  c.Submit(Small(journal.Note("s")));
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 12; }));
  // a's second one is not begun before its first is finished.
  CHECK_EQ(journal.names(), "absaBcacaaAA");
  CHECK_EQ(engine.counts().queued, 0u);
}

TEST(of_what_is_begun_little_waits) {
  EngineLimits limits = Threads(2);
  limits.begun = 3;
  Engine engine(limits);
  CHECK_OK(engine.Start());
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 6; i++) clients.push_back(std::make_unique<TestClient>(&engine));
  std::atomic<int> begun{0}, most{0}, ended{0};
  for (const auto& client : clients) {
    for (int i = 0; i < 20; i++) {
      auto left = std::make_shared<std::atomic<int>>(4);
      client->Submit(Long(4, [&, left] {
        if (*left == 4) {
          const int now = ++begun;
          for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
          }
        }
        if (--*left == 0) {
          begun--;
          ended++;
        }
      }));
    }
  }
  CHECK(Eventually([&] { return ended == 120; }));
  CHECK(most <= 3);
}

// It is neither dropped nor held when its client takes no answers, or goes.
TEST(what_is_begun_is_finished) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient busy(&engine), a(&engine);
  Gate first;
  std::atomic<int> turns{0};
  a.Submit(Long(3, [&] {
    journal.Note("a")();
    if (++turns == 1) {
      first.Open();
      CHECK(gate.Wait());
    }
  }));
  a.Submit(Large(journal.Note("x")));
  CHECK(first.Wait());
  a.held = true;
  TaskLot taken = engine.TakeUnbegun(&a);
  CHECK_EQ(taken.size(), 1u);
  gate.Open();
  CHECK(Eventually([&] { return turns == 3; }));
  CHECK(Eventually([&] { return engine.counts().running == 0; }));
  CHECK_EQ(journal.names(), "aaa");
  CHECK_EQ(engine.TakeUnbegun(&a).size(), 0u);
}

TEST(small_tasks_come_in_lots_and_large_ones_alone) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient client(&engine);
  Occupy(&client, &gate, 1);
  const size_t before = client.lots;
  TaskLot lot;
  for (int i = 0; i < 20; i++) lot.push_back(Small(journal.Note("s")));
  lot.push_back(Large(journal.Note("L")));
  lot.push_back(Large(journal.Note("L")));
  lot.push_back(Small(journal.Note("s")));
  engine.Submit(&client, &lot);
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 23; }));
  const size_t lots = client.lots - before;
  CHECK(lots >= 4 && lots <= 10);
  // Neither waits behind all of the others.
  CHECK(journal.names().find('L') < 15);
  CHECK(journal.names().rfind('L') < 21);
}

TEST(what_a_lot_leaves_goes_back_in_front) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient client(&engine);
  client.at_once = 1;
  Occupy(&client, &gate, 1);
  TaskLot lot;
  for (const char* name : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
    lot.push_back(Small(journal.Note(name)));
  }
  engine.Submit(&client, &lot);
  gate.Open();
  CHECK(Eventually([&] { return journal.names().size() == 8; }));
  CHECK_EQ(journal.names(), "12345678");
}

TEST(bytes_in_flight_are_bounded_and_a_larger_task_runs_alone) {
  Engine engine(Threads(8, 100));
  CHECK_OK(engine.Start());
  std::atomic<uint64_t> in_flight{0};
  std::atomic<uint64_t> most{0};
  std::atomic<bool> alone{true};
  std::atomic<int> done{0};
  TestClient a(&engine), b(&engine);
  const auto task = [&](uint64_t bytes) {
    return Large(
        [&, bytes] {
          const uint64_t now = in_flight.fetch_add(bytes) + bytes;
          if (bytes > 100 && now != bytes) alone = false;
          if (bytes <= 100) {
            uint64_t old = most;
            while (now > old && !most.compare_exchange_weak(old, now)) {
            }
          }
          std::this_thread::sleep_for(milliseconds(1));
          in_flight.fetch_sub(bytes);
          done++;
        },
        Priority::kNormal, bytes);
  };
  for (int i = 0; i < 50; i++) {
    a.Submit(task(40));
    b.Submit(task(i % 10 == 0 ? 1000 : 30));
  }
  CHECK(Eventually([&] { return done == 100; }));
  CHECK(alone);
  CHECK(most <= 100);
  CHECK(most > 40);
}

TEST(a_client_that_is_held_waits_and_others_do_not) {
  Engine engine(Threads(2));
  CHECK_OK(engine.Start());
  Journal journal;
  TestClient held(&engine), other(&engine);
  held.held = true;
  held.Submit(Large(journal.Note("x")));
  held.Submit(Small(journal.Note("y")));
  CHECK(!engine.Help(&held));
  for (int i = 0; i < 5; i++) other.Submit(Large(journal.Note("o")));
  CHECK(Eventually([&] { return journal.names().size() == 5; }));
  CHECK_EQ(journal.names(), "ooooo");
  held.held = false;
  engine.Resume();
  CHECK(Eventually([&] { return journal.names().size() == 7; }));
}

TEST(a_lone_task_runs_on_the_thread_that_has_it) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  TestClient client(&engine);
  std::thread::id id;
  TaskLot lot;
  lot.push_back(Small([&] { id = std::this_thread::get_id(); }));
  CHECK(engine.RunNow(&client, &lot));
  CHECK(id == std::this_thread::get_id());
  CHECK(lot.empty());

  // Past large ones that wait, not past small ones.
  Gate gate;
  Occupy(&client, &gate, 1);
  Journal journal;
  client.Submit(Large(journal.Note("L")));
  lot.push_back(Large(journal.Note("M")));
  CHECK(!engine.RunNow(&client, &lot));
  CHECK_EQ(lot.size(), 1u);
  engine.Submit(&client, &lot);
  lot.push_back(Small(journal.Note("1")));
  CHECK(engine.RunNow(&client, &lot));
  CHECK_EQ(journal.names(), "1");
  client.Submit(Small(journal.Note("2")));
  lot.push_back(Small(journal.Note("3")));
  CHECK(!engine.RunNow(&client, &lot));
  engine.Submit(&client, &lot);
  CHECK(engine.Help(&client));
  CHECK_EQ(journal.names(), "123");
  CHECK(!engine.Help(&client));  // what is left is large
  gate.Open();
  CHECK(Eventually([&] { return journal.names() == "123LM"; }));
}

TEST(a_client_helps_with_its_own_small_tasks_only) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient mine(&engine), other(&engine);
  Occupy(&other, &gate, 1);
  other.Submit(Small(journal.Note("o")));
  mine.Submit(Small(journal.Note("m")));
  CHECK(engine.Help(&mine));
  CHECK(!engine.Help(&mine));
  CHECK_EQ(journal.names(), "m");
  gate.Open();
  CHECK(Eventually([&] { return journal.names() == "mo"; }));
}

TEST(a_small_task_that_found_no_room_for_its_bytes_is_not_forgotten) {
  Engine engine(Threads(1, 100));
  CHECK(engine.Start().ok());
  TestClient first(&engine), second(&engine);
  Gate begun, gate;
  std::thread own([&] {
    TaskLot lot;
    lot.push_back(Large([&] { begun.Open(), gate.Wait(); }, Priority::kNormal, 80));
    CHECK(engine.RunNow(&first, &lot));
  });
  CHECK(begun.Wait());
  std::atomic<bool> done{false};
  second.Submit(Small([&] { done = true; }, Priority::kNormal, 50));
  CHECK(!engine.Help(&second));
  gate.Open();
  own.join();
  CHECK(Eventually([&] { return done.load(); }));
}

TEST(nobody_passes_who_waits_for_bytes_and_whose_turn_it_is) {
  std::atomic<int> after{0};
  OutOfBytes full;
  // From now on small ones that would fit are not carried out either: there could always be one
  // more.
  TaskLot lot;
  lot.push_back(Small([&] { after++; }, Priority::kNormal, 10));
  CHECK(!full.engine.RunNow(&full.small, &lot));
  full.engine.Submit(&full.small, &lot);
  CHECK(!full.engine.Help(&full.small));
  CHECK_EQ(after.load(), 0);
  // What moves no bytes takes none from it. (After that it is the other client's turn.)
  lot.push_back(Small([&] { after += 100; }));
  full.engine.Submit(&full.large, &lot);
  CHECK(Eventually([&] { return full.engine.Help(&full.large) || after >= 100; }));
  CHECK(!full.done);
  full.gate.Open();
  CHECK(Eventually([&] { return full.done && after == 101; }));
}

TEST(nobody_waits_for_who_does_not_wait_any_more) {
  Gate done;
  OutOfBytes full;
  std::this_thread::sleep_for(milliseconds(50));  // now the other thread sleeps
  CHECK(full.engine.Take(&full.large, full.waits) != nullptr);
  TaskLot lot;
  lot.push_back(Small([&] { done.Open(); }, Priority::kNormal, 10));
  full.engine.Submit(&full.small, &lot);
  CHECK(done.Wait());
  full.gate.Open();
  CHECK(Eventually([&] { return full.engine.counts().running == 0; }));
  CHECK(full.opened);
}

TEST(large_tasks_that_a_lot_leaves_are_begun_at_once) {
  Engine engine(Threads(2));
  CHECK_OK(engine.Start());
  TestClient client(&engine);
  client.at_once = 1;
  Gate none, second, third;
  none.Open();
  Occupy(&client, &none, 2);
  std::this_thread::sleep_for(milliseconds(50));  // now both threads wait for something to do
  std::atomic<int> done{0};
  TaskLot lot;
  lot.push_back(Large([&] { done++; }));
  lot.push_back(Large([&] { second.Open(), done += third.Wait() ? 1 : 0; }));
  lot.push_back(Large([&] { third.Open(), done += second.Wait() ? 1 : 0; }));
  CHECK(engine.RunNow(&client, &lot));
  CHECK(Eventually([&] { return done == 3; }));
}

TEST(what_waits_can_be_taken_back) {
  Engine engine(Threads(1));
  CHECK_OK(engine.Start());
  Journal journal;
  Gate gate;
  TestClient client(&engine);
  Occupy(&client, &gate, 1);
  std::vector<const Task*> tasks;
  for (const char* name : {"1", "2", "3", "4"}) {
    std::unique_ptr<Task> task = Large(journal.Note(name));
    tasks.push_back(task.get());
    client.Submit(std::move(task));
  }
  const std::unique_ptr<Task> taken = engine.Take(&client, tasks[1]);
  CHECK(taken.get() == tasks[1]);
  CHECK(engine.Take(&client, tasks[1]) == nullptr);
  CHECK_EQ(engine.counts().queued, 3u);
  CHECK_EQ(engine.TakeUnbegun(&client).size(), 3u);
  CHECK_EQ(engine.counts().queued, 0u);
  gate.Open();
  CHECK(Eventually([&] { return engine.counts().running == 0; }));
  CHECK_EQ(journal.names(), "");
}

TEST(low_priority_leaves_a_thread_to_the_others) {
  Engine engine(Threads(3));
  CHECK_OK(engine.Start());
  Gate gate;
  TestClient client(&engine);
  std::atomic<int> begun{0};
  for (int i = 0; i < 6; i++) {
    client.Submit(Large(
        [&] {
          begun++;
          CHECK(gate.Wait());
        },
        Priority::kLow));
  }
  CHECK(Eventually([&] { return begun == 2; }));
  Gate urgent;
  client.Submit(Large([&] { urgent.Open(); }));
  CHECK(urgent.Wait());
  CHECK_EQ(begun.load(), 2);
  gate.Open();
  CHECK(Eventually([&] { return begun == 6; }));
}

TEST(parts_are_each_done_once_by_several_threads) {
  Engine engine(Threads(3));
  CHECK_OK(engine.Start());
  for (const Parallel::Pace pace : {Parallel::Pace::kSlow, Parallel::Pace::kUnknown}) {
    for (const size_t parts : {0u, 1u, 2u, 7u, 100u}) {
      std::vector<std::atomic<int>> runs(parts);
      engine.Run(parts, parts, pace, [&](size_t part) { runs[part]++; });
      for (const std::atomic<int>& count : runs) CHECK_EQ(count.load(), 1);
    }
  }
  // Others do join: each of two parts waits for the other.
  Gate gates[2];
  engine.Run(2, 2, Parallel::Pace::kSlow, [&](size_t part) {
    gates[part].Open();
    CHECK(gates[1 - part].Wait());
  });
}

TEST(parts_that_turn_out_to_be_slow_are_shared) {
  Engine engine(Threads(2));
  CHECK_OK(engine.Start());
  const std::thread::id own = std::this_thread::get_id();
  std::atomic<bool> shared{false};
  engine.Run(10, 10, Parallel::Pace::kUnknown, [&](size_t part) {
    if (std::this_thread::get_id() != own) shared = true;
    if (part == 0) std::this_thread::sleep_for(milliseconds(2));
    if (part > 1) CHECK(Eventually([&] { return shared.load(); }));
  });
  CHECK(shared);
}

TEST(threads_give_way_as_they_are_told) {
  EngineLimits limits = Threads(1);
  limits.nice = 7;
  Engine engine(limits);
  CHECK_OK(engine.Start());
  TestClient client(&engine);
  const int own = getpriority(PRIO_PROCESS, 0);
  std::atomic<int> nice{-100};
  client.Submit(Large([&] { nice = getpriority(PRIO_PROCESS, 0); }));
  CHECK(Eventually([&] { return nice > -100; }));
  CHECK_EQ(nice.load(), std::max(own, 7));
  CHECK_EQ(getpriority(PRIO_PROCESS, 0), own);
  CHECK_EQ(engine.counts().nice, 7);
}

TEST(a_policy_that_somebody_chose_stays) {
  bool possible = true;
  std::thread([&] {
    const struct sched_param usual = {};
    possible = sched_setscheduler(0, SCHED_BATCH, &usual) == 0;
    if (!possible) return;
    EngineLimits limits = Threads(1);
    limits.nice = 7;
    Engine engine(limits);
    CHECK_OK(engine.Start());
    TestClient client(&engine);
    const int own = getpriority(PRIO_PROCESS, 0);
    std::atomic<int> policy{-1};
    client.Submit(Large([&] { policy = sched_getscheduler(0); }));
    CHECK(Eventually([&] { return policy >= 0; }));
    CHECK_EQ(policy.load(), SCHED_BATCH);
    CHECK_EQ(engine.counts().nice, own);
  }).join();
  if (!possible) SKIP("no policy can be chosen here");
}

TEST(no_more_threads_work_on_parts_than_allowed) {
  Engine engine(Threads(8));
  CHECK_OK(engine.Start());
  std::atomic<int> now{0};
  std::atomic<int> most{0};
  engine.Run(60, 3, Parallel::Pace::kSlow, [&](size_t) {
    const int working = ++now;
    int old = most;
    while (working > old && !most.compare_exchange_weak(old, working)) {
    }
    std::this_thread::sleep_for(milliseconds(1));
    now--;
  });
  CHECK(most <= 3);
}

TEST(parts_of_parts_on_all_threads_at_once) {
  Engine engine(Threads(2));
  CHECK_OK(engine.Start());
  TestClient client(&engine);
  std::atomic<int> parts{0};
  std::atomic<int> tasks{0};
  for (int i = 0; i < 20; i++) {
    client.Submit(Large([&] {
      const auto inner = [&](size_t) { parts++; };
      const auto outer = [&](size_t) { engine.Run(5, 5, Parallel::Pace::kSlow, inner); };
      engine.Run(5, 5, Parallel::Pace::kUnknown, outer);
      tasks++;
    }));
  }
  engine.Run(10, 10, Parallel::Pace::kSlow, [&](size_t) { parts++; });
  CHECK(Eventually([&] { return tasks == 20; }));
  CHECK_EQ(parts.load(), 20 * 25 + 10);
}

CHECK_MAIN
