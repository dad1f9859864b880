// SPDX-License-Identifier: Apache-2.0
//
// What is called of the GPU libraries: one table for each kind, every function with its declaration
// beside it, for both runtimes. Streams, events, contexts and device addresses are opaque 64-bit
// numbers; result enumerations are ints, 0 is success in all of them. The names are those that the
// libraries export, which in libcuda end in _v2 where a first version is kept for old programs.
//
// Sources: cuda_runtime_api.h of CUDA 11.8, 12.9 and 13, cuda.h of 12.9, hip_runtime_api.h of HIP 6.

import type { SymbolTable } from "./symbols.ts";

/** libcudart.so of CUDA 11, 12 and 13. */
export const CUDART_SYMBOLS = {
  cudaGetDeviceCount: {
    c: "cudaError_t cudaGetDeviceCount(int *count)",
    args: ["bytes"],
    result: "i32",
  },
  cudaSetDevice: { c: "cudaError_t cudaSetDevice(int device)", args: ["i32"], result: "i32" },
  // The struct differs between versions; its name and totalGlobalMem lie where they always did.
  cudaGetDeviceProperties: {
    c: "cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  cudaDeviceGetAttribute: {
    c: "cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  cudaDeviceGetPCIBusId: {
    c: "cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  cudaDriverGetVersion: {
    c: "cudaError_t cudaDriverGetVersion(int *driverVersion)",
    args: ["bytes"],
    result: "i32",
  },
  cudaRuntimeGetVersion: {
    c: "cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)",
    args: ["bytes"],
    result: "i32",
  },
  cudaMalloc: {
    c: "cudaError_t cudaMalloc(void **devPtr, size_t size)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  cudaFree: { c: "cudaError_t cudaFree(void *devPtr)", args: ["usize"], result: "i32" },
  cudaHostAlloc: {
    c: "cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned int flags)",
    args: ["bytes", "usize", "u32"],
    result: "i32",
  },
  cudaFreeHost: { c: "cudaError_t cudaFreeHost(void *ptr)", args: ["usize"], result: "i32" },
  cudaMemGetInfo: {
    c: "cudaError_t cudaMemGetInfo(size_t *free, size_t *total)",
    args: ["bytes", "bytes"],
    result: "i32",
  },
  cudaPointerGetAttributes: {
    c: "cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  cudaMemcpyAsync: {
    c: "cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream)",
    args: ["usize", "usize", "usize", "i32", "usize"],
    result: "i32",
  },
  cudaMemcpyPeerAsync: {
    c: "cudaError_t cudaMemcpyPeerAsync(void *dst, int dstDevice, const void *src, int srcDevice, size_t count, cudaStream_t stream)",
    args: ["usize", "i32", "usize", "i32", "usize", "usize"],
    result: "i32",
  },
  cudaMemcpy2DAsync: {
    c: "cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t stream)",
    args: ["usize", "usize", "usize", "usize", "usize", "usize", "i32", "usize"],
    result: "i32",
  },
  cudaMemsetAsync: {
    c: "cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)",
    args: ["usize", "i32", "usize", "usize"],
    result: "i32",
  },
  cudaStreamCreateWithFlags: {
    c: "cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  cudaStreamDestroy: {
    c: "cudaError_t cudaStreamDestroy(cudaStream_t stream)",
    args: ["usize"],
    result: "i32",
  },
  cudaStreamWaitEvent: {
    c: "cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)",
    args: ["usize", "usize", "u32"],
    result: "i32",
  },
  cudaEventCreateWithFlags: {
    c: "cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  cudaEventDestroy: {
    c: "cudaError_t cudaEventDestroy(cudaEvent_t event)",
    args: ["usize"],
    result: "i32",
  },
  cudaEventRecord: {
    c: "cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)",
    args: ["usize", "usize"],
    result: "i32",
  },
  cudaEventQuery: {
    c: "cudaError_t cudaEventQuery(cudaEvent_t event)",
    args: ["usize"],
    result: "i32",
  },
  cudaEventElapsedTime: {
    c: "cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)",
    args: ["bytes", "usize", "usize"],
    result: "i32",
  },
  cudaGetErrorName: {
    c: "const char *cudaGetErrorName(cudaError_t error)",
    args: ["i32"],
    result: "usize",
  },
  cudaGetErrorString: {
    c: "const char *cudaGetErrorString(cudaError_t error)",
    args: ["i32"],
    result: "usize",
  },
  cudaGetLastError: { c: "cudaError_t cudaGetLastError(void)", args: [], result: "i32" },
} as const satisfies SymbolTable;

/** libamdhip64.so of HIP 6 and newer. */
export const HIP_SYMBOLS = {
  hipGetDeviceCount: {
    c: "hipError_t hipGetDeviceCount(int *count)",
    args: ["bytes"],
    result: "i32",
  },
  hipSetDevice: { c: "hipError_t hipSetDevice(int deviceId)", args: ["i32"], result: "i32" },
  hipDeviceGetName: {
    c: "hipError_t hipDeviceGetName(char *name, int len, hipDevice_t device)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  hipDeviceTotalMem: {
    c: "hipError_t hipDeviceTotalMem(size_t *bytes, hipDevice_t device)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  hipDeviceGetPCIBusId: {
    c: "hipError_t hipDeviceGetPCIBusId(char *pciBusId, int len, int device)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  hipDriverGetVersion: {
    c: "hipError_t hipDriverGetVersion(int *driverVersion)",
    args: ["bytes"],
    result: "i32",
  },
  hipRuntimeGetVersion: {
    c: "hipError_t hipRuntimeGetVersion(int *runtimeVersion)",
    args: ["bytes"],
    result: "i32",
  },
  hipMalloc: {
    c: "hipError_t hipMalloc(void **ptr, size_t size)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  hipFree: { c: "hipError_t hipFree(void *ptr)", args: ["usize"], result: "i32" },
  hipHostMalloc: {
    c: "hipError_t hipHostMalloc(void **ptr, size_t size, unsigned int flags)",
    args: ["bytes", "usize", "u32"],
    result: "i32",
  },
  hipHostFree: { c: "hipError_t hipHostFree(void *ptr)", args: ["usize"], result: "i32" },
  hipMemGetInfo: {
    c: "hipError_t hipMemGetInfo(size_t *free, size_t *total)",
    args: ["bytes", "bytes"],
    result: "i32",
  },
  hipPointerGetAttributes: {
    c: "hipError_t hipPointerGetAttributes(hipPointerAttribute_t *attributes, const void *ptr)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  hipMemcpyAsync: {
    c: "hipError_t hipMemcpyAsync(void *dst, const void *src, size_t sizeBytes, hipMemcpyKind kind, hipStream_t stream)",
    args: ["usize", "usize", "usize", "i32", "usize"],
    result: "i32",
  },
  hipMemcpyPeerAsync: {
    c: "hipError_t hipMemcpyPeerAsync(void *dst, int dstDeviceId, const void *src, int srcDevice, size_t sizeBytes, hipStream_t stream)",
    args: ["usize", "i32", "usize", "i32", "usize", "usize"],
    result: "i32",
  },
  hipMemcpy2DAsync: {
    c: "hipError_t hipMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch, size_t width, size_t height, hipMemcpyKind kind, hipStream_t stream)",
    args: ["usize", "usize", "usize", "usize", "usize", "usize", "i32", "usize"],
    result: "i32",
  },
  hipMemsetAsync: {
    c: "hipError_t hipMemsetAsync(void *dst, int value, size_t sizeBytes, hipStream_t stream)",
    args: ["usize", "i32", "usize", "usize"],
    result: "i32",
  },
  hipStreamCreateWithFlags: {
    c: "hipError_t hipStreamCreateWithFlags(hipStream_t *stream, unsigned int flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  hipStreamDestroy: {
    c: "hipError_t hipStreamDestroy(hipStream_t stream)",
    args: ["usize"],
    result: "i32",
  },
  hipStreamWaitEvent: {
    c: "hipError_t hipStreamWaitEvent(hipStream_t stream, hipEvent_t event, unsigned int flags)",
    args: ["usize", "usize", "u32"],
    result: "i32",
  },
  hipEventCreateWithFlags: {
    c: "hipError_t hipEventCreateWithFlags(hipEvent_t *event, unsigned int flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  hipEventDestroy: {
    c: "hipError_t hipEventDestroy(hipEvent_t event)",
    args: ["usize"],
    result: "i32",
  },
  hipEventRecord: {
    c: "hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream)",
    args: ["usize", "usize"],
    result: "i32",
  },
  hipEventQuery: {
    c: "hipError_t hipEventQuery(hipEvent_t event)",
    args: ["usize"],
    result: "i32",
  },
  hipEventElapsedTime: {
    c: "hipError_t hipEventElapsedTime(float *ms, hipEvent_t start, hipEvent_t stop)",
    args: ["bytes", "usize", "usize"],
    result: "i32",
  },
  hipGetErrorName: {
    c: "const char *hipGetErrorName(hipError_t hip_error)",
    args: ["i32"],
    result: "usize",
  },
  hipGetErrorString: {
    c: "const char *hipGetErrorString(hipError_t hipError)",
    args: ["i32"],
    result: "usize",
  },
  hipGetLastError: { c: "hipError_t hipGetLastError(void)", args: [], result: "i32" },
} as const satisfies SymbolTable;

/** libcuda.so.1, the driver. */
export const CUDA_DRIVER_SYMBOLS = {
  cuInit: { c: "CUresult cuInit(unsigned int Flags)", args: ["u32"], result: "i32" },
  cuDriverGetVersion: {
    c: "CUresult cuDriverGetVersion(int *driverVersion)",
    args: ["bytes"],
    result: "i32",
  },
  cuDeviceGetCount: { c: "CUresult cuDeviceGetCount(int *count)", args: ["bytes"], result: "i32" },
  cuDeviceGet: {
    c: "CUresult cuDeviceGet(CUdevice *device, int ordinal)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  cuDeviceGetName: {
    c: "CUresult cuDeviceGetName(char *name, int len, CUdevice dev)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  cuDeviceTotalMem_v2: {
    c: "CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  cuDeviceGetAttribute: {
    c: "CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  cuDeviceGetPCIBusId: {
    c: "CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)",
    args: ["bytes", "i32", "i32"],
    result: "i32",
  },
  cuDevicePrimaryCtxRetain: {
    c: "CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  cuDevicePrimaryCtxRelease_v2: {
    c: "CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev)",
    args: ["i32"],
    result: "i32",
  },
  cuCtxPushCurrent_v2: {
    c: "CUresult cuCtxPushCurrent_v2(CUcontext ctx)",
    args: ["usize"],
    result: "i32",
  },
  cuCtxPopCurrent_v2: {
    c: "CUresult cuCtxPopCurrent_v2(CUcontext *pctx)",
    args: ["bytes"],
    result: "i32",
  },
  cuMemAlloc_v2: {
    c: "CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  cuMemFree_v2: { c: "CUresult cuMemFree_v2(CUdeviceptr dptr)", args: ["usize"], result: "i32" },
  cuMemHostAlloc: {
    c: "CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)",
    args: ["bytes", "usize", "u32"],
    result: "i32",
  },
  cuMemFreeHost: { c: "CUresult cuMemFreeHost(void *p)", args: ["usize"], result: "i32" },
  cuMemGetInfo_v2: {
    c: "CUresult cuMemGetInfo_v2(size_t *free, size_t *total)",
    args: ["bytes", "bytes"],
    result: "i32",
  },
  cuPointerGetAttribute: {
    c: "CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)",
    args: ["bytes", "i32", "usize"],
    result: "i32",
  },
  cuMemcpyHtoDAsync_v2: {
    c: "CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)",
    args: ["usize", "usize", "usize", "usize"],
    result: "i32",
  },
  cuMemcpyDtoHAsync_v2: {
    c: "CUresult cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)",
    args: ["usize", "usize", "usize", "usize"],
    result: "i32",
  },
  cuMemcpyDtoDAsync_v2: {
    c: "CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)",
    args: ["usize", "usize", "usize", "usize"],
    result: "i32",
  },
  cuMemcpyPeerAsync: {
    c: "CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount, CUstream hStream)",
    args: ["usize", "usize", "usize", "usize", "usize", "usize"],
    result: "i32",
  },
  cuMemcpy2DAsync_v2: {
    c: "CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)",
    args: ["bytes", "usize"],
    result: "i32",
  },
  cuMemsetD8Async: {
    c: "CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)",
    args: ["usize", "u32", "usize", "usize"],
    result: "i32",
  },
  cuStreamCreate: {
    c: "CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  cuStreamDestroy_v2: {
    c: "CUresult cuStreamDestroy_v2(CUstream hStream)",
    args: ["usize"],
    result: "i32",
  },
  cuStreamWaitEvent: {
    c: "CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)",
    args: ["usize", "usize", "u32"],
    result: "i32",
  },
  cuEventCreate: {
    c: "CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)",
    args: ["bytes", "u32"],
    result: "i32",
  },
  cuEventDestroy_v2: {
    c: "CUresult cuEventDestroy_v2(CUevent hEvent)",
    args: ["usize"],
    result: "i32",
  },
  cuEventRecord: {
    c: "CUresult cuEventRecord(CUevent hEvent, CUstream hStream)",
    args: ["usize", "usize"],
    result: "i32",
  },
  cuEventQuery: { c: "CUresult cuEventQuery(CUevent hEvent)", args: ["usize"], result: "i32" },
  cuEventElapsedTime: {
    c: "CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)",
    args: ["bytes", "usize", "usize"],
    result: "i32",
  },
  cuGetErrorName: {
    c: "CUresult cuGetErrorName(CUresult error, const char **pStr)",
    args: ["i32", "bytes"],
    result: "i32",
  },
  cuGetErrorString: {
    c: "CUresult cuGetErrorString(CUresult error, const char **pStr)",
    args: ["i32", "bytes"],
    result: "i32",
  },
} as const satisfies SymbolTable;
