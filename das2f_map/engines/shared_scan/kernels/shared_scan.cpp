// The shared scan, later stages and the tail of a patch, float32 (a tail's products also bfloat16, and on AMX), for the CPU.
//
// ../torch_path.py describes the scan and does the same in torch operations; ../maps.py makes the inputs. Two
// entry points: das2f_shared_scan scans every patch of a block in all four directions, das2f_shared_tail turns the
// scanned tokens into logits, through a second stage where the network has one (later_stage.h).
//
// In the scan, lanes are neighbouring channels: all products are vertical, and a row's maps stay in first-level cache
// while the patches that share the row use them. In the tail, lanes are neighbouring tokens, so norms over channels
// need no sums across lanes; with a matrix unit, lanes are channels again.
//
// Plain C interface, no dependency but the C++ library. On x86-64 the bodies are compiled once per instruction set and
// chosen at run time; elsewhere the compiler's target decides (NEON on Arm).

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../../network/selective_scan/workers.h"

#if defined(__x86_64__) || defined(_M_X64)
#define DAS2F_X86 1
#endif
#define ALWAYS_INLINE inline __attribute__((always_inline))
// Has a value read into a register once: compilers would rather read it from memory for every use, and reading is what
// some loops have no time for.
#if defined(DAS2F_X86)
#define DAS2F_KEEP(value) asm("" : "+v"(value))
#elif defined(__aarch64__)
#define DAS2F_KEEP(value) asm("" : "+w"(value))
#else
#define DAS2F_KEEP(value)
#endif

extern "C" {
// Branches: SPVM of MS, SPVM of PAN, CMDA of MS, CMDA of PAN. Arrays are contiguous float32 unless said otherwise.
struct Das2fSharedBlock {
    int64_t rows, cols;       // outputs
    const float *scan[4];     // (row entries, column entries, 512): x, then for each direction dt raw, B, C
    const float *gate[4];     // (row entries, column entries, 64), one class narrower
    const float *tokens[2];   // MS and PAN, laid out as the gates
    void *y;                  // scratch of das2f_shared_scratch() bytes: the scanned tokens, float32 or float16
    int64_t patches;          // wanted outputs
    const int32_t *wanted;    // (patches,) row * cols + column
    float *logits;            // (patches, classes), or null
};
// The weights of a stage, for each branch. In bfloat16 the packed ones are bfloat16, too. Those from `gate` on belong to the
// maps of the first stage; only later stages have them here.
struct Das2fStageWeights {
    int64_t hidden, rank;
    const float *decay[4];          // (4, 24, 64): A log2(e) of the parameters that the branch is scanned with
    const float *skip[4];           // (64): D, summed over the directions
    const float *norm[4];           // (2, 64): weight and bias
    const float *out_norm[4];       // (2, 64)
    const void *project[4];         // packed (64 outputs, 64 inputs); in another order for AMX
    const void *mlp_in[4];          // packed (hidden, 64)
    const float *mlp_in_bias[4];    // (hidden)
    const void *mlp_out[4];         // packed (64, hidden); for AMX one step of the hidden layer after the other
    const float *mlp_out_bias[4];   // (64)
    const float *fusion_norm;       // (2, 16)
    const float *fusion_gate[2];    // packed (16, 32)
    const float *fusion_bias[2];    // (16)
    const void *gate[4];            // packed (64 inputs, 64 outputs)
    const float *taps[4];           // (4, 10): a channel of the convolution, 3 x 3 and the bias
    const void *embed[4];           // packed (64 inputs, 64 outputs)
    const float *embed_bias[4];     // (64)
    const void *parameters[4];      // packed (4, 64 inputs, outputs): B, C, dt before its product, zeros to whole vectors
    const float *dt[4];             // packed (4, rank inputs, 64 outputs); in bfloat16 a part of `parameters`
    const float *dt_bias[4];        // (4, 64); in bfloat16 (4, outputs of `parameters`)
};
struct Das2fSharedWeights {
    int64_t classes;
    int64_t half;                   // scanned tokens are float16
    int64_t bf16;                   // products are bfloat16; scanned tokens are float16 then
    int64_t stages;
    Das2fStageWeights stage[2];
    const float *classifier;        // (tiles of tokens, classes, 64, tokens of a tile)
    const float *classifier_bias;   // (classes)
};
}

namespace {

constexpr int kPatch = 16;
constexpr int kTokens = kPatch * kPatch;
constexpr int kWidth = 64;
constexpr int kStates = 24;
constexpr int kDirections = 4;
constexpr int kDirection = kWidth + 2 * kStates;               // floats of a direction in a scan map
constexpr int kScanMap = kWidth + kDirections * kDirection;    // floats of an entry
constexpr int kStrip = 16;  // most neighbouring starts whose exponentials are kept
constexpr int kLeastStrip = 4;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kEps = 1e-5f;

// (2^f - 1) / f on [-1/2, 1/2]. These coefficients minimise the largest relative error of 1 + f (...), 9.2e-8.
constexpr float kExp2[5] = {
    6.931469776e-01f, 2.402224208e-01f, 5.550733744e-02f, 9.671512661e-03f, 1.326472690e-03f};
// 2^(f - 1/2) on [0, 1] to 1.7e-7, and to 1.02e-4 for bfloat16. Computed in float32 both are exactly 1 at 1/2, where decays
// of no time are.
constexpr float kShiftedExp2[6] = {
    7.071067095e-01f, 4.901338816e-01f, 1.698105484e-01f, 3.948048875e-02f, 6.355331745e-03f, 1.326472498e-03f};
constexpr float kCoarseShiftedExp2[4] = {7.070351839e-01f, 4.923286438e-01f, 1.596975625e-01f, 5.500893295e-02f};

// Distances in y, in numbers of `size` bytes. Neighbouring patches are an odd number of cache lines apart, so that values which are used
// at the same time do not fall into the same cache set.
struct Layout {
    int64_t patch, row, group, branch;
    Layout(int64_t rows, int64_t cols, int lanes, int size) {
        const int line = 64 / size;
        patch = kTokens * lanes + line;
        row = cols * patch + line;
        group = rows * row;
        branch = group * (kWidth / lanes);
    }
};

// A part of a block's scan: along its rows (axis 0), along its columns (1) or both (-1), in strips of `strip` starts.
struct Pass {
    int axis, strip;
};

// The branch whose parameters a branch is scanned with: CMDA has those of the other modality.
constexpr int parameters_of(int branch) { return branch == 2 ? 3 : branch == 3 ? 2 : branch; }

// How far the position classes of a scan map reach into the patch: 2 for MS, 1 for PAN.
constexpr int scan_edge(int modality) { return modality == 0 ? 2 : 1; }

// Phi(u) - 1/2 on 16 intervals one kPhiStep wide, in the middle of them 0, kPhiStep … 15 kPhiStep: in each a polynomial
// through its Chebyshev nodes.
constexpr float kPhiStep = 0.36f;
template <int kDegree>
struct PhiTable {
    static constexpr int degree = kDegree;
    alignas(64) float coefficient[kDegree + 1][16];
    PhiTable() {
        constexpr int n = kDegree + 1;
        for (int i = 0; i < 16; ++i) {
            double node[n], value[n];
            for (int j = 0; j < n; ++j) {
                node[j] = 0.5 * std::cos((2 * j + 1) * 3.14159265358979323846 / (2 * n));
                value[j] = 0.5 * std::erf((i + node[j]) * double(kPhiStep) / std::sqrt(2.0));
            }
            // Newton's divided differences, then expanded.
            for (int k = 1; k < n; ++k)
                for (int j = n - 1; j >= k; --j) value[j] = (value[j] - value[j - 1]) / (node[j] - node[j - k]);
            double c[n] = {value[n - 1]};
            for (int k = n - 2; k >= 0; --k) {
                for (int j = n - 1; j > 0; --j) c[j] = c[j - 1] - node[k] * c[j];
                c[0] = value[k] - node[k] * c[0];
            }
            for (int k = 0; k < n; ++k) coefficient[k][i] = static_cast<float>(c[k]);
        }
    }
};
const PhiTable<4> kPhi;
// (Phi(u) - 1/2) / u on [0, kPhiMost] in powers of 1 - 2 (u / kPhiMost)^2. The error of u Phi(u) is below 1e-7 of
// max(u, 1), of Phi(u) below 1.6e-7. Terms are positive where u is small and fall quickly elsewhere, so float32 loses
// little in their sum.
constexpr float kPhiMost = 5.2f;
constexpr float kPhi13[14] = {
    1.359499906e-01f, 6.774365980e-02f, 5.002475612e-02f, 3.993019836e-02f, 3.198644558e-02f,
    2.471897475e-02f, 1.797355535e-02f, 1.252777763e-02f, 8.515539670e-03f, 4.738147754e-03f,
    1.847807822e-03f, 1.274354444e-03f, 1.249582323e-03f, 4.607486335e-04f};
const PhiTable<2> kCoarsePhi;

}  // namespace

// AVX-512's intrinsics, those for bfloat16 from GCC 10 on. clang refuses vectors of 512 bits from functions without the
// AVX-512 target, and those of lanes.h have no target; it takes plain vectors for float32.
#if defined(DAS2F_X86) && !defined(__clang__) && __GNUC__ >= 10
#define DAS2F_INTRINSICS 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define DAS2F_INTRINSICS 0
#endif

// DAS2F_HALF: scanned tokens are float16. DAS2F_SCALES: powers of 2 by AVX-512's own instructions.
#define DAS2F_HALF 0
#define DAS2F_BF16 0
#define DAS2F_AMX 0
#define DAS2F_SCALES 0
namespace {
#define DAS2F_FN ALWAYS_INLINE
// A vector is one register of 512, 256 or (elsewhere) 128 bits: compilers split wider vectors badly.
// AVX-512 and NEON have 32 registers, the others 16.
#if defined(__aarch64__)
#define DAS2F_PLAIN_REGISTERS 32
#else
#define DAS2F_PLAIN_REGISTERS 16
#endif
// DAS2F_LOOP is for functions that stay functions: in one that holds everything, compilers keep too few values of a
// loop in registers.
#ifdef DAS2F_X86
#define DAS2F_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#define DAS2F_AVX2 __attribute__((target("avx2,fma")))
#define DAS2F_LOOP __attribute__((noinline)) DAS2F_AVX512
#if DAS2F_INTRINSICS
#undef DAS2F_SCALES
#define DAS2F_SCALES 1
#undef DAS2F_FN
#define DAS2F_FN inline __attribute__((always_inline)) DAS2F_AVX512
#endif
namespace lanes16 {
constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "scan_rows.h"
#include "tail.h"
}  // namespace lanes16
#if DAS2F_INTRINSICS
// The tail in float32 of tokens that were scanned for bfloat16.
#undef DAS2F_HALF
#define DAS2F_HALF 1
namespace lanes16_half {
constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "tail.h"
}  // namespace lanes16_half
#undef DAS2F_HALF
#define DAS2F_HALF 0
#endif
#undef DAS2F_SCALES
#define DAS2F_SCALES 0
#undef DAS2F_FN
#define DAS2F_FN ALWAYS_INLINE
#undef DAS2F_LOOP
#define DAS2F_LOOP __attribute__((noinline)) DAS2F_AVX2
namespace lanes8 {
constexpr int kLanes = 8;
constexpr bool kManyRegisters = false;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "scan_rows.h"
#include "tail.h"
}  // namespace lanes8
#undef DAS2F_LOOP
#endif
#define DAS2F_LOOP __attribute__((noinline))
namespace lanes4 {
constexpr int kLanes = 4;
constexpr bool kManyRegisters = DAS2F_PLAIN_REGISTERS == 32;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "scan_rows.h"
#include "tail.h"
}  // namespace lanes4
#undef DAS2F_FN
#undef DAS2F_LOOP
}  // namespace

#if DAS2F_INTRINSICS
#define DAS2F_HAS_BF16 1
#undef DAS2F_HALF
#define DAS2F_HALF 1
#undef DAS2F_BF16
#define DAS2F_BF16 1
#undef DAS2F_SCALES
#define DAS2F_SCALES 1
namespace {
#define DAS2F_BF16_TARGET "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma"
#define DAS2F_FN inline __attribute__((always_inline, target(DAS2F_BF16_TARGET)))
#define DAS2F_LOOP __attribute__((noinline, target(DAS2F_BF16_TARGET)))
namespace bf16 {
constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "scan_rows.h"
#include "tail.h"
}  // namespace bf16
#undef DAS2F_FN
#undef DAS2F_LOOP
}  // namespace
#endif

#if defined(DAS2F_HAS_BF16) && defined(__linux__) && __GNUC__ >= 11 && !defined(DAS2F_NO_AMX)
#define DAS2F_HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#undef DAS2F_AMX
#define DAS2F_AMX 1
#define DAS2F_AMX_TARGET \
    "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2,fma,amx-tile,amx-bf16"
namespace {
#define DAS2F_FN inline __attribute__((always_inline, target(DAS2F_AMX_TARGET)))
#define DAS2F_LOOP __attribute__((noinline, target(DAS2F_AMX_TARGET)))
namespace amx_bf16 {
constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "tail.h"
}  // namespace amx_bf16
#undef DAS2F_HALF
#define DAS2F_HALF 0
#undef DAS2F_BF16
#define DAS2F_BF16 0
namespace amx {
constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;
#include "../../../network/selective_scan/lanes.h"
#include "channels.h"
#include "tail.h"
}  // namespace amx
#undef DAS2F_FN
#undef DAS2F_LOOP
}  // namespace
#endif

namespace {

typedef std::atomic<int64_t> Counter;

#ifdef DAS2F_X86
DAS2F_AVX512 void scan_avx512(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass pass, Counter &next) {
    lanes16::scan_items(b, w, pass, next);
}
DAS2F_AVX2 void scan_avx2(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass pass, Counter &next) {
    lanes8::scan_items(b, w, pass, next);
}
DAS2F_AVX512 void tail_avx512(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    lanes16::tail_items(b, w, next);
}
DAS2F_AVX2 void tail_avx2(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    lanes8::tail_items(b, w, next);
}
#ifdef DAS2F_HAS_BF16
__attribute__((target(DAS2F_BF16_TARGET))) void scan_bf16(
    const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass pass, Counter &next) {
    bf16::scan_items(b, w, pass, next);
}
__attribute__((target(DAS2F_BF16_TARGET))) void tail_bf16(
    const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    bf16::tail_items(b, w, next);
}
DAS2F_AVX512 void tail_half(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    lanes16_half::tail_items(b, w, next);
}
#endif
#ifdef DAS2F_HAS_AMX
__attribute__((target(DAS2F_AMX_TARGET))) void tail_amx(
    const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    if (w.bf16) amx_bf16::tail_items(b, w, next);
    else amx::tail_items(b, w, next);
}

// Whether processor and system have the matrix unit for bfloat16. Linux gives it to a process that asks, as this does.
bool amx_usable() {
    static const bool usable = [] {
        unsigned a, b, c, d;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
        if (!(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // AMX-BF16, AMX-TILE
        constexpr int request_permission = 0x1023, tile_data = 18;
        return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }();
    return usable;
}
#endif
#endif
void scan_plain(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass pass, Counter &next) {
    lanes4::scan_items(b, w, pass, next);
}
void tail_plain(const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass, Counter &next) {
    lanes4::tail_items(b, w, next);
}

// Floats in a vector.
int lanes_of(int level) {
#ifdef DAS2F_X86
    if (level > 0) return level >= 2 ? lanes16::kLanes : lanes8::kLanes;
#endif
    (void)level;
    return lanes4::kLanes;
}

typedef void (*Worker)(const Das2fSharedBlock &, const Das2fSharedWeights &, Pass, Counter &);

// While it lives, numbers below 2^-126 count as zero. States and products decay through them all the time, and
// processors are slow with them.
struct FlushTiny {
#ifdef DAS2F_X86
    unsigned before = __builtin_ia32_stmxcsr();
    FlushTiny() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushTiny() { __builtin_ia32_ldmxcsr(before); }
#else
    FlushTiny() {}
    ~FlushTiny() {}
#endif
};

bool run(Worker worker, const Das2fSharedBlock &b, const Das2fSharedWeights &w, Pass pass, int threads) {
    Counter next{0};
    return run_on_threads(threads, [&] {
        FlushTiny flush;
        worker(b, w, pass, next);
    });
}

}  // namespace

extern "C" {

#if defined(_WIN32)
#define DAS2F_EXPORT __declspec(dllexport)
#else
#define DAS2F_EXPORT __attribute__((visibility("default")))
#endif

// Changes whenever a structure or the meaning of an argument does.
DAS2F_EXPORT int das2f_shared_abi(void) { return 8; }

// The best instruction set of this processor that the library has code for:
// 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512 with bfloat16 products, 4 the same with AMX.
DAS2F_EXPORT int das2f_shared_level(void) {
#ifdef DAS2F_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
#ifdef DAS2F_HAS_BF16
        if (__builtin_cpu_supports("avx512bf16")) {
#ifdef DAS2F_HAS_AMX
            if (amx_usable()) return 4;
#endif
            return 3;
        }
#endif
        return 2;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

// The packing of a level's weights: lanes, tokens of a tile, outputs of a tile, outputs of a later stage's products.
DAS2F_EXPORT void das2f_shared_packing(int level, int64_t *packing) {
    const int64_t own[4] = {lanes4::kLanes, lanes4::kTile, lanes4::kOut, lanes4::kProduct};
    std::memcpy(packing, own, sizeof own);
#ifdef DAS2F_X86
    const int64_t wide[4] = {lanes16::kLanes, lanes16::kTile, lanes16::kOut, lanes16::kProduct};
    const int64_t half[4] = {lanes8::kLanes, lanes8::kTile, lanes8::kOut, lanes8::kProduct};
    if (level > 0) std::memcpy(packing, level >= 2 ? wide : half, sizeof own);
#ifdef DAS2F_HAS_AMX
    static_assert(amx::kTile == amx_bf16::kTile && amx::kOut == lanes16::kOut, "one packing serves both");
    if (level >= 4) packing[1] = amx::kTile;
#endif
#endif
    (void)level;
}

// Size of a block's scratch `y`, in bytes.
DAS2F_EXPORT int64_t das2f_shared_scratch(int64_t rows, int64_t cols, int level, int half) {
    const int size = half ? 2 : 4;
    return 4 * Layout(rows, cols, lanes_of(level), size).branch * size;
}

// Scans all four directions into y. Returns 0 when done, 1 when memory ran out.
DAS2F_EXPORT int das2f_shared_scan(
    const Das2fSharedBlock *b, const Das2fSharedWeights *w, int threads, int level) {
    Worker worker = scan_plain;
#ifdef DAS2F_X86
    if (level >= 2) worker = scan_avx512;
    else if (level == 1) worker = scan_avx2;
#ifdef DAS2F_HAS_BF16
    if (w->bf16) worker = scan_bf16;
#endif
#endif
    (void)level;
    const int64_t groups = 4 * kWidth / lanes_of(level);
    // Where each thread has several whole groups of channels, it takes both axes of a group one after the other: the
    // part of y that the columns add to is still in the last-level cache from the rows.
    if (groups >= 4 * threads && groups % threads == 0) return run(worker, *b, *w, {-1, kStrip}, threads) ? 0 : 1;
    // Shorter strips share less work, but every thread gets one. The result is the same.
    const auto strip = [&](int64_t starts) {
        int length = kStrip;
        while (length > kLeastStrip && groups * ((starts + length - 1) / length) < threads) length /= 2;
        return length;
    };
    const bool done = run(worker, *b, *w, {0, strip(b->cols)}, threads)    // stores
                      && run(worker, *b, *w, {1, strip(b->rows)}, threads);  // adds
    return done ? 0 : 1;
}

// Returns 0 when done, 1 when memory ran out. Tokens that were scanned in float16 may meet float32 weights of level 2.
DAS2F_EXPORT int das2f_shared_tail(
    const Das2fSharedBlock *b, const Das2fSharedWeights *w, int threads, int level) {
    Worker worker = tail_plain;
#ifdef DAS2F_X86
    if (level >= 2) worker = tail_avx512;
    else if (level == 1) worker = tail_avx2;
#ifdef DAS2F_HAS_BF16
    if (w->half) worker = w->bf16 ? tail_bf16 : tail_half;
#endif
#ifdef DAS2F_HAS_AMX
    if (level >= 4) worker = tail_amx;
#endif
#endif
    (void)level;
    return run(worker, *b, *w, {}, threads) ? 0 : 1;
}
}
