// From scanned tokens to logits, for kTile tokens of one patch at a time; stages after the first whole. In planes, lanes
// are neighbouring tokens.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after channels.h.

constexpr int kVectors = 2;               // vectors of tokens in a tile
constexpr int kTile = kVectors * kLanes;  // tokens of a tile
constexpr int kOut = kManyRegisters ? 8 : 6;  // outputs of a product held in registers together
constexpr int kRest = kWidth % kOut;        // outputs left over of 64, or 0
constexpr int kLast = kRest ? kRest : kOut;
constexpr int kTiles = kTokens / kTile;
constexpr int kHiddenStep = 64;
static_assert(kHiddenStep == kWidth && 16 % kOut == kRest, "one rest serves all products");

typedef float Plane[kTile];  // one channel of a tile's tokens

DAS2F_FN Vec sqrt_lanes(Vec v) {
    for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
}

DAS2F_FN Vec sigmoid_lanes(const Vec &v) {
    if constexpr (!kScales) return 1.0f / (1.0f + exp2_lanes(v * -kLog2e));
    const Vec most = Vec{} + 126.0f;  // no quotient by infinity
    Vec power[1] = {v * -kLog2e};
    power[0] = power[0] > most ? most : power[0];
    power_lanes(power, PowerConstants());
    return quotient(Vec{} + 1.0f, 1.0f + power[0]);
}

// x Phi(x); within 3e-7 of max(|x|, 1) everywhere, or 1e-4 if it is rounded to bfloat16.
DAS2F_FN Vec gelu_lanes(const Vec &x) {
#if DAS2F_SCALES
    // One register holds a coefficient of all 16 polynomials of the table. `near` is min(|x|, most). The nearest whole number
    // of steps is in the low bits of `shifted`, and a shuffle reads no others.
#if DAS2F_BF16
    const PhiTable<2> &phi = kCoarsePhi;
#else
    const PhiTable<4> &phi = kPhi;
#endif
    const Vec u = (Vec)_mm512_abs_ps((__m512)x), magic = Vec{} + 12582912.0f;
    const Vec near = (Vec)_mm512_range_ps((__m512)x, _mm512_set1_ps(15.49f * kPhiStep), 10);
    const Vec shifted = near * (1.0f / kPhiStep) + magic;
    const Vec f = near * (1.0f / kPhiStep) - (shifted - magic);
    const VecInt index = (VecInt)shifted;
    Vec q{};
#pragma GCC unroll 5
    for (int k = phi.degree; k >= 0; --k) {
        const Vec c = __builtin_shuffle(load(phi.coefficient[k]), index);
        q = k == phi.degree ? c : q * f + c;
    }
    return 0.5f * x + u * q;
#else
    const Vec most = Vec{} + kPhiMost;
    Vec v = x < most ? x : most;
    v = v > -most ? v : -most;
    const Vec s = v * v * (-2.0f / (kPhiMost * kPhiMost)) + 1.0f;
    Vec q = Vec{} + kPhi13[13];
#pragma GCC unroll 13
    for (int k = 12; k >= 0; --k) q = q * s + kPhi13[k];
    return x * (v * q + 0.5f);
#endif
}

// Transposes kLanes vectors in place.
DAS2F_FN void transpose_lanes(Vec (&v)[kLanes]) {
#if defined(__clang__)
    Vec t[kLanes];
    for (int i = 0; i < kLanes; ++i)
        for (int j = 0; j < kLanes; ++j) t[j][i] = v[i][j];
    for (int i = 0; i < kLanes; ++i) v[i] = t[i];
#else
    // Swaps the off-diagonal halves of ever smaller squares.
#pragma GCC unroll 4
    for (int half = kLanes / 2; half > 0; half /= 2) {
        VecInt low, high;
        for (int i = 0; i < kLanes; ++i) {
            const bool second = i & half;
            low[i] = second ? kLanes + i - half : i;
            high[i] = second ? kLanes + i : i + half;
        }
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
            if (i & half) continue;
            const Vec a = v[i], b = v[i + half];
            v[i] = __builtin_shuffle(a, b, low);
            v[i + half] = __builtin_shuffle(a, b, high);
        }
    }
#endif
}

// Loads channels first .. first + kLanes - 1 of kLanes tokens into planes.
DAS2F_FN void load_planes(const float *const *token, int first, Plane *planes, int vector) {
    Vec v[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = load(token[i] + first);
    transpose_lanes(v);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(planes[first + i] + vector * kLanes, v[i]);
}

// (v - mean) / sqrt(var + eps) * weight + bias over kChannels planes kStride apart.
template <int kChannels>
DAS2F_FN void layer_norm(const Plane *in, int stride, const float *weight, Plane *out) {
    for (int v = 0; v < kVectors; ++v) {
        Vec sum[4] = {}, squares[4] = {};
        for (int c = 0; c < kChannels; c += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) sum[k] += load(in[(c + k) * stride] + v * kLanes);
        const Vec mean = ((sum[0] + sum[1]) + (sum[2] + sum[3])) * (1.0f / kChannels);
        for (int c = 0; c < kChannels; c += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const Vec d = load(in[(c + k) * stride] + v * kLanes) - mean;
                squares[k] += d * d;
            }
        const Vec variance = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * (1.0f / kChannels);
        const Vec scale = 1.0f / sqrt_lanes(variance + kEps);
        for (int c = 0; c < kChannels; ++c) {
            const Vec d = (load(in[c * stride] + v * kLanes) - mean) * scale;
            store(out[c] + v * kLanes, d * weight[c] + weight[kChannels + c]);
        }
    }
}

// Finds a tile's tokens in a map with the layout of Axis::entry (scan_rows.h), for an edge of 0 or 1.
DAS2F_FN void locate_entries(
    const float *map, int edge, int64_t rows, int64_t cols, int64_t row, int64_t col, int tile, const float **entry) {
    const int64_t row_entries = 2 * edge * cols + cols + kPatch - 1 - 2 * edge;
    for (int i = 0; i < kTile; ++i) {
        const int token = tile * kTile + i, pr = token / kPatch, pc = token % kPatch;
        int64_t r = row + pr, c = col + pc;
        if (edge) {
            r = pr == 0 ? row : pr == kPatch - 1 ? 2 * rows + kPatch - 3 + row : rows + r - 1;
            c = pc == 0 ? col : pc == kPatch - 1 ? 2 * cols + kPatch - 3 + col : cols + c - 1;
        }
        entry[i] = map + (r * row_entries + c) * kWidth;
    }
}

// A tile of a branch after its scan: where its scanned tokens, gates and input tokens lie.
struct BranchInput {
    const Scanned *y;  // kLanes channels of each token; those of all tiles follow one another
    int64_t group;    // numbers to the next kLanes channels
    const float *gate[kTile], *tokens[kTile];
    const Plane *planes;  // the input tokens' channels where they are planes already; else null
};

// The same for the first stage, whose patches share a block's maps.
DAS2F_FN void locate_first(
    const Das2fSharedBlock &b, const Layout &layout, int branch, int64_t row, int64_t col, int tile, BranchInput &in) {
    in.y = static_cast<const Scanned *>(b.y) + branch * layout.branch + row * layout.row + col * layout.patch + tile * kTile * kLanes;
    in.group = layout.group;
    in.planes = nullptr;
    const int edge = branch % 2 ? 0 : 1;
    locate_entries(b.gate[branch], edge, b.rows, b.cols, row, col, tile, in.gate);
    locate_entries(b.tokens[branch % 2], edge, b.rows, b.cols, row, col, tile, in.tokens);
}

#if DAS2F_AMX
#include "branch_amx.h"
#else
#include "branch_vectors.h"
#endif
#include "later_stage.h"

struct TailScratch {
    Plane out[2][4][kTiles][kWidth];  // of each stage's branches
    BranchScratch branch;
    Plane a[2 * 16], gate[16], features[kWidth];
    LaterScratch later;
};

// Adds the share of kN outputs of the gate, from `o`, to 16 mean_c(A_c G_c).
template <int kN>
DAS2F_FN void add_gated(const float *weight, const float *bias, int o, const TailScratch &s, Vec (&mean)[kVectors]) {
    const Vec none{};
    Vec sum[kN][kVectors];
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) sum[i][v] = none + bias[o + i];
    const float *w = weight + o * 32;
    for (int k = 0; k < 32; ++k, w += kN) {
        Vec x[kVectors];
        for (int v = 0; v < kVectors; ++v) x[v] = load(s.a[k] + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kN; ++i)
            for (int v = 0; v < kVectors; ++v) sum[i][v] += x[v] * w[i];
    }
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) mean[v] += sigmoid_lanes(sum[i][v]) * load(s.a[o + i] + v * kLanes);
}

// mean_c(A_c G_c) B with G = sigmoid(W [A; B] + bias); A is in a[0..15], B in a[16..31]; result in `out`.
DAS2F_FN void gated_fusion(const float *weight, const float *bias, TailScratch &s, Plane *out, int stride) {
    Vec mean[kVectors] = {};
    int o = 0;
    for (; o + kOut <= 16; o += kOut) add_gated<kOut>(weight, bias, o, s, mean);
    if (kRest) add_gated<kLast>(weight, bias, o, s, mean);
    for (int c = 0; c < 16; ++c)
        for (int v = 0; v < kVectors; ++v)
            store(out[c * stride] + v * kLanes, mean[v] * (1.0f / 16) * load(s.a[16 + c] + v * kLanes));
}

// Makes a tile's specific parts in place: branches 0 and 1 minus branches 2 and 3.
DAS2F_FN void take_specifics(int tile, Plane (*out)[kTiles][kWidth]) {
    for (int m = 0; m < 2; ++m)
        for (int c = 0; c < kWidth; ++c)
            for (int v = 0; v < kVectors; ++v) {
                float *p = out[m][tile][c] + v * kLanes;
                store(p, load(p) - load(out[2 + m][tile][c] + v * kLanes));
            }
}

// Fuses a tile's specific parts of a stage with s.features, in its place.
DAS2F_FN void fuse_tile(const Das2fStageWeights &w, const Plane *ms, const Plane *pan, TailScratch &s) {
    for (int sub = 0; sub < 4; ++sub) {  // sub-token: channels c * 4 + sub
        layer_norm<16>(ms + sub, 4, w.fusion_norm, s.a);
        layer_norm<16>(pan + sub, 4, w.fusion_norm, s.a + 16);
        gated_fusion(w.fusion_gate[0], w.fusion_bias[0], s, s.gate, 1);
        layer_norm<16>(s.gate, 1, w.fusion_norm, s.a);
        layer_norm<16>(s.features + sub, 4, w.fusion_norm, s.a + 16);
        gated_fusion(w.fusion_gate[1], w.fusion_bias[1], s, s.features + sub, 4);
    }
}

// Adds a tile's share to the logits, from the specific and common parts of all stages.
DAS2F_LOOP void classify_tile(const Das2fSharedWeights &w, int tile, TailScratch &s, float *logits) {
    int64_t stage = w.stages - 1;
    for (int c = 0; c < kWidth; ++c)
        for (int v = 0; v < kVectors; ++v)
            store(
                s.features[c] + v * kLanes, (load(s.out[stage][2][tile][c] + v * kLanes) +
                                             load(s.out[stage][3][tile][c] + v * kLanes)) * 0.5f);
    for (; stage >= 0; --stage) fuse_tile(w.stage[stage], s.out[stage][0][tile], s.out[stage][1][tile], s);
    const float *weight = w.classifier + tile * w.classes * kWidth * kTile;
    for (int64_t k = 0; k < w.classes; ++k, weight += kWidth * kTile) {
        Vec sum[4] = {};
        for (int i = 0; i < kWidth * kTile; i += 4 * kLanes)
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u)
                sum[u] += load(s.features[0] + i + u * kLanes) * load(weight + i + u * kLanes);
        const Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        float total = 0.0f;
        for (int i = 0; i < kLanes; ++i) total += all[i];
        logits[k] += total;
    }
}

DAS2F_FN void tail_items(const Das2fSharedBlock &b, const Das2fSharedWeights &w, std::atomic<int64_t> &next) {
    const Layout layout(b.rows, b.cols, kLanes, sizeof(Scanned));
    // All zero, as later stages want it. Without them, their part of the memory is not touched.
    std::unique_ptr<void, decltype(&std::free)> memory(std::calloc(sizeof(TailScratch) + 64, 1), std::free);
    if (!memory) throw std::bad_alloc();
    void *place = memory.get();
    size_t room = sizeof(TailScratch) + 64;
    TailScratch &s = *static_cast<TailScratch *>(std::align(64, sizeof(TailScratch), place, room));
    BranchInput in;
#if DAS2F_AMX
    configure_registers();
#endif
    for (int64_t item = next++; item < b.patches; item = next++) {
        const int64_t row = b.wanted[item] / b.cols, col = b.wanted[item] % b.cols;
        for (int64_t stage = 0; stage < w.stages; ++stage) {
            const Plane (*common)[kTiles][kWidth] = stage ? s.out[stage - 1] + 2 : nullptr;
            // Branch by branch: its weights then stay in second-level cache for the whole patch.
            for (int branch = 0; branch < 4; ++branch) {
                if (stage) scan_later(w.stage[stage], branch, common, s.features, s.later);
                for (int tile = 0; tile < kTiles; ++tile) {
                    if (stage) locate_later(s.later, branch, tile, common[branch % 2][tile], in);
                    else locate_first(b, layout, branch, row, col, tile, in);
                    branch_tile(w.stage[stage], branch, tile, in, s.branch, s.out[stage][branch][tile]);
                }
            }
            for (int tile = 0; tile < kTiles; ++tile) take_specifics(tile, s.out[stage]);
        }
        if (b.logits) {
            float *logits = b.logits + item * w.classes;
            for (int64_t k = 0; k < w.classes; ++k) logits[k] = w.classifier_bias[k];
            for (int tile = 0; tile < kTiles; ++tile) classify_tile(w, tile, s, logits);
        }
    }
#if DAS2F_AMX
    _tile_release();  // else the system saves the registers at every switch of threads
#endif
}
