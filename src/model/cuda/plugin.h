/* What src/model/cuda.rs and libood_segmentation_cuda.so agree on: plain C, no type of libtorch or CUDA.
 *
 * Every function returns 0, or 1 for an error, or 2 where memory ran out; `error` is then its text. None throws. Objects
 * belong to a device and may be used by any thread, one at a time. A stream of NULL is the calling thread's current one,
 * on which libtorch's own operations run.
 */
#ifndef OOD_SEGMENTATION_CUDA_H
#define OOD_SEGMENTATION_CUDA_H

#include <stddef.h>
#include <stdint.h>

/* To be raised with every change of this file; `ABI` in src/model/cuda.rs is the same number. */
#define OOD_SEGMENTATION_CUDA_ABI 1

struct ood_segmentation_cuda {
  uint32_t abi;
  /* Of the last call of this thread that failed; valid until its next one. */
  const char *(*error)(void);

  int (*stream_new)(int device, void **stream);
  void (*stream_free)(void *stream);
  /* Makes `stream` the thread's current one; it waits for the work of the one before. */
  int (*stream_enter)(void *stream);
  /* Makes the one before current again; it waits for the work of `stream`. */
  int (*stream_leave)(void *stream);

  int (*event_new)(int device, void **event);
  void (*event_free)(void *event);
  /* After the work queued on `stream` so far. */
  int (*event_record)(void *event, void *stream);
  /* Work queued on `stream` from now on waits for the event as recorded last; one never recorded is no wait. */
  int (*event_block)(void *event, void *stream);
  /* The thread waits. */
  int (*event_sync)(void *event);
  /* Between two events that are over. */
  int (*event_elapsed)(void *from, void *to, float *milliseconds);

  /* Page-locked host memory, which the device reads and writes by itself. */
  int (*pinned_new)(int device, size_t bytes, void **memory);
  void (*pinned_free)(void *memory);
  /* Queues a copy between host and device on `stream`, which is not NULL, and does not wait for it. */
  int (*copy)(void *to, const void *from, size_t bytes, void *stream);

  /* Records what is queued on the current stream, which must be one of `stream_new`, into a new graph instead of
   * running it. With `sibling`, a finished graph or NULL, it shares memory for intermediate results. */
  int (*graph_begin)(int device, void *sibling, void **graph);
  int (*graph_end)(void *graph);
  /* Queues what was recorded on the current stream, on the memory it was recorded with. */
  int (*graph_replay)(void *graph);
  void (*graph_free)(void *graph);

  /* Gives back the device memory that libtorch keeps for later and nothing uses. */
  int (*cache_empty)(void);
};

/* The plug-in's one symbol. */
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default"))) const struct ood_segmentation_cuda *ood_segmentation_cuda_table(void);

#endif
