// SPDX-License-Identifier: Apache-2.0
//
// Engine: the threads that carry out requests, shared by all clients of a worker.
//
// It decides who is next and knows nothing of requests, answers or files. Each client has its own
// queues. A thread that is free takes from the highest priority that has something, from the client
// whose turn it is: one large task, or a lot of small ones, which cost less to hand out together.
// Lower priorities are passed over eight times at most, so nothing starves.
//
// A large task is carried out in turns (work.h): while others wait it comes back after each, to the
// front of its client's queue, and the next client has its turn. Of what has been begun and waits
// there is at most one task for each client, or as many as there are threads, so that little is
// held meanwhile.
//
// Bytes of memory that tasks move are bounded over all clients: a task that does not fit waits, and
// those behind it with it, also those that a client's own thread would carry out. One of which a
// turn is larger than the bound has its turn alone.
//
// A client's own thread may help (Help, RunNow): waking another one costs more than a small task.
// A thread at a large piece of work has others help it (Parallel): it works on the parts itself,
// and those that have nothing else to do join. Nobody ever waits for a thread that is not at work.
#ifndef LMSHM_WORKER_EXECUTION_ENGINE_H_
#define LMSHM_WORKER_EXECUTION_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "worker/base/mutex.h"
#include "worker/base/status.h"
#include "worker/base/work.h"
#include "worker/execution/task.h"

namespace lmshm {

struct EngineLimits {
  size_t threads = 0;        // at least 1
  uint64_t bytes = 1 << 30;  // in flight
  size_t memory = 64 << 20;  // that waiting tasks of all clients hold, in bytes
  size_t begun = SIZE_MAX;   // tasks that have been begun and are not finished, at least 1
  int nice = 0;              // of the threads, see GiveWay()
};

// Thread safe, but for what is said of a client's own thread.
class Engine : public Parallel {
 public:
  // Owns the queues of one client, and its turn. Must outlive its tasks: call Leave() first.
  class Client {
   public:
    Client() = default;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;
    virtual ~Client() = default;

    // Carries out tasks from the front of `lot` on and removes those. It may leave some, also one
    // whose turn is over: they go back to the front of the queue. Called on any thread, several at
    // a time; must not throw.
    virtual void RunLot(TaskLot* lot) = 0;

    // True while nothing more of its should be begun. Called on any thread, with the engine locked:
    // must not call the engine.
    virtual bool Held() const = 0;

   private:
    friend class Engine;
    // Small and large tasks alternate, so that neither waits behind all of the others.
    struct Waiting {
      TaskLot small;
      TaskLot large;
      bool large_next = false;
      bool listed = false;  // in turns_

      bool empty() const { return small.empty() && large.empty(); }
      TaskLot& Of(const Task& task) { return task.small() ? small : large; }
      TaskLot& Next() { return small.empty() || (large_next && !large.empty()) ? large : small; }
    };
    Waiting waiting_[kPriorities];
    size_t lots_ = 0;   // being carried out
    size_t begun_ = 0;  // large tasks that are begun and not finished
  };

  struct Counts {
    size_t threads = 0;
    int nice = 0;  // that the threads really have
    uint64_t max_bytes = 0;
    size_t queued = 0;   // tasks
    size_t running = 0;  // tasks that threads hold, of a lot all but one still to be begun
    uint64_t bytes = 0;  // of these
  };

  explicit Engine(const EngineLimits& limits);
  // Ends the threads, each after what it is at; clients have left.
  ~Engine() override;

  // Starts the threads. On EAGAIN (not one could be started) the engine must not be used.
  Status Start();

  // Takes over `tasks` and leaves it empty.
  void Submit(Client* client, TaskLot* tasks);

  // For the client's own thread. Carries out `tasks` on this thread, if the client has nothing like
  // them waiting, the bytes fit and nobody waits for those; what is not finished goes to the queue.
  // Else false, and nothing has happened.
  bool RunNow(Client* client, TaskLot* tasks);

  // For the client's own thread. Carries out a lot of its small tasks that wait; false if there is
  // none.
  bool Help(Client* client);

  // Takes a task, which exists, out of the queue; null if it does not wait (any more).
  std::unique_ptr<Task> Take(Client* client, const Task* task);
  // All that wait and have not been begun.
  TaskLot TakeUnbegun(Client* client);

  // A client is not held any more.
  void Resume();

  // Returns once no thread uses `client`, which has nothing waiting and whose last lots are about
  // to be finished.
  void Leave(Client* client);

  void Run(size_t parts, size_t at_once, Pace pace,
           const std::function<void(size_t)>& part) override;

  // Memory that clients' tasks hold, counted by them: whether there may be more.
  void Hold(size_t bytes);
  void Release(size_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }
  bool HasMemory() const { return held_.load(std::memory_order_relaxed) < limits_.memory; }

  bool Wanted() const override { return queued_.load(std::memory_order_relaxed) > 0; }

  // Whether a thread more would find a CPU that neither tasks nor a client use.
  bool HasSpareCpu() const;

  Counts counts() const;

 private:
  // A piece of work that idle threads may join. Lives on the stack of the thread in Run().
  struct HelpWanted {
    const std::function<void(size_t)>* part = nullptr;
    size_t parts = 0;
    size_t seats = 0;             // for helpers
    size_t helpers = 0;           // at work; guarded by the engine's lock, as `seats` is
    std::atomic<size_t> next{0};  // part
    CondVar done;
  };
  // What one thread has in hand.
  struct Hand {
    Client* client = nullptr;
    TaskLot lot;
    size_t tasks = 0;
    size_t large = 0;  // of these
    uint64_t bytes = 0;
    bool low = false;
  };
  enum class Picked { kOne, kNone, kNoBytes, kTooManyLow };

  void ThreadMain();
  bool Pick(Hand* hand) REQUIRES(mutex_);
  Picked PickLevel(size_t level, Hand* hand) REQUIRES(mutex_);
  void TakeLot(TaskLot* queue, Hand* hand) REQUIRES(mutex_);
  void Grasp(Client* client, Hand* hand) REQUIRES(mutex_);
  // Runs what is in hand, with the lock released meanwhile.
  void Carry(Hand* hand) REQUIRES(mutex_);
  bool JoinHelp() REQUIRES(mutex_);
  void Enqueue(Client* client, std::unique_ptr<Task> task) REQUIRES(mutex_);
  void GiveBack(Hand* hand) REQUIRES(mutex_);
  void List(Client* client, size_t level) REQUIRES(mutex_);
  bool CanBegin(const Client& client) const REQUIRES(mutex_);
  TaskLot* NextOf(Client* client, size_t level) REQUIRES(mutex_);
  void CountBegun(Client* client, size_t before, size_t after) REQUIRES(mutex_);
  bool Fits(uint64_t bytes) const REQUIRES(mutex_);
  // The same for a client's own thread, which nobody has given a turn.
  bool FitsNow(uint64_t bytes) const REQUIRES(mutex_) {
    return bytes == 0 || (!bytes_short_ && Fits(bytes));
  }
  void Wake(size_t threads) REQUIRES(mutex_);
  void WaitForWork() REQUIRES(mutex_);
  void WantTrim() REQUIRES(mutex_);

  const EngineLimits limits_;
  const size_t cpus_;
  const size_t low_limit_;  // lots of low priority at a time: one thread is kept for the others
  std::vector<std::thread> threads_;

  mutable Mutex mutex_;  // guards Client's private members, too
  CondVar work_;
  CondVar left_;
  CondVar started_;
  std::optional<int> nice_ GUARDED_BY(mutex_);  // of the threads, once one runs
  std::deque<Client*> turns_[kPriorities] GUARDED_BY(mutex_);
  size_t passed_over_[kPriorities] GUARDED_BY(mutex_) = {};
  std::list<HelpWanted*> help_ GUARDED_BY(mutex_);
  std::atomic<size_t> queued_{0};   // written under the lock
  std::atomic<size_t> at_work_{0};  // threads, clients' own among them; as above
  std::atomic<size_t> held_{0};
  std::atomic<bool> trim_wanted_{false};  // what is freed is to be given back to the system soon
  size_t running_ GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ GUARDED_BY(mutex_) = 0;
  size_t low_lots_ GUARDED_BY(mutex_) = 0;
  size_t begun_ GUARDED_BY(mutex_) = 0;  // of all clients
  // Something waits until another task is finished.
  bool begin_wanted_ GUARDED_BY(mutex_) = false;
  size_t idle_ GUARDED_BY(mutex_) = 0;  // threads
  // One of them sees to it that freed memory is given back.
  bool trimming_ GUARDED_BY(mutex_) = false;
  // Something waits until others have moved theirs; its turn has come, and what comes later must
  // not pass it.
  bool bytes_wanted_ GUARDED_BY(mutex_) = false;
  bool bytes_short_ GUARDED_BY(mutex_) = false;
  bool low_wanted_ GUARDED_BY(mutex_) = false;  // something waits because of low_limit_
  bool ending_ GUARDED_BY(mutex_) = false;
};

}  // namespace lmshm

#endif  // LMSHM_WORKER_EXECUTION_ENGINE_H_
