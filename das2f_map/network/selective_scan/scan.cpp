// Selective scan, forward and backward, in float32 for the CPU.
//
//     h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        y_t = C_t . h_t + D x_t
//
// Lanes are neighbouring channels: every product is vertical, the N states of a group of channels stay in
// registers (AVX-512) or first-level cache, and no state is written to memory in the forward pass.
// The backward pass keeps one state of every kChunk steps and recomputes the rest.
//
// Plain C interface, no dependency but the C++ library. On x86-64 the bodies are compiled once per
// instruction set and chosen at run time; elsewhere the compiler's target decides (NEON on Arm).

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "workers.h"

#if defined(__x86_64__) || defined(_M_X64)
#define DAS2F_X86 1
#endif
#define ALWAYS_INLINE inline __attribute__((always_inline))

extern "C" {
// All arrays are contiguous float32; shapes as in the Python wrapper, A as (K, N, D).
struct Das2fScan {
    int64_t batch, directions, steps, width, states;
    const float *x;        // (B, L, D)
    const float *dt;       // (B, K, L, D)
    const float *a;        // (K, N, D)
    const float *b;        // (B, K, L, N)
    const float *c;        // (B, K, L, N)
    const float *d;        // (K, D)
    const int64_t *order;  // (K, L)
    float *y;              // (B, K, L, D), forward only
    const float *grad_y;   // (B, K, L, D), backward only, as is all below
    float *grad_x;         // (B, K, L, D), to be summed over K
    float *grad_dt;        // (B, K, L, D)
    float *grad_a;         // (B, K, N, D), to be summed over B
    float *grad_b;         // (B, K, L, N)
    float *grad_c;         // (B, K, L, N)
    float *grad_d;         // (B, K, D), to be summed over B
};
}

namespace {

constexpr int kMaxStates = 64;
constexpr int kStateStep = 8;  // the caller pads the states with zeros to a multiple of this
constexpr int kChunk = 8;
constexpr int kWidthStep = 16;
constexpr float kLog2e = 1.4426950408889634f;

// A vector is one register of 512, 256 or (elsewhere) 128 bits: compilers split wider vectors badly.
#ifdef DAS2F_X86
namespace lanes16 {
constexpr int kLanes = 16;
#include "scan_body.h"
}  // namespace lanes16
namespace lanes8 {
constexpr int kLanes = 8;
#include "scan_body.h"
}  // namespace lanes8
__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))) void run_avx512(
    const Das2fScan &s, bool backward, std::atomic<int64_t> &next) {
    lanes16::run_range(s, backward, next);
}
__attribute__((target("avx2,fma"))) void run_avx2(
    const Das2fScan &s, bool backward, std::atomic<int64_t> &next) {
    lanes8::run_range(s, backward, next);
}
#endif
namespace lanes4 {
constexpr int kLanes = 4;
#include "scan_body.h"
}  // namespace lanes4
void run_plain(const Das2fScan &s, bool backward, std::atomic<int64_t> &next) {
    lanes4::run_range(s, backward, next);
}

typedef void (*Runner)(const Das2fScan &, bool, std::atomic<int64_t> &);

Runner runner_for(int level) {
#ifdef DAS2F_X86
    if (level == 2) return run_avx512;
    if (level == 1) return run_avx2;
#endif
    (void)level;
    return run_plain;
}

}  // namespace

extern "C" {

#if defined(_WIN32)
#define DAS2F_EXPORT __declspec(dllexport)
#else
#define DAS2F_EXPORT __attribute__((visibility("default")))
#endif

// Changes whenever Das2fScan or the meaning of an argument does.
DAS2F_EXPORT int das2f_scan_abi(void) { return 2; }

// The best instruction set of this processor that the library has code for: 0 portable, 1 AVX2, 2 AVX-512.
DAS2F_EXPORT int das2f_scan_level(void) {
#ifdef DAS2F_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// 0 when done; 1 when the sizes are not supported; 2 when memory ran out.
DAS2F_EXPORT int das2f_scan_run(const Das2fScan *s, int backward, int threads, int level) {
    if (s->width % kWidthStep || s->states < 1 || s->states % kStateStep || s->states > kMaxStates) return 1;
    Runner run = runner_for(level);
    std::atomic<int64_t> next{0};
    const bool done = run_on_threads(threads, [&] { run(*s, backward != 0, next); });
    return done ? 0 : 2;
}
}
