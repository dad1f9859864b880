/* SPDX-License-Identifier: Apache-2.0
 *
 * lmshm.h - pinned, shared memory segments behind a plain C ABI.
 *
 * INTRODUCTION
 *
 * A segment is a range of bytes that several processes map at once: a POSIX
 * shared memory object with a name, or an anonymous memfd. This library
 * creates, attaches, populates, page-locks and frees segments. It keeps no
 * global mutable state (what is to be done at exit, if that is asked for, the C
 * library keeps), prints nothing and never exits; every failure is a
 * negative errno value returned in-band, because callers that reach the
 * library through a foreign function interface cannot read errno.
 *
 * THE SIMPLE INTERFACE is two functions, and enough for most programs:
 *
 *     intptr_t p = alloc_shm_pinned_ptr(1 << 30, "/kv");
 *     if (p < 0) { ... -p is the errno ... }
 *     int rc = free_shm_pinned_ptr((void *)p, 1 << 30, "/kv");
 *
 * THE FULL INTERFACE takes an options struct, reports what really happened
 * in an info struct, and has a start/poll/finish form for callers with an
 * event loop: lmshm_open_start(), lmshm_job_poll(), lmshm_job_finish().
 * Processes that share a segment wait for each other with lmshm_queue_wait()
 * and lmshm_notify().
 *
 * OWNERSHIP OF A NAME
 *
 * The creator of a named segment owns its name. It holds flock(LOCK_EX) on
 * the segment for as long as it maps it, and the kernel drops that lock when
 * the owner unmaps or dies, however it dies. A segment made here carries the
 * sticky bit (mode 01600: the permission bits are 0600, and on a regular file
 * Linux gives the sticky bit no meaning). So:
 *
 *     sticky and locked      alive: never replaced, never unlinked
 *     sticky and not locked  left by a dead owner: the next create takes it
 *     not sticky             a stranger's (made by Python, say): untouched,
 *                            unless if_exists is LMSHM_EXISTS_REPLACE
 *
 * An owner that ends in order adds the execute bit (01700) before it unlinks the
 * name: so those who have the segment mapped know that it was not killed.
 *
 * A segment of another user is never touched. The lock is taken microseconds
 * after the file is created: a creator whose new file was taken for a dead
 * owner's in between starts over, and exactly one creator ends up with a name.
 *
 * What replaces a stranger's segment is made under a name of its own,
 * "/.lmshm-new-" and 16 hexadecimal digits, and takes the stranger's name when
 * it is complete, by rename(2): until then, and when anything fails, the
 * stranger's is as it was. So there must be room for both. A creator that is
 * killed on the way leaves a dead owner's segment under that name, which the
 * next to replace the same name takes, or lmshm_reclaim().
 *
 * IDENTITY. A name may lead to another file tomorrow: its owner dies and is
 * started again, somebody unlinks it (Python before 3.13 unlinks at its exit
 * what it merely opened), another container has a /dev/shm of its own. Who maps
 * a segment keeps the memory that it has, whatever becomes of the name. Two
 * ends of one memory therefore do not trust the name. The first hands over a
 * descriptor (fd in lmshm_info: close-on-exec, and without the lock, so that who
 * inherits it does not keep the name), or says which file it has mapped, and
 * the second compares (identity in lmshm_info):
 *
 *     <boot>:<device>:<inode>
 *
 * The kernel's boot id without dashes ("-" where it cannot be read), and st_dev
 * and st_ino in decimal. No other file has them while the segment is mapped.
 *
 * PAGES of a new segment are all there when a call returns. They are reserved
 * by system calls that say ENOSPC where a plain write would raise SIGBUS; what
 * can never fit is refused before a page is touched, and a reservation that
 * fails half way is undone. They hold zeros; what others write into a named
 * segment before its creation has returned may be lost. A stranger who
 * truncates the file of a named segment can still cause SIGBUS; an anonymous
 * one is sealed against it.
 *
 * PINNING by a GPU uses its runtime library, looked up at run time: gpu_library
 * of the options, else the environment's LMSHM_GPU_LIBRARY, else libcudart of
 * CUDA 13, 12 and 11, then the driver (libcuda), then libamdhip64. There is a
 * GPU when a library counts a device. The memory is registered for all
 * devices, and mapped for them, which takes a context on one: that of the
 * device in gpu_device of the options, else in the environment's
 * LMSHM_GPU_DEVICE, else of the calling thread's current device (a job's
 * thread: device 0; the driver: always device 0). No other device gets a
 * context, and the current device of a thread stays as it is. The library
 * then stays loaded. Every process that copies from or to a segment registers
 * it for itself: owner and attachers alike. A child made by fork() cannot use
 * a GPU that its parent has used; what it opens is pinned without one. Locks
 * of mlock(2) are subject to RLIMIT_MEMLOCK. Others can see by what a segment is
 * pinned: while it is, whoever pins it holds a shared lock (F_OFD_SETLK) of the
 * byte of the file whose number is that of enum lmshm_pinned_by, and the kernel
 * lists that in /proc/locks. (Not of what is attached by a descriptor.)
 *
 * SIZES are bytes. A segment's file is exactly as long as was asked for
 * (explicit huge pages: rounded up to the huge page); its mapping is rounded
 * up to whole pages. NAMES are one path component of 1 to 254 bytes, with or
 * without one leading slash, and neither "." nor "..".
 *
 * THREADS: functions may be called from any thread; one segment or one job
 * must not be used by two threads at a time. The library's own threads block
 * all signals; because of them, dlclose() does not unload it. A child made by
 * fork() inherits the mapping, and with it the lock: the name stays taken until
 * the child has unmapped it, called exec or exited too. It owns nothing:
 * lmshm_close() of a segment of its parent only unmaps there,
 * free_shm_pinned_ptr() is -EINVAL, and the parent's jobs must not be touched.
 *
 * Only 64-bit Linux is supported.
 */
#ifndef LMSHM_H_
#define LMSHM_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define LMSHM_VERSION "0.1.0"

/* ---------------------------------------------------------------- simple */

/* Creates the segment `shm_name` of `size` bytes: reserves its pages,
 * populates them and page-locks them, in that order; when a step fails,
 * everything before it is undone. The defaults of lmshm_options apply
 * (exclusive creation, pin mode auto, no huge pages, no NUMA policy).
 *
 * Returns the address (page aligned, positive), or:
 *   -EINVAL        size is 0 or overflows, or the name is not one component
 *   -ENAMETOOLONG  the name has more than 254 bytes
 *   -EEXIST        a live segment, or a stranger's, has the name
 *   -EACCES        the name belongs to another user
 *   -ENOSPC        the file system has not enough free pages (never SIGBUS)
 *   -ENOMEM        no address space, or more memory than there can be
 *   other -errno   of the system call that failed
 * Blocks for about 0.3 to 0.6 s a GiB. Free with free_shm_pinned_ptr().
 */
intptr_t alloc_shm_pinned_ptr(size_t size, const char* shm_name);

/* Undoes alloc_shm_pinned_ptr(): unregisters, unlinks the name if it still
 * names this memory, and unmaps. The three arguments must be those of the
 * allocation; they are checked against the kernel's lists of mappings and
 * locks (/proc), so that freeing twice, or freeing something else, or what
 * another process owns, is -EINVAL and touches nothing. The environment's
 * LMSHM_GPU_LIBRARY and LMSHM_GPU_DEVICE, or the thread's current device, must
 * be as they were. Returns 0 or -errno.
 */
int free_shm_pinned_ptr(void* ptr, size_t size, const char* shm_name);

/* ------------------------------------------------------------------ full */

/* What to open. */
enum lmshm_kind {
  LMSHM_CREATE = 0,   /* a new named segment, owned */
  LMSHM_ATTACH = 1,   /* an existing one, by name or by descriptor */
  LMSHM_ANONYMOUS = 2 /* a new memfd, sealed against resizing */
};

/* What LMSHM_CREATE does when the name is taken. */
enum lmshm_if_exists {
  LMSHM_EXISTS_RECLAIM = 0, /* replace it if its owner is dead, else -EEXIST */
  LMSHM_EXISTS_FAIL = 1,    /* -EEXIST, whatever it is */
  LMSHM_EXISTS_REPLACE = 2  /* as RECLAIM, and a stranger's is replaced too,
                               when the new one is complete; a live one
                               (locked) still gives -EEXIST */
};

/* How to page-lock. */
enum lmshm_pin {
  LMSHM_PIN_AUTO = 0,    /* the GPU if there is one, else mlock, else plain */
  LMSHM_PIN_REQUIRE = 1, /* the GPU; -ENODEV without one, -EIO if it refuses */
  LMSHM_PIN_NONE = 2     /* not at all */
};

enum lmshm_pages {
  LMSHM_PAGES_DEFAULT = 0,     /* what the system does by itself */
  LMSHM_PAGES_TRANSPARENT = 1, /* madvise(MADV_HUGEPAGE): a wish */
  LMSHM_PAGES_HUGE_2M = 2,     /* hugetlb, LMSHM_ANONYMOUS only: a demand, */
  LMSHM_PAGES_HUGE_1G = 3      /* -ENOMEM when too few are reserved */
};

enum lmshm_numa {
  LMSHM_NUMA_DEFAULT = 0,
  LMSHM_NUMA_BIND = 1,      /* only on the nodes of numa_nodes */
  LMSHM_NUMA_INTERLEAVE = 2 /* page by page over the nodes of numa_nodes */
};

/* Bits of lmshm_options.flags */
/* LMSHM_CREATE: the name is unlinked, too, when the process ends by exit()
 * before the segment is closed, also while a job creates it (one that is to
 * replace a stranger's goes, and the stranger's stays); not when the process is
 * killed or ends by _exit() or quick_exit(). The C library's list of what to do
 * at exit keeps a note of it, which stays allocated to the end of the process:
 * some 60 bytes and the name. */
#define LMSHM_OPTION_UNLINK_AT_EXIT 1u

/* Zero everything, set struct_size and what you need. 72 bytes. Pages, numa,
 * if_exists and populate_threads are of no meaning to LMSHM_ATTACH; the first
 * two must be 0 there. */
typedef struct lmshm_options {
  uint32_t struct_size;      /* sizeof(lmshm_options) */
  uint32_t kind;             /* enum lmshm_kind */
  uint32_t if_exists;        /* enum lmshm_if_exists, for LMSHM_CREATE */
  uint32_t pin;              /* enum lmshm_pin */
  uint32_t pages;            /* enum lmshm_pages */
  uint32_t numa;             /* enum lmshm_numa */
  uint64_t numa_nodes;       /* bit n: node n; nodes 0 to 63 */
  uint64_t size;             /* bytes; for LMSHM_ATTACH 0 means all of it */
  uint32_t populate_threads; /* 0: chosen from the CPUs allowed; at most 64.
                                Attaching never populates. */
  int32_t fd;                /* LMSHM_ATTACH without a name: a descriptor of the
                                segment; it stays the caller's */
  const char* name;          /* NUL-terminated; copied */
  const char* gpu_library;   /* NULL, or the path of a GPU runtime to use
                                instead of the search; copied. The environment
                                variable LMSHM_GPU_LIBRARY does the same. */
  uint32_t gpu_device;       /* 0: not chosen, see PINNING above; n: GPU n - 1 is
                                to pin. LMSHM_GPU_DEVICE=n-1 does the same. */
  uint32_t flags;            /* LMSHM_OPTION_ bits */
} lmshm_options;

/* Who page-locked the segment. */
enum lmshm_pinned_by {
  LMSHM_PINNED_BY_NONE = 0,
  LMSHM_PINNED_BY_CUDA = 1,        /* cudaHostRegister of libcudart */
  LMSHM_PINNED_BY_CUDA_DRIVER = 2, /* cuMemHostRegister of libcuda */
  LMSHM_PINNED_BY_HIP = 3,         /* hipHostRegister of libamdhip64 */
  LMSHM_PINNED_BY_MLOCK = 4        /* mlock(2): resident, but not DMA-able */
};

/* Where an operation stands, or where it failed. */
enum lmshm_step {
  LMSHM_STEP_CHECK = 0,   /* arguments */
  LMSHM_STEP_OPEN = 1,    /* name, descriptor, ownership */
  LMSHM_STEP_RESERVE = 2, /* pages */
  LMSHM_STEP_MAP = 3,
  LMSHM_STEP_PLACE = 4, /* NUMA policy, huge pages */
  LMSHM_STEP_POPULATE = 5,
  LMSHM_STEP_PIN = 6,
  LMSHM_STEP_READY = 7,
  LMSHM_STEP_RELEASE = 8 /* closing */
};

/* Bits of lmshm_info.flags */
#define LMSHM_INFO_OWNER 1u     /* this process owns the name */
#define LMSHM_INFO_RECLAIMED 2u /* a dead owner's segment was replaced */
#define LMSHM_INFO_REPLACED 4u  /* a stranger's segment was replaced */

/* What really happened. 640 bytes. */
typedef struct lmshm_info {
  uint32_t struct_size;      /* in: sizeof(lmshm_info) */
  int32_t error;             /* 0, or the -errno that was returned */
  uint32_t step;             /* enum lmshm_step */
  uint32_t pinned_by;        /* enum lmshm_pinned_by */
  uint64_t address;          /* of the first byte; 0 when there is none */
  uint64_t size;             /* bytes of the segment as used */
  uint64_t mapped_size;      /* size rounded up to whole pages */
  uint64_t page_size;        /* of the backing: 4096, 2 MiB, 1 GiB */
  uint64_t huge_bytes;       /* how much the kernel backs by huge pages */
  uint64_t populated;        /* bytes populated so far */
  uint64_t available;        /* bytes that were free, upon ENOSPC and ENOMEM */
  uint32_t flags;            /* LMSHM_INFO_ bits */
  int32_t fd;                /* of the segment's file, to be inherited or sent:
                                see IDENTITY. Owned by the segment and closed
                                with it; -1 where a named one's could not be
                                opened again: no /proc, no descriptor left */
  int32_t gpu_error;         /* the GPU runtime's own code, 0 when it had none */
  uint32_t gpu_devices;      /* how many it counted */
  uint32_t populate_threads; /* how many were used */
  uint32_t pin_piece_mib;    /* 0: registered at once; else in pieces of so many
                                MiB, counted from the address (the last may be
                                shorter), which no copy may cross */
  char gpu_library[208];     /* which library answered, "" for none */
  char message[256];         /* in words why a step failed, or why the memory is
                                pinned less than was wished, or has no
                                transparent huge pages; "" otherwise */
  char identity[80];         /* which file it is: see IDENTITY */
} lmshm_info;

typedef struct lmshm_segment lmshm_segment;
typedef struct lmshm_job lmshm_job;

/* Bits for lmshm_close() */
/* Puts untouched private memory in the place of the segment instead of
 * unmapping it, so that a stale pointer reads zeros and does not fault. Costs
 * address space only, for good. Where the system refuses even that (-ENOMEM),
 * the range is unmapped. */
#define LMSHM_CLOSE_KEEP_RANGE 1u

/* The library's version, "MAJOR.MINOR.PATCH". Static, never freed. */
const char* lmshm_version(void);

/* Opens a segment; blocks until it is populated and pinned. Returns an
 * lmshm_segment * as a positive integer, or -errno. `info` may be NULL, and is
 * filled on success and on failure alike (not when its struct_size is wrong:
 * -EINVAL). Besides the errors of alloc_shm_pinned_ptr():
 *   -ENODEV   a GPU is required, and there is none
 *   -EIO      a GPU is required, and refused to register the memory
 *   -ENOENT   attaching: no such name
 *   -EACCES   attaching: another user's; a descriptor of another user's file
 *             is good only when sealed against shrinking
 *   -EAGAIN   attaching: its owner is still populating it, or died doing so
 *   -ERANGE   attaching: it is smaller than the size asked for, or empty
 *   -EINVAL   also: no such option, no such NUMA node, not a regular file
 *   -ENOSYS, -EPERM  NUMA policies are unknown to the kernel, or forbidden */
intptr_t lmshm_open(const lmshm_options* options, lmshm_info* info);

/* Fills `info` for an open segment. Returns 0 or -EINVAL. */
int lmshm_segment_info(const lmshm_segment* segment, lmshm_info* info);

/* Unregisters, unlinks (owner only, and only if the name still is this
 * segment), unmaps, and frees the handle, whatever step fails. Returns 0, or
 * the first -errno (-EIO: the GPU would not unregister), or -EINVAL, having
 * done nothing, for no segment or unknown flags. Blocks for up to 0.3 s a
 * GiB. */
int lmshm_close(lmshm_segment* segment, uint32_t flags);

/* lmshm_open() and lmshm_close() on a thread of the library's own. Return an
 * lmshm_job * as a positive integer, or -errno when not even the job could be
 * started (then lmshm_close_start has left the segment as it was). */
intptr_t lmshm_open_start(const lmshm_options* options);
intptr_t lmshm_close_start(lmshm_segment* segment, uint32_t flags);

/* Returns 1 once the job has ended, 0 while it runs; never blocks. `info` may
 * be NULL; else it is the final report, or while the job runs, step, size and
 * populated tell how far it is. */
int lmshm_job_poll(lmshm_job* job, lmshm_info* info);

/* Asks an opening job to stop; it ends soon, undone, with -ECANCELED, unless
 * it had already succeeded. A closing job ignores it. Never blocks. */
void lmshm_job_cancel(lmshm_job* job);

/* Waits for the job's end, frees the job and returns what lmshm_open() or
 * lmshm_close() would have returned. `info` may be NULL. */
intptr_t lmshm_job_finish(lmshm_job* job, lmshm_info* info);

/* --------------------------------------------------- waiting and waking up */

/* A word of a segment, 32 bits at an offset that is a multiple of 4, can be
 * waited for by any process that maps it, with futex(2) of Linux: who changes
 * it says so with lmshm_notify(), or with FUTEX_WAKE (not private), and who
 * waits is found by file and offset, wherever each has the memory.
 *
 * A queue serves a program that has an event loop. It is told what to wait for,
 * each wait with a number (id) of the program's choice, and gives one event for
 * each. None of its functions blocks but lmshm_queue_ready() and
 * lmshm_queue_close(). All may be called from any thread.
 *
 * A wait takes a sleeping thread, some 50 KB of memory and no time, and the
 * library keeps it for a second after. LMSHM_QUEUE_WAITS_MAX at a time are
 * those of one queue.
 *
 * A process that is stopped (SIGSTOP) does not wait meanwhile: it sees a change
 * of the word when it goes on, and misses a wake without one. So does, for a
 * microsecond every 50 ms, one on a kernel before Linux 5.16, or in a container
 * that forbids futex_waitv(2). */
#define LMSHM_QUEUE_WAITS_MAX 1024

typedef struct lmshm_queue lmshm_queue;

/* How a wait ended. 16 bytes. */
typedef struct lmshm_event {
  uint64_t id;       /* the program's own number */
  int32_t result;    /* see lmshm_queue_wait() and lmshm_queue_owner() */
  uint32_t reserved; /* 0 */
} lmshm_event;

/* How an owner ended. */
enum lmshm_owner_end {
  LMSHM_OWNER_RELEASED = 1, /* it gave the segment back, or its process ended in order */
  LMSHM_OWNER_DIED = 2      /* it ended without: killed, for example */
};

/* For lmshm_queue_open(): the queue ends with the thread that opens it. Where an
 * event loop's thread is ended from outside, nobody is left to close the queue,
 * and its waits would take wakes that are meant for others. A few hundred bytes
 * of it stay. lmshm_queue_close() is that thread's to call. */
#define LMSHM_QUEUE_OF_THREAD 1u

/* `flags`: 0 or LMSHM_QUEUE_OF_THREAD. Returns an lmshm_queue * as a positive
 * integer, or -errno. */
intptr_t lmshm_queue_open(uint32_t flags);

/* Makes a stream socket for an event loop that watches descriptors: a byte can
 * be read from it when there are events to reap that were not there before.
 * Non-blocking, close-on-exec, and the caller's to close. The queue knows one
 * at a time, the last. Returns it or -errno. */
int lmshm_queue_fd(lmshm_queue* queue);

/* Waits for the word at `offset` to be woken, if it is `expected`. timeout_ms
 * from 2^32 - 1 on is for ever. Returns 0, and an event is to come, whose
 * result is
 *    0           woken; or the word was changed
 *    -EAGAIN     it was changed before the waiting began
 *    -ETIMEDOUT  or -ECANCELED
 * or returns at once, and no event comes:
 *    -EAGAIN     the word is not `expected`
 *    -ETIMEDOUT  it is, and timeout_ms is 0
 *    -EINVAL     no word of the segment, or no queue of this process
 *    -EBUSY      LMSHM_QUEUE_WAITS_MAX are waiting
 *    other -errno of starting a thread (-EAGAIN becomes -ENOMEM)
 * The segment may be closed meanwhile: cancel first, for its address may be
 * another's then. */
int lmshm_queue_wait(lmshm_queue* queue, const lmshm_segment* segment, uint64_t offset,
                     uint32_t expected, uint64_t timeout_ms, uint64_t id);

/* Waits until the owner of an attached segment has unmapped it or is dead (and
 * so are the children that it forked). No polling where the system has inotify
 * to give; else it takes up to 50 ms to be noticed. Returns as
 * lmshm_queue_wait() does (-EINVAL: it was made here; -ENOTSUP: a stranger's,
 * of which nothing tells whether its owner lives); the result is an enum
 * lmshm_owner_end, -ETIMEDOUT, -ECANCELED, or another -errno. */
int lmshm_queue_owner(lmshm_queue* queue, const lmshm_segment* segment, uint64_t timeout_ms,
                      uint64_t id);

/* Ends a wait: its event comes soon, with -ECANCELED unless something else came
 * first. Returns 0, or -ENOENT: it has ended. */
int lmshm_queue_cancel(lmshm_queue* queue, uint64_t id);

/* Takes at most `count` events, the oldest first. Returns how many. */
int lmshm_queue_reap(lmshm_queue* queue, lmshm_event* events, uint32_t count);

/* Blocks until there is an event to reap, for so many milliseconds at most.
 * Returns 1 when there is, 0 when not, -ECANCELED when the queue is closed. */
int lmshm_queue_ready(lmshm_queue* queue, uint32_t timeout_ms);

/* Ends all waits, without events, and frees the queue; blocks for about as long
 * as that takes, 50 ms at most. Nobody may call anything of it after. Returns 0
 * or -EINVAL: no queue of this process, or that of another thread. */
int lmshm_queue_close(lmshm_queue* queue);

/* Wakes at most `count` of those that wait for the word, in any process, the
 * first that came first. Returns how many, or -EINVAL for no word. */
int lmshm_notify(const lmshm_segment* segment, uint64_t offset, uint32_t count);

/* --------------------------------------------------------------- windows */

/* A window is a second mapping of a part of a segment, which can be taken back
 * while the segment stays: whatever still has an address in it, a thread in
 * the middle of a read(2) included, then meets private memory that nobody
 * else sees. Direct I/O and copies of a GPU are the exception: they have found
 * their pages when they begin, and go on with those.
 *
 * A window lies in a range of addresses that was reserved before, so that no
 * address of it ever comes to mean somebody else's memory: the host program
 * decides when, if ever, a range is used for another window.
 *
 * A process has at most LMSHM_WINDOWS_MAX windows, of all segments and threads
 * together: each is a mapping, and the gap to the next is another, of which a
 * process usually may have 65,530 (vm.max_map_count). A host program that has
 * none left does not live on: its own allocator needs some. */
#define LMSHM_WINDOWS_MAX 16384

/* Puts untouched private memory, which costs address space only, over `size`
 * bytes: where `at` is NULL, at addresses that are free, to reserve them; else
 * over a range that is reserved and has no windows (any more), whose memory,
 * if something came late, is then free. It reads zeros; what is written to it
 * nobody sees. Where the system counts even untouched memory
 * (vm.overcommit_memory is 2) it can be read only.
 *
 * `at` is NULL or was returned by an earlier call, plus an offset; it and
 * `size` are multiples of the system's page size. The segment, any that is
 * open, tells what the system counts. Returns the address, or -EINVAL, or
 * -ENOMEM: no address space, or too many mappings (vm.max_map_count). What was
 * at `at` is then unmapped. */
intptr_t lmshm_window_reserve(const lmshm_segment* segment, void* at, size_t size);

/* Maps the `size` bytes from `offset` of the segment at `at`, within a range
 * of lmshm_window_reserve(); all three are multiples of the segment's page
 * size. The pages of up to 64 MiB are mapped at once, else when they are
 * touched. To be taken back, before or after lmshm_close() of this segment: as
 * long as it is there it keeps the memory (and the lock on the name, where fd
 * in lmshm_info is -1).
 *
 * Returns 0, or -EINVAL (beyond the segment, no such segment), or -ENOMEM
 * (LMSHM_WINDOWS_MAX are there already, and the range is as it was; or the
 * system has no room for another mapping), or another -errno of mmap(2). */
int lmshm_window_map(const lmshm_segment* segment, uint64_t offset, size_t size, void* at);

/* Takes a window back: puts private memory as of lmshm_window_reserve() over
 * the `size` bytes at `at`, which are those of one lmshm_window_map(). The
 * segment is any that is open. Returns 0, -EINVAL, or -ENOMEM as
 * lmshm_window_reserve() does: it is then unmapped, or, where the system
 * refuses even that, still there. */
int lmshm_window_unmap(const lmshm_segment* segment, void* at, size_t size);

/* Who holds a name. */
enum lmshm_name_state {
  LMSHM_NAME_FREE = 0,
  LMSHM_NAME_LIVE = 1,   /* its owner lives */
  LMSHM_NAME_DEAD = 2,   /* its owner died; reclaimable */
  LMSHM_NAME_FOREIGN = 3 /* a stranger's */
};

/* Returns an enum lmshm_name_state, or -errno (-EACCES: another user's). The
 * answer may be old by the time it is read: to act on it, use lmshm_reclaim()
 * or create. */
int lmshm_name_state(const char* name);

/* Puts the identity of what has the name now into `identity`, of at least 80
 * bytes: it is that of a segment for as long as the name leads to it. Returns 0,
 * -ENOENT when nothing has the name, -EINVAL, -ENAMETOOLONG or another -errno. */
int lmshm_name_identity(const char* name, char* identity, size_t size);

/* Unlinks the name if its owner is dead. Returns 1 if it did, 0 if there was
 * nothing, -EBUSY if the owner lives, -EPERM if it is a stranger's. */
int lmshm_reclaim(const char* name);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* LMSHM_H_ */
