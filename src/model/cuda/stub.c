/* The plug-in's ABI on host memory, for the tests: a device that is as late as CUDA may be.
 *
 * A queued copy happens only when somebody waits for it, so bytes that were not waited for are the wrong ones. libtorch's
 * own operations, the "current stream", run at once. Ticks of that stream stand for its progress: a copy over device
 * memory that it may still read, or out of memory that it may still write, is an error, whatever the bytes are.
 * A graph's replay does nothing, which is wrong, unless the test says what it is to do.
 */
#define _POSIX_C_SOURCE 199309L
#include "plugin.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef STUB_ABI
#define STUB_ABI OOD_SEGMENTATION_CUDA_ABI
#endif

enum kind { COPY, RECORD, BLOCK };
struct event;
struct stream;
struct op { enum kind kind; void *to; const void *from; size_t bytes; struct event *event; uint64_t version; struct op *next; };
struct event { uint64_t recorded, done, tick, after; struct stream *stream; double ms; };
struct stream { struct op *head, **tail; uint64_t seen, copies; };
/* `copy` is the number of the stream's copy out of it that the host has not waited for. */
struct pinned { char *memory; size_t bytes; struct stream *stream; uint64_t copy; };
struct target { void *to; struct stream *stream; uint64_t consumed; };
#define NOT_YET (UINT64_MAX - 1) /* copied, and nobody waited for it */

static _Thread_local const char *text = "";
static _Thread_local uint64_t tick;
static _Thread_local struct pinned pinned[64];
static _Thread_local struct target targets[256];
static _Thread_local size_t graphs;
static _Thread_local void (*on_replay)(size_t graph);

static int fail(const char *what) { text = what; return 1; }
static const char *error(void) { return text; }

static void finish(struct event *event, uint64_t version) {
  while (event->done < version) {
    struct stream *stream = event->stream;
    struct op *op = stream->head;
    stream->head = op->next;
    if (!stream->head) stream->tail = &stream->head;
    if (op->kind == COPY) memcpy(op->to, op->from, op->bytes);
#ifdef STUB_SPOILS_COPIES
    if (op->kind == COPY) ((char *)op->to)[op->bytes / 2] ^= 1;
#endif
    if (op->kind == BLOCK) finish(op->event, op->version);
    if (op->kind == RECORD) op->event->done = op->version;
    free(op);
  }
}
static void push(struct stream *stream, struct op op) {
  struct op *own = malloc(sizeof op);
  *own = op;
  own->next = NULL;
  *stream->tail = own;
  stream->tail = &own->next;
}

static int stream_new(int device, void **stream) {
  (void)device;
  struct stream *made = calloc(1, sizeof *made);
  made->tail = &made->head;
  *stream = made;
  return 0;
}
static void stream_free(void *stream) { free(stream); } /* a queue that nobody waits for any more is lost with it */
static int stream_enter(void *stream) { (void)stream; return 0; }
static int stream_leave(void *stream) { (void)stream; return 0; }

static int event_new(int device, void **event) { (void)device; *event = calloc(1, sizeof(struct event)); return 0; }
static void event_free(void *event) { free(event); }
static int event_record(void *event, void *stream) {
  struct event *e = event;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  e->ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
  e->stream = stream;
  e->recorded++;
  if (stream) {
    e->after = e->stream->copies;
    push(stream, (struct op){.kind = RECORD, .event = e, .version = e->recorded});
  } else {
    e->done = e->recorded;
    e->tick = ++tick;
  }
  return 0;
}
static int event_block(void *event, void *stream) {
  struct event *e = event;
  if (stream) {
    struct stream *s = stream;
    if (e->tick > s->seen) s->seen = e->tick;
    push(s, (struct op){.kind = BLOCK, .event = e, .version = e->recorded});
    return 0;
  }
  finish(e, e->recorded);
  ++tick;
  for (struct target *t = targets; t < targets + 256; t++)
    if (t->stream == e->stream && t->consumed == NOT_YET) t->consumed = tick; /* may be read from now on */
  return 0;
}
static int event_sync(void *event) {
  struct event *e = event;
  finish(e, e->recorded);
  for (struct pinned *p = pinned; p < pinned + 64; p++)
    if (p->stream == e->stream && p->copy <= e->after) p->copy = 0;
  return 0;
}
static int event_elapsed(void *from, void *to, float *milliseconds) {
  *milliseconds = (float)(((struct event *)to)->ms - ((struct event *)from)->ms);
  return 0;
}

static int pinned_new(int device, size_t bytes, void **memory) {
  (void)device;
  for (struct pinned *p = pinned; p < pinned + 64; p++)
    if (!p->memory) {
      *p = (struct pinned){*memory = malloc(bytes), bytes, NULL, 0};
      return 0;
    }
  text = "no more than 64 buffers";
  return 2;
}
static void pinned_free(void *memory) {
  for (struct pinned *p = pinned; p < pinned + 64; p++)
    if (p->memory == memory) p->memory = NULL;
  free(memory);
}
static struct pinned *is_pinned(const void *at, size_t bytes) {
  for (struct pinned *p = pinned; p < pinned + 64; p++)
    if (p->memory && (const char *)at >= p->memory && (const char *)at + bytes <= p->memory + p->bytes) return p;
  return NULL;
}
static int copy(void *to, const void *from, size_t bytes, void *stream) {
  struct stream *s = stream;
  struct pinned *up = is_pinned(from, bytes), *down = is_pinned(to, bytes);
  if (!up == !down) return fail("not a copy between pinned and device memory");
  if (down && s->seen != tick) return fail("copied out before it was computed");
  if (up && up->copy) return fail("filled again before the host knows that its copy is over");
  if (up) {
    up->stream = s;
    up->copy = ++s->copies;
    struct target *t = targets;
    while (t->to && t->to != to && t < targets + 255) t++;
    if (t->to == to && s->seen <= t->consumed) return fail("overwritten while it may still be read");
    *t = (struct target){to, s, NOT_YET};
  }
  push(s, (struct op){.kind = COPY, .to = to, .from = from, .bytes = bytes});
  return 0;
}

static int graph_begin(int device, void *sibling, void **graph) {
  (void)device, (void)sibling;
  size_t *made = malloc(sizeof *made);
  *made = graphs++;
  *graph = made;
  return 0;
}
static int graph_end(void *graph) { (void)graph; return 0; }
static int graph_replay(void *graph) {
  if (on_replay) on_replay(*(size_t *)graph);
  return 0;
}
static void graph_free(void *graph) { free(graph); }
static int cache_empty(void) { return 0; }

/* For the test: what this thread's replays do, given the graph's number; the next one recorded is number 0. */
void stub_on_replay(void (*work)(size_t graph)) {
  on_replay = work;
  graphs = 0;
}

const struct ood_segmentation_cuda *ood_segmentation_cuda_table(void) {
  static const struct ood_segmentation_cuda table = {
      STUB_ABI, error,
      stream_new, stream_free, stream_enter, stream_leave,
      event_new, event_free, event_record, event_block, event_sync, event_elapsed,
      pinned_new, pinned_free, copy,
      graph_begin, graph_end, graph_replay, graph_free, cache_empty,
  };
  return &table;
}
