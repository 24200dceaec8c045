// What the runtime says of itself and its devices, settings, and planted faults.
#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace {

u64 number(const char* name, u64 otherwise) {
  const char* v = getenv(name);
  return v ? strtoull(v, nullptr, 10) : otherwise;
}

const char* text(const char* name, const char* otherwise) {
  const char* v = getenv(name);
  return v ? v : otherwise;
}

thread_local int last_error, device;
std::atomic<u64> launches{0};
std::atomic<bool> lost{false}, hung{false};

}  // namespace

const Settings& settings() {
  static const Settings s = [] {
    const u32 cores = std::thread::hardware_concurrency();
    const u64 threads = number("HOSTHIP_THREADS", cores ? cores : 1);
    return Settings{
        text("HOSTHIP_ARCH", RF_WAVE == 64 ? "gfx90a" : "gfx1100"),
        (int)(number("HOSTHIP_DEVICES", 1) < 16 ? number("HOSTHIP_DEVICES", 1) : 16),
        (size_t)number("HOSTHIP_MEMORY_MB", 4096) << 20,
        (u32)(threads ? threads : 1),
        std::string(text("HOSTHIP_ORDER", "")) == "reverse",
        number("HOSTHIP_LAZY", 0) != 0,
        (size_t)number("HOSTHIP_ALIGN", 256),
        number("HOSTHIP_FAIL_MALLOC", 0),
        number("HOSTHIP_FAIL_LAUNCH", 0),
        number("HOSTHIP_LOSE_AT", 0),
        number("HOSTHIP_ABORT_AT", 0),
        number("HOSTHIP_HANG_AT", 0),
        text("HOSTHIP_WRONG_IN", ""),
        text("HOSTHIP_ABORT_IN", ""),
        text("HOSTHIP_HANG_IN", ""),
        (int)number("HOSTHIP_VERSION", 70'125'424),
    };
  }();
  return s;
}

int fail(int error) { return last_error = error; }
int device_state() { return lost ? LAUNCH_FAILURE : SUCCESS; }
int current_device() { return device; }
bool hangs() { return hung; }

int count_launch(const std::string& kernel) {
  const u64 n = ++launches;
  const Settings& s = settings();
  if (n == s.abort_at || kernel == s.abort_in) {
    fputs("Memory access fault by GPU node-1 (Agent handle: 0x55d0) on address 0x7f0000000000. "
          "Reason: Page not present or supervisor privilege.\n",
          stderr);
    abort();
  }
  if (s.lose_at && n >= s.lose_at) lost = true;
  if ((s.hang_at && n >= s.hang_at) || kernel == s.hang_in) hung = true;
  if (n == s.fail_launch) return LAUNCH_FAILURE;
  return device_state();
}

API int hipInit(unsigned) { return settings().devices ? SUCCESS : fail(NO_DEVICE); }
API int hipGetDeviceCount(int* n) { return (*n = settings().devices) ? SUCCESS : fail(NO_DEVICE); }
API int hipSetDevice(int d) {
  if (d < 0 || d >= settings().devices) return fail(INVALID_DEVICE);
  device = d;
  return device_state();
}
API int hipGetDevice(int* d) {
  *d = device;
  return SUCCESS;
}
API int hipRuntimeGetVersion(int* v) {
  *v = settings().version;
  return SUCCESS;
}
API int hipDriverGetVersion(int* v) { return hipRuntimeGetVersion(v); }
API int hipDeviceGetName(char* name, int len, int) {
  snprintf(name, len, "host device");
  return SUCCESS;
}
API int hipDeviceGetPCIBusId(char* id, int len, int d) {
  snprintf(id, len, "0000:%02x:00.0", d + 3);
  return SUCCESS;
}

// hipDeviceProp_tR0600 of HIP 6 and 7, 1472 bytes.
API int hipGetDevicePropertiesR0600(u8* p, int d) {
  if (d < 0 || d >= settings().devices) return fail(INVALID_DEVICE);
  memset(p, 0, 1472);
  hipDeviceGetName((char*)p, 256, d);
  const auto put = [p](size_t at, u64 v, size_t bytes) { memcpy(p + at, &v, bytes); };
  put(288, settings().memory, 8);
  put(308, RF_WAVE, 4);
  put(388, 48, 4);          // multiProcessorCount
  put(396, number("HOSTHIP_INTEGRATED", 0), 4);
  put(608, 1'250'000, 4);   // memoryClockRate, kHz
  put(612, 384, 4);         // memoryBusWidth
  put(616, 6 << 20, 4);     // l2CacheSize
  snprintf((char*)p + 1160, 256, "%s", settings().arch.c_str());
  return SUCCESS;
}

API int hipGetLastError() {
  const int e = last_error;
  last_error = SUCCESS;
  return e;
}
API const char* hipGetErrorName(int e) {
  switch (e) {
    case SUCCESS: return "hipSuccess";
    case INVALID_VALUE: return "hipErrorInvalidValue";
    case OUT_OF_MEMORY: return "hipErrorOutOfMemory";
    case INVALID_CONFIGURATION: return "hipErrorInvalidConfiguration";
    case NO_DEVICE: return "hipErrorNoDevice";
    case INVALID_DEVICE: return "hipErrorInvalidDevice";
    case INVALID_IMAGE: return "hipErrorInvalidImage";
    case NO_BINARY_FOR_GPU: return "hipErrorNoBinaryForGpu";
    case INVALID_HANDLE: return "hipErrorInvalidHandle";
    case NOT_FOUND: return "hipErrorNotFound";
    case NOT_READY: return "hipErrorNotReady";
    case LAUNCH_FAILURE: return "hipErrorLaunchFailure";
    case CAPTURE_UNSUPPORTED: return "hipErrorStreamCaptureUnsupported";
    default: return "hipErrorUnknown";
  }
}
API const char* hipGetErrorString(int e) { return hipGetErrorName(e); }
