// From scanned tokens to a branch's output on a processor's matrix unit (AMX), which multiplies bfloat16 and sums
// float32. tail.h includes it instead of branch_vectors.h.
//
// A tile register holds 16 tokens by 16 channels, or by 32 for the inputs of products. Tokens are read as they lie in
// memory; only the output is turned into planes.
//
// A float32 is cut into three bfloat16 parts, whose sum is the number itself unless the last part is denormal. Products
// of parts are summed, except those below 2^-22 of the whole, which do not matter to float32. Infinity becomes NaN on
// the way; both are refused in the end.
//
// The unit works at the same time as vector instructions. So GELU and the cutting of one step of the hidden layer are
// mixed with the products of the steps before and after.

constexpr int kParts = DAS2F_BF16 ? 1 : 3;  // bfloat16 parts of one number
constexpr int kSide = 16;                   // tokens or outputs of a tile register; inputs are twice as many
constexpr int kInputs = 2 * kSide;
constexpr int kRegister = kSide * kInputs;  // bfloat16 numbers of a tile register
// Pairs of vectors of the hidden layer that pass GELU after four products.
constexpr int kMeanwhile = kParts == 1 ? 8 : 2;
// Products of (part of the tokens, part of the weights). Each has a part in common with the one before, which then need
// not be loaded again. With one part only the last product is left.
constexpr int kProducts = kParts * (kParts + 1) / 2;
constexpr int kOrders[6][2] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};
constexpr const int (*kOrder)[2] = kOrders + 6 - kProducts;
static_assert(kLanes == kSide && kVectors == 2 && kHiddenStep == kWidth, "as the tile registers are used");

typedef float Sums[kSide][kSide];  // tokens, channels
typedef Sums Channels[kVectors][kGroups];  // of kTile tokens
// Packed for the products: two groups' channels one after the other (bfloat16), or alternating.
typedef uint32_t Packed[kParts][kGroups / 2][kVectors][kSide][kSide];

struct BranchScratch {
    Channels residual, out, hidden[2];  // two steps of the hidden layer are under way at once
    Packed packed, packed_hidden[2];
    alignas(64) float mean[kSide], scale[kSide];
};

// The tile registers are used whole: 0 to 3 for sums, 4 and 5 for tokens, 6 and 7 for weights.
DAS2F_FN void configure_registers() {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    static_assert(sizeof configuration == 64, "as the processor reads it");
    asm volatile("" : : "m"(configuration));
    _tile_loadconfig(&configuration);
}

// Cuts a token's channels of two neighbouring groups into parts and stores them.
DAS2F_FN void store_parts(Packed &out, int pair, int v, int token, Vec a, Vec b) {
#if DAS2F_BF16
    _mm512_store_si512(out[0][pair][v][token], (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
#else
    // The high half of a float32 is a bfloat16 rounded towards zero; the difference is exact.
    typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
#pragma GCC unroll 3
    for (int part = 0; part < kParts; ++part) {
        const Bits high_a = (Bits)a & 0xFFFF0000u, high_b = (Bits)b & 0xFFFF0000u;
        const Bits both = (Bits)a >> 16 | high_b;
        std::memcpy(out[part][pair][v][token], &both, sizeof both);
        a -= (Vec)high_a;
        b -= (Vec)high_b;
    }
#endif
}

// For each of 16 vectors, the sum of its lanes.
DAS2F_FN Vec sums_of(Vec (&v)[kSide]) {
#pragma GCC unroll 4
    for (int half = kSide / 2; half > 0; half /= 2) {
        VecInt own, other;
        for (int i = 0; i < kSide; ++i) {
            own[i] = i & half ? kSide + i : i;
            other[i] = own[i] ^ half;
        }
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i)
            v[i] = __builtin_shuffle(v[i], v[i + half], own) + __builtin_shuffle(v[i], v[i + half], other);
    }
    return v[0];
}

// Mean and 1 / sqrt(var + eps) of 16 tokens whose groups of channels lie `stride` numbers apart.
template <class Number>
DAS2F_FN void moments(const Number *in, int64_t stride, BranchScratch &s) {
    Vec v[kSide];
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
        const Number *token = in + i * kSide;
        v[i] = (load(token) + load(token + stride)) + (load(token + 2 * stride) + load(token + 3 * stride));
    }
    store(s.mean, sums_of(v) * (1.0f / kWidth));
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
        const Number *token = in + i * kSide;
        Vec squares[2] = {};
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
            const Vec d = load(token + g * stride) - s.mean[i];
            squares[g % 2] += d * d;
        }
        v[i] = squares[0] + squares[1];
    }
    store(s.scale, 1.0f / sqrt_lanes(sums_of(v) * (1.0f / kWidth) + kEps));
}

// Normalises 16 tokens, multiplies them by `gate` (kGated), and packs them.
template <bool kGated, class Number>
DAS2F_FN void normalise(
    const Number *in, int64_t stride, const float *weight, const float *const *gate, int v, BranchScratch &s) {
    Vec w[kGroups], bias[kGroups];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) w[g] = load(weight + g * kSide), bias[g] = load(weight + kWidth + g * kSide);
    for (int i = 0; i < kSide; ++i) {
        Vec out[kGroups];
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
            out[g] = (load(in + i * kSide + g * stride) - s.mean[i]) * s.scale[i] * w[g] + bias[g];
            if (kGated) out[g] *= load(gate[i] + g * kSide);
        }
        store_parts(s.packed, 0, v, i, out[0], out[1]);
        store_parts(s.packed, 1, v, i, out[2], out[3]);
    }
}

// A step of the hidden layer on its way through GELU; `some` takes the next kMeanwhile pairs of vectors.
struct HiddenStep {
    const Channels &sums;
    const float *bias;
    Packed &packed;
    int next = 0;

    static constexpr int all = kVectors * kSide * kGroups / 2;
    static_assert(kSide % kMeanwhile == 0, "they lie in one register");

    DAS2F_FN void some() {
        if (next == all) return;
        const int token = next % kSide, v = next / kSide % kVectors, pair = next / (kSide * kVectors);
        const Vec bias_a = load(bias + 2 * pair * kSide), bias_b = load(bias + (2 * pair + 1) * kSide);
#pragma GCC unroll 2
        for (int i = token; i < token + kMeanwhile; ++i) {
            const Vec a = load(sums[v][2 * pair][i]) + bias_a, b = load(sums[v][2 * pair + 1][i]) + bias_b;
            store_parts(packed, pair, v, i, gelu_lanes(a), gelu_lanes(b));
        }
        next += kMeanwhile;
    }

    DAS2F_FN void rest() {
        while (next < all) some();
    }
};

struct Nothing {
    DAS2F_FN void some() {}
};

// out = W in, or out += W in (kAdd): 64 inputs, 64 outputs. Advances `weight` past W; `meanwhile` works in between.
template <bool kAdd, class Meanwhile>
DAS2F_FN void multiply(const uint16_t *&weight, const Packed &in, Channels &out, Meanwhile &meanwhile) {
    constexpr int64_t row = sizeof(Sums) / kSide;
    for (int g = 0; g < kGroups; g += 2) {
        asm volatile("" : : : "memory");  // the compiler does not know what loads of tile registers read
        if (kAdd) {
            _tile_loadd(0, out[0][g], row);
            _tile_loadd(1, out[0][g + 1], row);
            _tile_loadd(2, out[1][g], row);
            _tile_loadd(3, out[1][g + 1], row);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int pair = 0; pair < kGroups / 2; ++pair, weight += kParts * 2 * kRegister) {
#pragma GCC unroll 6
            for (int i = 0; i < kProducts; ++i) {
                const int a = kOrder[i][0], b = kOrder[i][1];
                if (i == 0 || b != kOrder[i - 1][1]) {
                    _tile_loadd(6, weight + b * 2 * kRegister, row);
                    _tile_loadd(7, weight + (b * 2 + 1) * kRegister, row);
                }
                if (i == 0 || a != kOrder[i - 1][0]) {
                    _tile_loadd(4, in[a][pair][0], row);
                    _tile_loadd(5, in[a][pair][1], row);
                }
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                meanwhile.some();
            }
        }
        _tile_stored(0, out[0][g], row);
        _tile_stored(1, out[0][g + 1], row);
        _tile_stored(2, out[1][g], row);
        _tile_stored(3, out[1][g + 1], row);
    }
}

// The MLP of the packed tokens, added to `out`.
DAS2F_FN void add_mlp(const Das2fStageWeights &w, int branch, BranchScratch &s) {
    Nothing nothing;
    const uint16_t *inner = static_cast<const uint16_t *>(w.mlp_in[branch]);
    const uint16_t *outer = static_cast<const uint16_t *>(w.mlp_out[branch]);
    const int steps = static_cast<int>(w.hidden / kHiddenStep);
    multiply<false>(inner, s.packed, s.hidden[0], nothing);
    for (int i = 0; i < steps; ++i) {
        HiddenStep step{s.hidden[i % 2], w.mlp_in_bias[branch] + i * kHiddenStep, s.packed_hidden[i % 2]};
        if (i + 1 < steps) multiply<false>(inner, s.packed, s.hidden[(i + 1) % 2], step);
        if (i > 0) multiply<true>(outer, s.packed_hidden[(i - 1) % 2], s.out, step);
        step.rest();
    }
    multiply<true>(outer, s.packed_hidden[(steps - 1) % 2], s.out, nothing);
}

DAS2F_FN void branch_tile(
    const Das2fStageWeights &w, int branch, int tile, const BranchInput &in, BranchScratch &s, Plane *out) {
    Nothing nothing;
    for (int v = 0; v < kVectors; ++v) {
        const Scanned *scanned = in.y + v * kSide * kLanes;
        moments(scanned, in.group, s);
        normalise<true>(scanned, in.group, w.out_norm[branch], in.gate + v * kSide, v, s);
    }
    // Fetch the next tile from memory while this one is computed.
    if (tile + 1 < kTiles)
        for (int g = 0; g < kGroups; ++g)
            for (int i = kTile; i < 2 * kTile; i += kLineTokens) __builtin_prefetch(in.y + g * in.group + i * kLanes);
    const uint16_t *weight = static_cast<const uint16_t *>(w.project[branch]);
    multiply<false>(weight, s.packed, s.residual, nothing);
    for (int v = 0; v < kVectors; ++v) {
        for (int i = 0; i < kSide; ++i)
#pragma GCC unroll 4
            for (int g = 0; g < kGroups; ++g) {
                const Vec r = load(s.residual[v][g][i]) + load(in.tokens[v * kSide + i] + g * kSide);
                store(s.residual[v][g][i], r);
                store(s.out[v][g][i], load(w.mlp_out_bias[branch] + g * kSide));
            }
        const float *residual = s.residual[v][0][0];
        moments(residual, kSide * kSide, s);
        normalise<false>(residual, kSide * kSide, w.norm[branch], nullptr, v, s);
    }
    add_mlp(w, branch, s);
    for (int v = 0; v < kVectors; ++v)
        for (int g = 0; g < kGroups; ++g) {
            Vec t[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kSide; ++i) t[i] = load(s.out[v][g][i]) + load(s.residual[v][g][i]);
            transpose_lanes(t);
#pragma GCC unroll 16
            for (int i = 0; i < kSide; ++i) store(out[g * kSide + i] + v * kLanes, t[i]);
        }
}
