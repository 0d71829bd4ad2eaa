// A stage after the first, for one patch at a time: from the common tokens of the stage before to what a branch's tail
// reads. Included by tail.h.
//
// These tokens have seen their whole patch, so neighbouring patches share none of them: all is computed for each patch.
// The 256 tokens of a patch share the weights, and a patch takes about a megabyte, which stays in cache.
//
// Lanes are channels here. A product takes the inputs of a few tokens one by one, and gives all outputs of a token side
// by side, as the scan reads them. So the scan takes tokens in any order, and nothing is turned for its directions.

constexpr int kMostRank = kWidth;
#if DAS2F_AMX && DAS2F_BF16
constexpr int kBand = 32;  // outputs of a product that are computed together
#else
constexpr int kBand = kLanes;
#endif
constexpr int kMostParameters = (2 * kStates + kMostRank + kBand - 1) / kBand * kBand;
constexpr int kImageRow = kPatch + 8;  // tokens of a row of the image, its border and what fills a cache line
constexpr int kGroupOfPatch = kTokens * kLanes + 16;  // in other cache sets than the next group
constexpr int kProductVectors = kManyRegisters ? 5 : 3;  // outputs of a product in registers, for kSteps tokens
constexpr int kProduct = kProductVectors * kLanes;

typedef float Tokens[kTokens][kWidth];
// The same with other cache sets for each row of the patch, so that its columns stay in first-level cache.
constexpr int kTokenRow = kPatch * kWidth + 16;
typedef Stored TokenRows[kPatch][kTokenRow];

// The memory has to be zero at first: the image keeps a border of zeros.
struct LaterScratch {
    Tokens gate[2];  // of MS and PAN
    TokenRows x[2];
#if DAS2F_AMX
    Tokens tokens[2];
#endif
    Scanned y[kGroups][kGroupOfPatch];
    float image[kWidth][kPatch + 2][kImageRow];  // for each channel of the tokens
    float pixels[kWidth][kPatch];                // of a row of the patch, after the convolution
    Stored row[kPatch][kWidth];                  // the same by token
    float parameters[kPatch][kMostParameters], dt[kPatch][kWidth];  // of a line of tokens: B, C, what gives dt
    Lanes state[kGroups][kStates], decay[kSteps][kStates];
    Rates rates[kGroups];
};

DAS2F_FN const Stored *weights_at(const void *packed) { return static_cast<const Stored *>(packed); }

struct Linear {
    const Stored *weight;  // packed
    const float *bias;     // (outputs), or null
    int64_t inputs, outputs;
};

#if DAS2F_AMX && DAS2F_BF16
// out = W in + bias for kPatch tokens of 64 inputs; steps are the numbers from a token to the next.
DAS2F_LOOP void multiply_tokens(const Linear &l, const Stored *in, int64_t in_step, float *out, int64_t out_step) {
    constexpr int64_t row = sizeof(Sums) / kSide;
    asm volatile("" : : : "memory");  // the compiler does not know what loads of tile registers read
    _tile_loadd(4, in, in_step * sizeof(Stored));
    _tile_loadd(5, in + kInputs, in_step * sizeof(Stored));
    const Stored *weight = l.weight;
    for (int64_t o = 0; o < l.outputs; o += kBand, weight += 4 * kRegister) {
        if (l.bias) {
            _tile_loadd(0, l.bias + o, 0);
            _tile_loadd(1, l.bias + o + kSide, 0);
        } else {
            _tile_zero(0);
            _tile_zero(1);
        }
        _tile_loadd(6, weight, row);
        _tile_loadd(7, weight + kRegister, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, weight + 2 * kRegister, row);
        _tile_loadd(7, weight + 3 * kRegister, row);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
        _tile_stored(0, out + o, out_step * sizeof(float));
        _tile_stored(1, out + o + kSide, out_step * sizeof(float));
    }
}
#else
// out = W in + bias for kSteps tokens and kN vectors of outputs from `o`. Weights are packed (inputs, kProduct), the last
// outputs (inputs, rest); in bfloat16 with two inputs side by side.
template <int kN>
DAS2F_FN void multiply_vectors(
    const Linear &l, int64_t o, const Stored *in, int64_t in_step, float *out, int64_t out_step) {
    Vec sum[kSteps][kN];
#pragma GCC unroll 4
    for (int t = 0; t < kSteps; ++t)
#pragma GCC unroll 8
        for (int v = 0; v < kN; ++v) sum[t][v] = l.bias ? load(l.bias + o + v * kLanes) : Vec{};
    const Stored *weight = l.weight + o * l.inputs;
#if DAS2F_BF16
    for (int64_t k = 0; k < l.inputs; k += 2, weight += 2 * kN * kLanes) {
        __m512i w[kN];
#pragma GCC unroll 8
        for (int v = 0; v < kN; ++v) w[v] = _mm512_loadu_si512(weight + 2 * v * kLanes);
#pragma GCC unroll 4
        for (int t = 0; t < kSteps; ++t) {
            int32_t pair;
            std::memcpy(&pair, in + t * in_step + k, sizeof pair);
            const __m512i x = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
            for (int v = 0; v < kN; ++v)
                sum[t][v] = (Vec)_mm512_dpbf16_ps((__m512)sum[t][v], (__m512bh)w[v], (__m512bh)x);
        }
    }
#else
    for (int64_t k = 0; k < l.inputs; ++k, weight += kN * kLanes) {
        Vec w[kN];
#pragma GCC unroll 8
        for (int v = 0; v < kN; ++v) {
            Vec some = load(weight + v * kLanes);
            DAS2F_KEEP(some);
            w[v] = some;
        }
#pragma GCC unroll 4
        for (int t = 0; t < kSteps; ++t) {
            const float x = in[t * in_step + k];
#pragma GCC unroll 8
            for (int v = 0; v < kN; ++v) sum[t][v] += w[v] * x;
        }
    }
#endif
#pragma GCC unroll 4
    for (int t = 0; t < kSteps; ++t)
#pragma GCC unroll 8
        for (int v = 0; v < kN; ++v) store(out + t * out_step + o + v * kLanes, sum[t][v]);
}

// out = W in + bias for kPatch tokens; steps are the numbers from a token to the next.
DAS2F_LOOP void multiply_tokens(const Linear &l, const Stored *in, int64_t in_step, float *out, int64_t out_step) {
    int64_t o = 0;
    // A block of weights stays in first-level cache for all tokens.
    for (; o + kProduct <= l.outputs; o += kProduct)
        for (int t = 0; t < kPatch; t += kSteps)
            multiply_vectors<kProductVectors>(l, o, in + t * in_step, in_step, out + t * out_step, out_step);
    const int64_t rest = (l.outputs - o) / kLanes;
    for (int t = 0; t < kPatch; t += kSteps) {
        const Stored *from = in + t * in_step;
        float *to = out + t * out_step;
        if (rest == 1) multiply_vectors<1>(l, o, from, in_step, to, out_step);
        else if (rest == 2) multiply_vectors<2>(l, o, from, in_step, to, out_step);
        else if (rest == 3) multiply_vectors<3>(l, o, from, in_step, to, out_step);
        else if (rest == 4) multiply_vectors<4>(l, o, from, in_step, to, out_step);
    }
}
#endif

// Lays a tile's planes out by token, with `row` numbers from a row of the patch to the next.
template <class Number>
DAS2F_FN void write_tokens(const Plane *planes, int tile, Number *tokens, int row) {
    for (int g = 0; g < kWidth; g += kLanes)
        for (int v = 0; v < kVectors; ++v) {
            const int token = tile * kTile + v * kLanes;
            Number *to = tokens + token / kPatch * row + token % kPatch * kWidth + g;
            Vec t[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) t[i] = load(planes[g + i] + v * kLanes);
            transpose_lanes(t);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(to + i * kWidth, t[i]);
        }
}

// The depthwise convolution of one row of the patch, and its SiLU, into `row`. A token's channels are 4 channels of 4 x 4
// pixels; the image has its tokens one by one for each of them.
DAS2F_LOOP void convolve_row(const float *taps, int r, LaterScratch &s) {
    constexpr int kRow = kPatch / kLanes;  // vectors of a row; sums of four are computed together
    for (int c = 0; c < 4; ++c, taps += 10) {
        const float (*image)[kPatch + 2][kImageRow] = s.image + c * 16;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            Vec sum[4 * kRow];
#pragma GCC unroll 16
            for (int j = 0; j < 4 * kRow; ++j) sum[j] = Vec{} + taps[9];
#pragma GCC unroll 3
            for (int a = 0; a < 3; ++a)
#pragma GCC unroll 3
                for (int b = 0; b < 3; ++b)
#pragma GCC unroll 16
                    for (int j = 0; j < 4 * kRow; ++j) {
                        const int row = i + a + 3, col = j / kRow + b + 3;  // of the pixel, from the token above left
                        const float *plane = image[row % 4 * 4 + col % 4][r + row / 4] + col / 4 + j % kRow * kLanes;
                        sum[j] += load(plane) * taps[a * 3 + b];
                    }
#pragma GCC unroll 16
            for (int j = 0; j < 4 * kRow; ++j)
                store(s.pixels[c * 16 + i * 4 + j / kRow] + j % kRow * kLanes, sum[j] * sigmoid_lanes(sum[j]));
        }
    }
    for (int g = 0; g < kWidth; g += kLanes)
        for (int v = 0; v < kPatch; v += kLanes) {
            Vec t[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) t[i] = load(s.pixels[g + i] + v);
            transpose_lanes(t);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(s.row[v + i] + g, t[i]);
        }
}

// Gate and scan input of a branch, from the tokens' planes.
DAS2F_FN void prepare(
    const Das2fStageWeights &w, int branch, const Plane (*tokens)[kWidth], Plane *normed, LaterScratch &s) {
    const int modality = branch % 2;
    Tokens &gate = s.gate[modality];
    TokenRows &x = s.x[modality];
    for (int tile = 0; tile < kTiles; ++tile) {
        layer_norm<kWidth>(tokens[tile], 1, w.norm[branch], normed);
        write_tokens(normed, tile, x[0], kTokenRow);  // until there is x
        for (int v = 0; v < kVectors; ++v) {
            const int token = tile * kTile + v * kLanes, row = token / kPatch + 1, col = token % kPatch + 1;
            for (int c = 0; c < kWidth; ++c) store(s.image[c][row] + col, load(normed[c] + v * kLanes));
        }
    }
    const Linear to_gate{weights_at(w.gate[branch]), nullptr, kWidth, kWidth};
    const Linear embed{weights_at(w.embed[branch]), w.embed_bias[branch], kWidth, kWidth};
    for (int r = 0; r < kPatch; ++r) {
        float *z = gate[r * kPatch];
        multiply_tokens(to_gate, x[r], kWidth, z, kWidth);
        for (int i = 0; i < kPatch * kWidth; i += kLanes) {
            const Vec v = load(z + i);
            store(z + i, v * sigmoid_lanes(v));
        }
        convolve_row(w.taps[branch], r, s);
        multiply_tokens(embed, s.row[0], kWidth, s.dt[0], kWidth);
        for (int i = 0; i < kPatch * kWidth; i += kLanes) store(x[r] + i, load(s.dt[0] + i));
    }
}

// Takes kPatch tokens on, from `first`, for one group of channels, and adds their outputs.
template <bool kLong>
DAS2F_LOOP void scan_line(const Stored *x, int64_t x_step, Scanned *y, int64_t y_step, int g, LaterScratch &s) {
    for (int j = 0; j < kPatch; j += kSteps) {
        Vec drive[kSteps], sum[kSteps] = {};
        const float *decay[kSteps], *b[kSteps];
        // Decays first: one loop for all would need more registers than there are.
        for (int k = 0; k < kSteps; ++k) fill_decays<kLong>(load(s.dt[j + k] + g * kLanes), s.rates[g].rate, s.decay[k]);
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            decay[k] = s.decay[k][0];
            b[k] = s.parameters[j + k];
            drive[k] = load(s.dt[j + k] + g * kLanes) * load(x + (j + k) * x_step);
        }
        pass_states(decay, b, drive, sum, s.state[g][0]);
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k, y += y_step) store(y, load(y) + sum[k]);
    }
}

// Whether a decay of the line is below 2^-126 in any channel of a group.
DAS2F_FN bool decays_are_long(int g, const LaterScratch &s) {
    Vec most = load(s.dt[0] + g * kLanes);
    for (int k = 1; k < kPatch; ++k) {
        const Vec other = load(s.dt[k] + g * kLanes);
        most = other > most ? other : most;
    }
    return s.rates[g].are_long(most);
}

// The step sizes of a line, from before their softplus. `step`: numbers from a token to the next.
DAS2F_LOOP void make_positive(const float *raw, int64_t step, float (*dt)[kWidth]) {
    for (int t = 0; t < kPatch; ++t)
        for (int k = 0; k < kWidth; k += kSteps * kLanes) {
            Vec some[kSteps];
#pragma GCC unroll 4
            for (int i = 0; i < kSteps; ++i) some[i] = load(raw + t * step + k + i * kLanes);
            softplus_lanes(some);
#pragma GCC unroll 4
            for (int i = 0; i < kSteps; ++i) store(dt[t] + k + i * kLanes, some[i]);
        }
}

// A direction's way through an array of tokens: along rows, columns, or either backwards. All in floats.
struct Walk {
    int64_t first, step, line;  // to the first token, from a token of a line to the next, and from a line to the next
    Walk(int direction, int64_t row, int64_t token) {
        const bool columns = direction % 2, back = direction > 1;
        const int64_t sign = back ? -1 : 1;
        first = back ? (kPatch - 1) * (row + token) : 0;
        step = sign * (columns ? row : token), line = sign * (columns ? token : row);
    }
};

// Scans a branch in all four directions into s.y. Its modality's x passes the parameters of the branch `source`.
DAS2F_FN void scan_patch(const Das2fStageWeights &w, int branch, int source, LaterScratch &s) {
    const TokenRows &x = s.x[branch % 2], &x_source = s.x[source % 2];
    for (int g = 0; g < kGroups; ++g) {
        const Vec skip = load(w.skip[branch] + g * kLanes);
        for (int t = 0; t < kTokens; ++t) store(s.y[g] + t * kLanes, skip * load(x[t / kPatch] + t % kPatch * kWidth + g * kLanes));
    }
    const int64_t outputs = (2 * kStates + w.rank + kBand - 1) / kBand * kBand;
    for (int direction = 0; direction < kDirections; ++direction) {
        const float *rates = w.decay[branch] + direction * kStates * kWidth;
        for (int g = 0; g < kGroups; ++g) {
            s.rates[g].take(rates + g * kLanes);
            for (int n = 0; n < kStates; ++n) store(s.state[g][n], Vec{});
        }
        const Stored *weight = weights_at(w.parameters[source]) + direction * kWidth * outputs;
#if DAS2F_BF16
        const Linear project{weight, w.dt_bias[source] + direction * outputs, kWidth, outputs};
#else
        const Linear project{weight, nullptr, kWidth, outputs};
        const Linear to_dt{
            w.dt[source] + direction * w.rank * kWidth, w.dt_bias[source] + direction * kWidth, w.rank, kWidth};
#endif
        const Walk in_x(direction, kTokenRow, kWidth), in_y(direction, kPatch * kLanes, kLanes);
        for (int i = 0; i < kPatch; ++i) {
            const int64_t at = in_x.first + i * in_x.line, y_at = in_y.first + i * in_y.line;
            multiply_tokens(project, x_source[0] + at, in_x.step, s.parameters[0], kMostParameters);
#if DAS2F_BF16
            make_positive(s.parameters[0] + 2 * kStates, kMostParameters, s.dt);
#else
            multiply_tokens(to_dt, s.parameters[0] + 2 * kStates, kMostParameters, s.dt[0], kWidth);
            make_positive(s.dt[0], kWidth, s.dt);
#endif
            for (int g = 0; g < kGroups; ++g) {
                const Stored *line = x[0] + at + g * kLanes;
                Scanned *y = s.y[g] + y_at;
                if (decays_are_long(g, s)) scan_line<true>(line, in_x.step, y, in_y.step, g, s);
                else scan_line<false>(line, in_x.step, y, in_y.step, g, s);
            }
        }
    }
}

// Does all of a branch up to its tail. Branches come in their order: the two of a mixer are prepared together.
DAS2F_FN void scan_later(
    const Das2fStageWeights &w, int branch, const Plane (*common)[kTiles][kWidth], Plane *normed, LaterScratch &s) {
    if (branch % 2 == 0)
        for (int m = 0; m < 2; ++m) {
            prepare(w, branch + m, common[m], normed, s);
#if DAS2F_AMX
            for (int tile = 0; tile < kTiles; ++tile)
                write_tokens(common[m][tile], tile, s.tokens[m][0], kPatch * kWidth);
#endif
        }
    scan_patch(w, branch, parameters_of(branch), s);
}

DAS2F_FN void locate_later(const LaterScratch &s, int branch, int tile, const Plane *common, BranchInput &in) {
    in.y = s.y[0] + tile * kTile * kLanes;
    in.group = kGroupOfPatch;
    in.planes = common;
    for (int i = 0; i < kTile; ++i) {
        in.gate[i] = s.gate[branch % 2][tile * kTile + i];
#if DAS2F_AMX
        in.tokens[i] = s.tokens[branch % 2][tile * kTile + i];
#endif
    }
}
