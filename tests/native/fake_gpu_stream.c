/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu_stream.c - the fake's streams and events. Each stream has a thread,
 * which carries out what is queued in order, after the call has returned: who
 * frees or reads too early, is found out.
 *
 *   FAKE_GPU_DELAY_US  how long each copy takes at least
 *   FAKE_GPU_STUCK     while it is "1", nothing queued is carried out, for at
 *                      most 5 s, so that a test that fails does not hang
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_gpu_inside.h"

enum { kMaxHandles = 1024, kStuckMs = 5000 };

struct event {
  int device;
  bool timing, dead;
  uint64_t recorded, completed; /* tickets */
  int64_t at_ns;
};

struct work {
  struct work* next;
  enum { kDoCopy, kDoRecord, kDoWait } what;
  struct copy copy;
  struct event* event;
  uint64_t ticket;
};

struct stream {
  pthread_t thread;
  int device;
  bool closing;
  struct work *first, *last;
  int queued; /* the one under way, too */
};

static struct stream* streams[kMaxHandles];
static struct event* events[kMaxHandles];
static int threads;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* anything of the above */

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int slot_of(void* const* table, const void* handle) {
  for (int i = 0; i < kMaxHandles; i++)
    if (table[i] == handle) return i;
  return -1;
}

static struct stream* stream_of(void* handle) {
  if (handle == NULL || slot_of((void* const*)streams, handle) < 0) return NULL;
  struct stream* stream = handle;
  return stream->closing ? NULL : stream;
}

static struct event* event_of(void* handle) {
  if (handle == NULL || slot_of((void* const*)events, handle) < 0) return NULL;
  struct event* event = handle;
  return event->dead ? NULL : event;
}

/* Gives the lock up for as long as orders say. */
static void locked_delay(void) {
  char room[256];
  for (int ms = 0; ms < kStuckMs; ms++) {
    const char* stuck = locked_order("FAKE_GPU_STUCK", room);
    if (stuck == NULL || strcmp(stuck, "1") != 0) break;
    pthread_mutex_unlock(&fake_lock);
    usleep(1000);
    pthread_mutex_lock(&fake_lock);
  }
  const char* delay = locked_order("FAKE_GPU_DELAY_US", room);
  if (delay == NULL) return;
  useconds_t us = (useconds_t)atoi(delay);
  pthread_mutex_unlock(&fake_lock);
  usleep(us);
  pthread_mutex_lock(&fake_lock);
}

static size_t span(size_t pitch, const struct copy* copy) {
  return pitch * (copy->height - 1) + copy->width;
}

static void locked_copy(const struct copy* copy) {
  locked_delay();
  if (!locked_is_mapped(copy->to, span(copy->to_pitch, copy)) ||
      (copy->from != NULL && !locked_is_mapped(copy->from, span(copy->from_pitch, copy)))) {
    locked_violation("copying what has been unmapped meanwhile");
    return;
  }
  char* to = locked_backing(copy->to);
  const char* from = copy->from != NULL ? locked_backing(copy->from) : NULL;
  pthread_mutex_unlock(&fake_lock);
  for (size_t row = 0; row < copy->height; row++) {
    if (from == NULL)
      memset(to + row * copy->to_pitch, copy->value, copy->width);
    else
      memmove(to + row * copy->to_pitch, from + row * copy->from_pitch, copy->width);
  }
  pthread_mutex_lock(&fake_lock);
  fake_books.copies++;
}

static void* run(void* argument) {
  struct stream* stream = argument;
  pthread_mutex_lock(&fake_lock);
  for (;;) {
    struct work* work = stream->first;
    if (work == NULL) {
      if (stream->closing) break;
      pthread_cond_wait(&changed, &fake_lock);
      continue;
    }
    switch (work->what) {
      case kDoCopy:
        locked_copy(&work->copy);
        break;
      case kDoRecord:
        /* Another stream may have passed a later recording already. */
        if (work->ticket < work->event->completed) break;
        work->event->completed = work->ticket;
        work->event->at_ns = now_ns();
        break;
      case kDoWait:
        while (work->event->completed < work->ticket) pthread_cond_wait(&changed, &fake_lock);
        break;
    }
    stream->first = work->next;
    if (stream->first == NULL) stream->last = NULL;
    stream->queued--;
    fake_books.pending--;
    free(work);
    pthread_cond_broadcast(&changed);
  }
  streams[slot_of((void* const*)streams, stream)] = NULL;
  threads--;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&fake_lock);
  free(stream);
  return NULL;
}

int locked_stream_create(int device, void** handle) {
  int slot = slot_of((void* const*)streams, NULL);
  struct stream* stream = slot < 0 ? NULL : calloc(1, sizeof *stream);
  if (stream == NULL) return kOutOfMemory;
  stream->device = device;
  if (pthread_create(&stream->thread, NULL, run, stream) != 0) {
    free(stream);
    return kOutOfMemory;
  }
  pthread_detach(stream->thread);
  streams[slot] = stream;
  threads++;
  fake_books.streams++;
  *handle = stream;
  return 0;
}

int locked_stream_destroy(void* handle) {
  struct stream* stream = stream_of(handle);
  if (stream == NULL) return kInvalidHandle;
  stream->closing = true; /* what is queued is still carried out */
  fake_books.streams--;
  pthread_cond_broadcast(&changed);
  return 0;
}

static int queue(void* handle, const struct work* what) {
  struct stream* stream = stream_of(handle);
  if (stream == NULL) return kInvalidHandle;
  struct work* work = malloc(sizeof *work);
  if (work == NULL) return kOutOfMemory;
  *work = *what;
  work->next = NULL;
  if (stream->last != NULL)
    stream->last->next = work;
  else
    stream->first = work;
  stream->last = work;
  stream->queued++;
  fake_books.pending++;
  pthread_cond_broadcast(&changed);
  return 0;
}

int locked_stream_copy(void* handle, const struct copy* copy) {
  if (copy->width == 0 || copy->height == 0) return 0;
  if (copy->height > 1 &&
      (copy->to_pitch < copy->width || (copy->from != NULL && copy->from_pitch < copy->width) ||
       copy->to_pitch > INT32_MAX || copy->from_pitch > INT32_MAX))
    return kInvalid;
  int code = locked_check(copy->to, span(copy->to_pitch, copy), copy->to_device);
  if (code == 0 && copy->from != NULL)
    code = locked_check(copy->from, span(copy->from_pitch, copy), copy->from_device);
  if (code != 0) return code;
  return queue(handle, &(struct work){.what = kDoCopy, .copy = *copy});
}

int locked_event_create(int device, bool timing, void** handle) {
  int slot = slot_of((void* const*)events, NULL);
  struct event* event = slot < 0 ? NULL : calloc(1, sizeof *event);
  if (event == NULL) return kOutOfMemory;
  event->device = device;
  event->timing = timing;
  events[slot] = event;
  fake_books.events++;
  *handle = event;
  return 0;
}

/* An event in use stays until the books are made anew. */
int locked_event_destroy(void* handle) {
  struct event* event = event_of(handle);
  if (event == NULL) return kInvalidHandle;
  event->dead = true;
  fake_books.events--;
  if (event->completed != event->recorded) return 0;
  bool used = false;
  for (int i = 0; i < kMaxHandles; i++) {
    const struct work* work = streams[i] != NULL ? streams[i]->first : NULL;
    for (; work != NULL; work = work->next) used = used || work->event == event;
  }
  if (used) return 0;
  events[slot_of((void* const*)events, event)] = NULL;
  free(event);
  return 0;
}

int locked_event_record(void* handle, void* stream_handle) {
  struct event* event = event_of(handle);
  const struct stream* stream = stream_of(stream_handle);
  if (event == NULL || stream == NULL || event->device != stream->device) return kInvalidHandle;
  event->recorded++;
  return queue(stream_handle,
               &(struct work){.what = kDoRecord, .event = event, .ticket = event->recorded});
}

int locked_event_query(void* handle) {
  const struct event* event = event_of(handle);
  if (event == NULL) return kInvalidHandle;
  return event->completed < event->recorded ? kNotReady : 0;
}

int locked_event_elapsed(float* milliseconds, void* start, void* end) {
  const struct event *from = event_of(start), *to = event_of(end);
  if (from == NULL || to == NULL || !from->timing || !to->timing) return kInvalidHandle;
  if (from->recorded == 0 || to->recorded == 0) return kInvalidHandle;
  if (from->completed < from->recorded || to->completed < to->recorded) return kNotReady;
  *milliseconds = (float)(to->at_ns - from->at_ns) / 1e6f;
  return 0;
}

int locked_stream_wait(void* handle, void* event_handle) {
  struct event* event = event_of(event_handle);
  if (event == NULL) return kInvalidHandle;
  return queue(handle, &(struct work){.what = kDoWait, .event = event, .ticket = event->recorded});
}

void locked_idle(void) {
  while (fake_books.pending > 0) pthread_cond_wait(&changed, &fake_lock);
}

/* Lets every stream run out, and forgets the events. */
void locked_forget_streams(void) {
  for (int i = 0; i < kMaxHandles; i++)
    if (streams[i] != NULL) streams[i]->closing = true;
  pthread_cond_broadcast(&changed);
  while (threads > 0) pthread_cond_wait(&changed, &fake_lock);
  for (int i = 0; i < kMaxHandles; i++) {
    free(events[i]);
    events[i] = NULL;
  }
}
