// Projection and MLP of a tile of tokens by a processor's matrix unit (AMX): it multiplies bfloat16 and sums float32.
// Included by tail.h in the place of products.h.
//
// Outputs are rows and tokens columns, so that planes serve as they are: neighbouring planes side by side are
// the pairs that the unit takes of its second operand. Float32 is cut into three bfloat16 parts whose sum is
// the number itself, and products of parts that matter to float32 are summed: all but those below 2^-22 of the whole.
//
// The unit works by itself while vectors do something else, so that GELU and the cutting of one part of the
// hidden layer stand between the products of its neighbours.

constexpr int kRows = 16;                    // outputs of a tile register; as many tokens, and twice as many inputs
constexpr int kInputs = 2 * kRows;
constexpr int kBand = 2 * kRows;             // outputs that are computed at once
constexpr int kRegister = kRows * kInputs;   // bfloat16 numbers of a tile register
// Pairs of vectors of the hidden layer that pass GELU after four products.
constexpr int kMeanwhile = kParts == 1 ? 8 : 2;
static_assert(kLanes == kRows && kVectors % 2 == 0 && kHiddenStep % kBand == 0, "whole tile registers");

// How the tile registers are used: 0 to 3 sums, 4 and 5 weights, 6 and 7 tokens; all of them whole.
DAS2F_FN void configure_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    static_assert(sizeof configuration == 64, "as the processor reads it");
    asm volatile("" : : "m"(configuration));
    _tile_loadconfig(&configuration);
}

// Numbers `a` of the first and `b` of the second of two neighbouring planes as pairs, part by part.
DAS2F_FN void store_parts(Packed &out, int pair, int offset, Vec a, Vec b) {
#if DAS2F_BF16
    store_pair(out[0][pair] + offset, a, b);
#else
    // The high half of a float32 is a bfloat16 rounded towards zero, and what is left is exact.
    typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
#pragma GCC unroll 3
    for (int part = 0; part < kParts; ++part) {
        const Bits high_a = (Bits)a & 0xFFFF0000u, high_b = (Bits)b & 0xFFFF0000u;
        const Bits both = (Bits)a >> 16 | high_b;
        std::memcpy(out[part][pair] + offset, &both, sizeof both);
        a -= (Vec)high_a;
        b -= (Vec)high_b;
    }
#endif
}

DAS2F_FN void pack_planes(const Plane *in, Packed &out) {
    for (int c = 0; c < kWidth; c += 2)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
            store_parts(out, c / 2, v * kLanes, load(in[c] + v * kLanes), load(in[c + 1] + v * kLanes));
}

// What is left of kHiddenStep outputs of the hidden layer to pass GELU.
struct HiddenStep {
    const Plane *sums;
    const float *bias;
    Packed *packed;
    int next = 0;

    static constexpr int all = kHiddenStep / 2 * kVectors;

    DAS2F_FN void some(int count) {
        for (const int end = next + count < all ? next + count : all; next < end; ++next) {
            const int c = next / kVectors * 2, offset = next % kVectors * kLanes;
            const Vec a = load(sums[c] + offset) + bias[c], b = load(sums[c + 1] + offset) + bias[c + 1];
            store_parts(*packed, c / 2, offset, gelu_lanes(a), gelu_lanes(b));
        }
    }
};

struct Nothing {
    DAS2F_FN void some(int) {}
};

// out = W in for kBand outputs, or out += W in; `weight` moves on to the next outputs.
template <bool kAdd, class Meanwhile>
DAS2F_FN void multiply(
    const uint16_t *&weight, const Packed &in, int inputs, Plane *out, Meanwhile &meanwhile) {
    const uint16_t *w = weight;
    for (int v = 0; v < kVectors; v += 2) {
        float *sums = out[0] + v * kLanes;
        constexpr int64_t row = sizeof(Plane), below = kRows * kTile;
        w = weight;
        asm volatile("" : : : "memory");  // loads of tiles do not say what they read
        if (kAdd) {
            _tile_loadd(0, sums, row);
            _tile_loadd(1, sums + kLanes, row);
            _tile_loadd(2, sums + below, row);
            _tile_loadd(3, sums + below + kLanes, row);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int pair = 0; pair < inputs / 2; pair += kRows)
#pragma GCC unroll 3
            for (int a = 0; a < kParts; ++a, w += 2 * kRegister) {
                _tile_loadd(4, w, 2 * kInputs);
                _tile_loadd(5, w + kRegister, 2 * kInputs);
#pragma GCC unroll 3
                for (int b = 0; b < kParts - a; ++b) {
                    const uint32_t *tokens = in[b][pair] + v * kLanes;
                    _tile_loadd(6, tokens, row);
                    _tile_loadd(7, tokens + kLanes, row);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                    meanwhile.some(kMeanwhile);
                }
            }
        _tile_stored(0, sums, row);
        _tile_stored(1, sums + kLanes, row);
        _tile_stored(2, sums + below, row);
        _tile_stored(3, sums + below + kLanes, row);
    }
    weight = w;
}

// kHiddenStep outputs of the hidden layer before their bias.
template <class Meanwhile>
DAS2F_FN void mlp_in(const uint16_t *&weight, TailScratch &s, Plane *sums, Meanwhile &meanwhile) {
    for (int o = 0; o < kHiddenStep; o += kBand) multiply<false>(weight, s.packed, kWidth, sums + o, meanwhile);
}

// What kHiddenStep of the hidden layer add to all outputs.
template <class Meanwhile>
DAS2F_FN void mlp_out(const uint16_t *&weight, const Packed &hidden, Plane *out, Meanwhile &meanwhile) {
    for (int o = 0; o < kWidth; o += kBand) multiply<true>(weight, hidden, kHiddenStep, out + o, meanwhile);
}

// What follows the scan of one branch; `gated` holds the scanned tokens, normalised and gated.
DAS2F_FN void project_and_mlp(const Das2fSharedWeights &w, int branch, TailScratch &s, Plane *out) {
    Nothing nothing;
    const uint16_t *weight = static_cast<const uint16_t *>(w.project[branch]);
    pack_planes(s.gated, s.packed);
    for (int o = 0; o < kWidth; o += kBand) multiply<true>(weight, s.packed, kWidth, s.residual + o, nothing);
    layer_norm<kWidth>(s.residual, 1, w.norm[branch], s.normed);
    for (int o = 0; o < kWidth; ++o)
        for (int v = 0; v < kVectors; ++v)
            store(out[o] + v * kLanes, load(s.residual[o] + v * kLanes) + w.mlp_out_bias[branch][o]);
    pack_planes(s.normed, s.packed);
    const uint16_t *inner = static_cast<const uint16_t *>(w.mlp_in[branch]);
    const uint16_t *outer = static_cast<const uint16_t *>(w.mlp_out[branch]);
    const int steps = static_cast<int>(w.hidden / kHiddenStep);
    mlp_in(inner, s, s.hidden[0], nothing);
    for (int i = 0; i < steps; ++i) {
        HiddenStep step{s.hidden[i % 2], w.mlp_in_bias[branch] + i * kHiddenStep, &s.packed_hidden[i % 2]};
        if (i + 1 < steps) mlp_in(inner, s, s.hidden[(i + 1) % 2], step);
        if (i > 0) mlp_out(outer, s.packed_hidden[(i - 1) % 2], out, step);
        step.some(HiddenStep::all);
    }
    mlp_out(outer, s.packed_hidden[(steps - 1) % 2], out, nothing);
}
