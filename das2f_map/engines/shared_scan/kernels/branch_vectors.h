// From scanned tokens to a branch's output, with products summed in vector registers: float32, or pairs of bfloat16.
// Included by tail.h. Lanes are neighbouring tokens, so norms over channels need no sums across lanes.

struct BranchScratch {
    Plane gated[kWidth], residual[kWidth], normed[kWidth], hidden[kHiddenStep];
    uint32_t packed[kWidth / 2][kTile], packed_hidden[kHiddenStep / 2][kTile];
};

#if DAS2F_BF16
// Stores pairs of bfloat16: lanes of `first` in the low halves, of `second` in the high halves.
DAS2F_FN void store_pair(uint32_t *out, const Vec &first, const Vec &second) {
    alignas(64) static constexpr uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_load_si512(order), halves));
}

// Packs neighbouring planes as pairs, for the dot product of pairs.
DAS2F_FN void pack_planes(const Plane *in, int channels, uint32_t (*out)[kTile]) {
    for (int c = 0; c < channels; c += 2)
        for (int v = 0; v < kVectors; ++v)
            store_pair(out[c / 2] + v * kLanes, load(in[c] + v * kLanes), load(in[c + 1] + v * kLanes));
}
#endif

// sum += W in, for kN outputs; `w` is packed (inputs, kN), in pairs of inputs for bfloat16.
template <int kN>
DAS2F_FN void multiply(
    const Plane *in, const uint32_t (*packed)[kTile], const void *w, int inputs, Vec (&result)[kN][kVectors]) {
    // A copy that nothing indexes at run time: it stays in registers.
    Vec sum[kN][kVectors];
#pragma GCC unroll 8
    for (int o = 0; o < kN; ++o)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[o][v] = result[o][v];
#if DAS2F_BF16
    (void)in;
    const int32_t *weight = static_cast<const int32_t *>(w);
    for (int k = 0; k < inputs / 2; ++k, weight += kN) {
        __m512i x[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) x[v] = _mm512_loadu_si512(packed[k] + v * kLanes);
#pragma GCC unroll 8
        for (int o = 0; o < kN; ++o) {
            const __m512i pair = _mm512_set1_epi32(weight[o]);
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v)
                sum[o][v] = (Vec)_mm512_dpbf16_ps((__m512)sum[o][v], (__m512bh)x[v], (__m512bh)pair);
        }
    }
#else
    (void)packed;
    const float *weight = static_cast<const float *>(w);
#pragma GCC unroll 2
    for (int k = 0; k < inputs; ++k, weight += kN) {
        Vec x[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) x[v] = load(in[k] + v * kLanes);
#pragma GCC unroll 8
        for (int o = 0; o < kN; ++o)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sum[o][v] += x[v] * weight[o];
    }
#endif
#pragma GCC unroll 8
    for (int o = 0; o < kN; ++o)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) result[o][v] = sum[o][v];
}

#if DAS2F_BF16
constexpr int64_t kWeightBytes = 2;
#else
constexpr int64_t kWeightBytes = 4;
#endif

DAS2F_FN const void *packed_at(const void *weights, int64_t element) {
    return static_cast<const char *>(weights) + element * kWeightBytes;
}

// Adds kN outputs of the projection, from `o`, to the residual tokens. Products are summed by themselves: the tokens are much
// larger, and cancel later, when the common part is subtracted.
template <int kN>
DAS2F_LOOP void project(const Das2fStageWeights &w, int branch, int o, BranchScratch &s) {
    Vec sum[kN][kVectors] = {};
    multiply<kN>(s.gated, s.packed, packed_at(w.project[branch], o * kWidth), kWidth, sum);
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) {
            float *residual = s.residual[o + i] + v * kLanes;
            store(residual, load(residual) + sum[i][v]);
        }
}

// Computes kN values of the hidden layer, from `first + o`.
template <int kN>
DAS2F_LOOP void mlp_in(const Das2fStageWeights &w, int branch, int64_t first, int o, BranchScratch &s) {
    Vec sum[kN][kVectors];
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) sum[i][v] = Vec{} + w.mlp_in_bias[branch][first + o + i];
    multiply<kN>(s.normed, s.packed, packed_at(w.mlp_in[branch], (first + o) * kWidth), kWidth, sum);
#if DAS2F_BF16
    for (int i = 0; i < kN; i += 2)
        for (int v = 0; v < kVectors; ++v)
            store_pair(s.packed_hidden[(o + i) / 2] + v * kLanes, gelu_lanes(sum[i][v]), gelu_lanes(sum[i + 1][v]));
#else
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) store(s.hidden[o + i] + v * kLanes, gelu_lanes(sum[i][v]));
#endif
}

// Adds the share of kHiddenStep hidden values, from `first`, to kN outputs, from `o`.
template <int kN>
DAS2F_LOOP void mlp_out(const Das2fStageWeights &w, int branch, int64_t first, int o, BranchScratch &s, Plane *out) {
    Vec sum[kN][kVectors];
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) sum[i][v] = load(out[o + i] + v * kLanes);
    // Packed (outputs / kN, hidden, kN).
    const void *weight = packed_at(w.mlp_out[branch], o * w.hidden + first * kN);
    multiply<kN>(s.hidden, s.packed_hidden, weight, kHiddenStep, sum);
    for (int i = 0; i < kN; ++i)
        for (int v = 0; v < kVectors; ++v) store(out[o + i] + v * kLanes, sum[i][v]);
}

// Projection, norm and MLP of one branch; `gated` holds the scanned tokens, normalised and gated.
DAS2F_FN void project_and_mlp(const Das2fStageWeights &w, int branch, BranchScratch &s, Plane *out) {
#if DAS2F_BF16
    pack_planes(s.gated, kWidth, s.packed);
#endif
    int o = 0;
    for (; o + kOut <= kWidth; o += kOut) project<kOut>(w, branch, o, s);
    if (kRest) project<kLast>(w, branch, o, s);
    layer_norm<kWidth>(s.residual, 1, w.norm[branch], s.normed);
    for (o = 0; o < kWidth; ++o)
        for (int v = 0; v < kVectors; ++v) store(out[o] + v * kLanes, Vec{} + w.mlp_out_bias[branch][o]);
#if DAS2F_BF16
    pack_planes(s.normed, kWidth, s.packed);
#endif
    for (int64_t first = 0; first < w.hidden; first += kHiddenStep) {
        for (o = 0; o + kOut <= kHiddenStep; o += kOut) mlp_in<kOut>(w, branch, first, o, s);
        if (kRest) mlp_in<kLast>(w, branch, first, o, s);
        for (o = 0; o + kOut <= kWidth; o += kOut) mlp_out<kOut>(w, branch, first, o, s, out);
        if (kRest) mlp_out<kLast>(w, branch, first, o, s, out);
    }
    for (o = 0; o < kWidth; ++o)
        for (int v = 0; v < kVectors; ++v)
            store(out[o] + v * kLanes, load(out[o] + v * kLanes) + load(s.residual[o] + v * kLanes));
}

DAS2F_FN void load_tokens(const float *const *tokens, Plane *out) {
    for (int v = 0; v < kVectors; ++v)
        for (int g = 0; g < kWidth; g += kLanes) load_planes(tokens + v * kLanes, g, out, v);
}

DAS2F_FN void branch_tile(
    const Das2fStageWeights &w, int branch, int tile, const BranchInput &in, BranchScratch &s, Plane *out) {
    for (int g = 0; g < kGroups; ++g)
        for (int v = 0; v < kVectors; ++v) {
            Vec t[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) t[i] = load(in.y + g * in.group + (v * kLanes + i) * kLanes);
            transpose_lanes(t);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(s.residual[g * kLanes + i] + v * kLanes, t[i]);
        }
    // Fetch the next tile from memory while this one is computed.
    if (tile + 1 < kTiles)
        for (int g = 0; g < kGroups; ++g)
            for (int i = kTile; i < 2 * kTile; i += kLineTokens) __builtin_prefetch(in.y + g * in.group + i * kLanes);
    layer_norm<kWidth>(s.residual, 1, w.out_norm[branch], s.gated);
    load_tokens(in.gate, s.normed);
    for (int c = 0; c < kWidth; ++c)
        for (int v = 0; v < kVectors; ++v)
            store(s.gated[c] + v * kLanes, load(s.gated[c] + v * kLanes) * load(s.normed[c] + v * kLanes));
    if (in.planes) std::memcpy(s.residual, in.planes, sizeof s.residual);
    else load_tokens(in.tokens, s.residual);
    project_and_mlp(w, branch, s, out);
}
