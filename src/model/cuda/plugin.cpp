// libood_segmentation_cuda.so: what libtorch's CUDA library offers and tch does not wrap, behind plugin.h.
//
// Built by `make cuda-plugin` with g++ alone, no nvcc, for one release of libtorch; opened by src/model/cuda.rs after
// libtorch_cuda.so. It has been compiled and linked, and has NEVER RUN ON A GPU: src/model/cuda/ therefore compares
// everything it does with libtorch's plain way before using it.
#include "plugin.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

namespace {

using c10::DeviceIndex;
using c10::cuda::CUDAGuard;
using c10::cuda::CUDAStream;

thread_local std::string last_error;

template <class F>
int guarded(F &&work) noexcept {
  try {
    work();
    return 0;
  } catch (const c10::OutOfMemoryError &error) {
    last_error = error.what_without_backtrace();
    return 2;
  } catch (const c10::Error &error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception &error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception that is not a std::exception";
  }
  return 1;
}

// CUDA's own event, with time stamps: ATen's needs the headers of cuSPARSE and cuBLAS.
struct Event {
  DeviceIndex device;
  cudaEvent_t event = nullptr;

  explicit Event(DeviceIndex device) : device(device) {
    const CUDAGuard here(device);
    C10_CUDA_CHECK(cudaEventCreate(&event));
  }
  Event(const Event &) = delete;
  ~Event() { C10_CUDA_CHECK_WARN(cudaEventDestroy(event)); }
  void record(CUDAStream stream) {
    const CUDAGuard here(device);
    C10_CUDA_CHECK(cudaEventRecord(event, stream.stream()));
  }
  void block(CUDAStream stream) {
    const CUDAGuard here(device);
    C10_CUDA_CHECK(cudaStreamWaitEvent(stream.stream(), event, 0));
  }
};

struct Stream {
  CUDAStream own;
  CUDAStream before;  // current until stream_enter
  DeviceIndex device_before;
  Event turn;  // orders the two
};

struct Graph {
  DeviceIndex device;
  c10::MempoolId_t pool;
  at::cuda::CUDAGraph graph;
};

CUDAStream on(void *stream, DeviceIndex device) {
  return stream ? static_cast<Stream *>(stream)->own : c10::cuda::getCurrentCUDAStream(device);
}

const char *error() { return last_error.c_str(); }

int stream_new(int device, void **stream) {
  return guarded([&] {
    const auto index = static_cast<DeviceIndex>(device);
    const auto own = c10::cuda::getStreamFromPool(/*isHighPriority=*/true, index);
    *stream = new Stream{own, own, index, Event(index)};
  });
}
void stream_free(void *stream) { guarded([&] { delete static_cast<Stream *>(stream); }); }
int stream_enter(void *stream) {
  return guarded([&] {
    auto &s = *static_cast<Stream *>(stream);
    s.before = c10::cuda::getCurrentCUDAStream(s.own.device_index());
    s.device_before = c10::cuda::current_device();
    s.turn.record(s.before);
    s.turn.block(s.own);
    c10::cuda::set_device(s.own.device_index());
    c10::cuda::setCurrentCUDAStream(s.own);
  });
}
int stream_leave(void *stream) {
  auto &s = *static_cast<Stream *>(stream);
  const int ordered = guarded([&] {
    s.turn.record(s.own);
    s.turn.block(s.before);
  });
  const int back = guarded([&] {  // in any case
    c10::cuda::setCurrentCUDAStream(s.before);
    c10::cuda::set_device(s.device_before);
  });
  return ordered ? ordered : back;
}

int event_new(int device, void **event) {
  return guarded([&] { *event = new Event(static_cast<DeviceIndex>(device)); });
}
void event_free(void *event) { guarded([&] { delete static_cast<Event *>(event); }); }
int event_record(void *event, void *stream) {
  return guarded([&] { auto &e = *static_cast<Event *>(event); e.record(on(stream, e.device)); });
}
int event_block(void *event, void *stream) {
  return guarded([&] { auto &e = *static_cast<Event *>(event); e.block(on(stream, e.device)); });
}
int event_sync(void *event) { return guarded([&] { C10_CUDA_CHECK(cudaEventSynchronize(static_cast<Event *>(event)->event)); }); }
int event_elapsed(void *from, void *to, float *milliseconds) {
  return guarded([&] {
    C10_CUDA_CHECK(cudaEventElapsedTime(milliseconds, static_cast<Event *>(from)->event, static_cast<Event *>(to)->event));
  });
}

int pinned_new(int device, size_t bytes, void **memory) {
  return guarded([&] {
    const CUDAGuard here(static_cast<DeviceIndex>(device));
    C10_CUDA_CHECK(cudaHostAlloc(memory, bytes, cudaHostAllocDefault));
  });
}
void pinned_free(void *memory) { guarded([&] { C10_CUDA_CHECK_WARN(cudaFreeHost(memory)); }); }
int copy(void *to, const void *from, size_t bytes, void *stream) {
  return guarded([&] {
    const auto &own = static_cast<Stream *>(stream)->own;
    const CUDAGuard here(own.device_index());
    C10_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, own.stream()));
  });
}

int graph_begin(int device, void *sibling, void **graph) {
  return guarded([&] {
    auto made = std::make_unique<Graph>();
    made->device = static_cast<DeviceIndex>(device);
    made->pool = sibling ? static_cast<Graph *>(sibling)->pool : at::cuda::graph_pool_handle();
    // Calls of other threads do not spoil the recording.
    made->graph.capture_begin(made->pool, cudaStreamCaptureModeThreadLocal);
    *graph = made.release();
  });
}
int graph_end(void *graph) {
  auto &g = *static_cast<Graph *>(graph);
  const int code = guarded([&] { g.graph.capture_end(); });
  if (code) {
    // libtorch leaves its allocator filling the pool where the recording itself has failed.
    const auto text = last_error;
    guarded([&] {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(g.device, g.pool);
      c10::cuda::CUDACachingAllocator::releasePool(g.device, g.pool);
    });
    last_error = text;
  }
  return code;
}
int graph_replay(void *graph) {
  return guarded([&] {
    auto &g = *static_cast<Graph *>(graph);
    const CUDAGuard here(g.device);
    g.graph.replay();
  });
}
void graph_free(void *graph) { guarded([&] { delete static_cast<Graph *>(graph); }); }

int cache_empty() { return guarded([] { c10::cuda::CUDACachingAllocator::emptyCache(); }); }

}  // namespace

const ood_segmentation_cuda *ood_segmentation_cuda_table() {
  static const ood_segmentation_cuda table = {
      OOD_SEGMENTATION_CUDA_ABI, error,
      stream_new, stream_free, stream_enter, stream_leave,
      event_new, event_free, event_record, event_block, event_sync, event_elapsed,
      pinned_new, pinned_free, copy,
      graph_begin, graph_end, graph_replay, graph_free, cache_empty,
  };
  return &table;
}
