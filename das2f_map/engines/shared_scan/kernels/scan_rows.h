// The scan of all patches of a block along one axis, forwards and backwards, for kLanes channels at a time.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after lanes.h.
//
// `along` is the axis a row of tokens lies on, `across` the other one. A row of the block is met by up to 16
// patches, each at its own position across; those that have it in their middle share what it does to a state.

constexpr int kGroups = kWidth / kLanes;
constexpr int kShared = kLanes == 16 ? 6 : 2;  // patches whose sums are held in registers together
constexpr int kSteps = 4;                      // tokens, likewise
constexpr int kMostEntries = 4 * kStrip + kStrip + kPatch - 1 - 4;

// The scan's inputs at one token of one position class, for one group of channels.
struct Entry {
    float exp[kStates][kLanes];  // exp(dt A)
    float dt[kLanes];            // after softplus
    float b[kStates], c[kStates];
};

struct ScanScratch {
    Entry entry[kMostEntries];
    float state[kStrip][kPatch][kStates][kLanes];  // of the patch at across i in slot i mod 16
    float weight[kSteps][kStates][kLanes];
    float product[kStates][kLanes], local_state[kStates][kLanes];
    float local[kSteps][kLanes];
};

struct Axis {
    int64_t outputs;
    int edge;
    int64_t middle() const { return outputs + kPatch - 1 - 2 * edge; }
    int64_t entry(int64_t start, int position) const {
        if (position < edge) return position * outputs + start;
        if (position < kPatch - edge) return edge * outputs + start + position - edge;
        return edge * outputs + middle() + (position - (kPatch - edge)) * outputs + start;
    }
};

// One direction, branch and group of channels.
struct Rows {
    const float *x, *parameters;  // at the group's channels, and at the direction
    int64_t x_across, x_along, p_across, p_along;  // strides of map entries
    int x_edge, p_edge;
    int64_t across, along;  // outputs
    float *y;
    int64_t y_across, y_along;          // strides of patches
    int64_t token_across, token_along;  // strides of tokens
    const float *decay;                 // (24, 64) at the group's channels
    Vec skip;
    bool reverse;
    int group;
};

DAS2F_FN Vec abs_lanes(const Vec &v) { return v < Vec{} ? -v : v; }

DAS2F_FN Vec softplus_lanes(const Vec &v) {
    // max(v, 0) + log(1 + t), the logarithm as 2 artanh(t / (2 + t)), which is exact for small t too.
    const Vec t = exp2_lanes(abs_lanes(v) * -kLog2e);
    const Vec z = t / (t + 2.0f), q = z * z;
    Vec s = q * (1.0f / 13) + 1.0f / 11;
    s = s * q + 1.0f / 9;
    s = s * q + 1.0f / 7;
    s = s * q + 1.0f / 5;
    s = s * q + 1.0f / 3;
    s = s * q + 1.0f;
    return (v > Vec{} ? v : Vec{}) + 2.0f * z * s;
}

// The entries of a strip of n starts in one row of the map, laid out in runs as the map itself.
DAS2F_FN void fill_entries(const Rows &r, const int64_t *offset, int64_t entries, int64_t row, ScanScratch &w) {
    const float *map = r.parameters + row * r.p_across;
    Vec decay[kStates];
    for (int n = 0; n < kStates; ++n) decay[n] = load(r.decay + n * kWidth);
    for (int64_t i = 0; i < entries; ++i) {
        const float *source = map + offset[i];
        if (i + 4 < entries) {
            const float *ahead = map + offset[i + 4];
            __builtin_prefetch(ahead + r.group * kLanes);
            for (int line = 0; line < 2 * kStates; line += 16) __builtin_prefetch(ahead + kWidth + line);
        }
        Entry &e = w.entry[i];
        const Vec dt = softplus_lanes(load(source + r.group * kLanes));
        store(e.dt, dt);
        std::memcpy(e.b, source + kWidth, sizeof e.b + sizeof e.c);
#pragma GCC unroll 8
        for (int n = 0; n < kStates; ++n) store(e.exp[n], exp2_lanes(dt * decay[n]));
    }
}

template <bool kFirst>
DAS2F_FN void put(const Rows &r, float *y, const Vec &sum) {
    store(y, kFirst ? sum : load(y) + sum);
    (void)r;
}

// One row of one patch, kSteps tokens at a time.
template <bool kFirst>
DAS2F_FN void scan_directly(
    const Rows &r, const float *x_row, const int64_t *x_offset, const int *at, float *y, float *state, ScanScratch &w) {
    for (int j = 0; j < kPatch; j += kSteps) {
        Vec drive[kSteps], sum[kSteps];
        const Entry *e[kSteps];
        float *out[kSteps];
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            e[k] = &w.entry[at[j + k]];
            const Vec x = load(x_row + x_offset[j + k]);
            drive[k] = load(e[k]->dt) * x;
            sum[k] = kFirst ? r.skip * x : Vec{};
            out[k] = y + (r.reverse ? kPatch - 1 - j - k : j + k) * r.token_along;
        }
#pragma GCC unroll 4
        for (int n = 0; n < kStates; ++n) {
            Vec h = load(state + n * kLanes);
#pragma GCC unroll 4
            for (int k = 0; k < kSteps; ++k) {
                h = load(e[k]->exp[n]) * h + drive[k] * e[k]->b[n];
                sum[k] += h * e[k]->c[n];
            }
            store(state + n * kLanes, h);
        }
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) put<kFirst>(r, out[k], sum[k]);
    }
}

// kSteps tokens of a row from a zero state: W, ylocal, and what they add to P_end and L_end.
template <bool kFirst>
DAS2F_FN void segment_steps(
    const Rows &r, const float *x_row, const int64_t *x_offset, const int *at, int j, ScanScratch &w) {
    Vec drive[kSteps], sum[kSteps];
    const Entry *e[kSteps];
#pragma GCC unroll 4
    for (int k = 0; k < kSteps; ++k) {
        e[k] = &w.entry[at[j + k]];
        const Vec x = load(x_row + x_offset[j + k]);
        drive[k] = load(e[k]->dt) * x;
        sum[k] = kFirst ? r.skip * x : Vec{};
    }
#pragma GCC unroll 4
    for (int n = 0; n < kStates; ++n) {
        Vec h = j ? load(w.local_state[n]) : Vec{}, p = j ? load(w.product[n]) : Vec{} + 1.0f;
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            const Vec exp = load(e[k]->exp[n]);
            h = exp * h + drive[k] * e[k]->b[n];
            p = exp * p;
            sum[k] += h * e[k]->c[n];
            store(w.weight[k][n], p * e[k]->c[n]);
        }
        store(w.local_state[n], h);
        store(w.product[n], p);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kSteps; ++k) store(w.local[k], sum[k]);
}

// The same tokens' outputs of kCount patches from the states that enter the row.
template <int kCount, bool kFirst>
DAS2F_FN void apply_steps(const Rows &r, float *const *state, float *const *y, const int64_t *token, ScanScratch &w) {
    Vec sum[kCount][kSteps];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) sum[i][k] = load(w.local[k]);
#pragma GCC unroll 2
    for (int n = 0; n < kStates; ++n) {
        Vec weight[kSteps];
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) weight[k] = load(w.weight[k][n]);
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) {
            const Vec h = load(state[i] + n * kLanes);
#pragma GCC unroll 4
            for (int k = 0; k < kSteps; ++k) sum[i][k] += weight[k] * h;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) put<kFirst>(r, y[i] + token[k], sum[i][k]);
}

template <bool kFirst>
DAS2F_FN void apply_all(
    const Rows &r, int64_t count, float *const *state, float *const *y, const int64_t *token, ScanScratch &w) {
    int64_t i = 0;
    for (; i + kShared <= count; i += kShared) apply_steps<kShared, kFirst>(r, state + i, y + i, token, w);
    if (kShared > 4 && i + 4 <= count) {
        apply_steps<4, kFirst>(r, state + i, y + i, token, w);
        i += 4;
    }
    if (kShared > 2 && i + 2 <= count) {
        apply_steps<2, kFirst>(r, state + i, y + i, token, w);
        i += 2;
    }
    if (i < count) apply_steps<1, kFirst>(r, state + i, y + i, token, w);
}

// Positions across of one class of the parameters' maps, in one row.
template <bool kFirst>
DAS2F_FN void scan_class(
    const Rows &r, int64_t row, int from, int to, int64_t first, int64_t n, const int64_t *offset, int64_t entries,
    const int (*at)[kPatch], const int64_t (*x_offset)[kPatch], ScanScratch &w) {
    const Axis parameters{r.across, r.p_edge}, inputs{r.across, r.x_edge};
    const int edge = r.x_edge > r.p_edge ? r.x_edge : r.p_edge;
    // Patches that have this row at these positions.
    int64_t low = row - to, high = row - from;
    if (low < 0) low = 0;
    if (high > r.across - 1) high = r.across - 1;
    if (low > high) return;
    fill_entries(r, offset, entries, parameters.entry(high, static_cast<int>(row - high)), w);
    for (int64_t i = low; i <= high; ++i) {
        const int position = static_cast<int>(row - i);
        if (position >= edge && position < kPatch - edge) continue;
        const float *x_row = r.x + inputs.entry(i, position) * r.x_across;
        const bool fresh = position == (r.reverse ? kPatch - 1 : 0);
        for (int64_t s = 0; s < n; ++s) {
            float *state = w.state[s][i % kPatch][0];
            if (fresh) std::memset(state, 0, sizeof w.state[s][0]);
            float *y = r.y + i * r.y_across + (first + s) * r.y_along + position * r.token_across;
            scan_directly<kFirst>(r, x_row, x_offset[s], at[s], y, state, w);
        }
    }
    low = low < row - (kPatch - 1 - edge) ? row - (kPatch - 1 - edge) : low;
    high = high > row - edge ? row - edge : high;
    if (low > high) return;
    const float *x_row = r.x + inputs.entry(high, static_cast<int>(row - high)) * r.x_across;
    const int64_t count = high - low + 1;
    for (int64_t s = 0; s < n; ++s) {
        float *state[kPatch], *y[kPatch];
        for (int64_t i = 0; i < count; ++i) {
            state[i] = w.state[s][(low + i) % kPatch][0];
            y[i] = r.y + (low + i) * r.y_across + (first + s) * r.y_along + (row - low - i) * r.token_across;
        }
        for (int j = 0; j < kPatch; j += kSteps) {
            int64_t token[kSteps];
            for (int k = 0; k < kSteps; ++k)
                token[k] = (r.reverse ? kPatch - 1 - j - k : j + k) * r.token_along;
            for (int64_t i = 0; i < count; ++i)
                for (int k = 0; k < kSteps; ++k) __builtin_prefetch(y[i] + token[k], 1);
            segment_steps<kFirst>(r, x_row, x_offset[s], at[s], j, w);
            apply_all<kFirst>(r, count, state, y, token, w);
        }
        for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 8
            for (int k = 0; k < kStates; ++k) {
                float *h = state[i] + k * kLanes;
                store(h, load(w.product[k]) * load(h) + load(w.local_state[k]));
            }
    }
}

// All rows for n neighbouring starts from `first`.
template <bool kFirst>
DAS2F_FN void scan_strip(const Rows &r, int64_t first, int64_t n, ScanScratch &w) {
    const Axis whole{r.along, r.p_edge}, strip{n, r.p_edge}, x_whole{r.along, r.x_edge};
    int at[kStrip][kPatch];
    int64_t x_offset[kStrip][kPatch], offset[kMostEntries];
    for (int64_t s = 0; s < n; ++s)
        for (int j = 0; j < kPatch; ++j) {
            const int position = r.reverse ? kPatch - 1 - j : j;
            at[s][j] = static_cast<int>(strip.entry(s, position));
            offset[at[s][j]] = whole.entry(first + s, position) * r.p_along;
            x_offset[s][j] = x_whole.entry(first + s, position) * r.x_along;
        }
    const int64_t entries = 2 * r.p_edge * n + strip.middle(), rows = r.across + kPatch - 1;
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = r.reverse ? rows - 1 - i : i;
        for (int edge = 0; edge < r.p_edge; ++edge)
            scan_class<kFirst>(r, row, edge, edge, first, n, offset, entries, at, x_offset, w);
        scan_class<kFirst>(r, row, r.p_edge, kPatch - 1 - r.p_edge, first, n, offset, entries, at, x_offset, w);
        for (int edge = kPatch - r.p_edge; edge < kPatch; ++edge)
            scan_class<kFirst>(r, row, edge, edge, first, n, offset, entries, at, x_offset, w);
    }
}

// Work items are (branch, group of channels, strip): each owns its part of y in both directions of an axis.
DAS2F_FN void scan_items(
    const Das2fSharedBlock &b, const Das2fSharedWeights &weights, int columns, std::atomic<int64_t> &next) {
    const Layout layout(b.rows, b.cols, kLanes);
    std::vector<char> memory(sizeof(ScanScratch) + 64);
    void *place = memory.data();
    size_t room = memory.size();
    ScanScratch &w = *static_cast<ScanScratch *>(std::align(64, sizeof(ScanScratch), place, room));
    const int64_t along = columns ? b.rows : b.cols, across = columns ? b.cols : b.rows;
    const int64_t strips = (along + kStrip - 1) / kStrip;
    for (int64_t item = next++; item < 4 * kGroups * strips; item = next++) {
        const int64_t strip = item % strips, group = item / strips % kGroups, branch = item / strips / kGroups;
        // CMDA scans each modality with the other one's parameters.
        const int64_t source = branch == 2 ? 3 : branch == 3 ? 2 : branch;
        Rows r;
        r.x_edge = scan_edge(branch % 2), r.p_edge = scan_edge(source % 2);
        const int64_t x_row = Axis{b.cols, r.x_edge}.middle() + 2 * r.x_edge * b.cols;
        const int64_t p_row = Axis{b.cols, r.p_edge}.middle() + 2 * r.p_edge * b.cols;
        r.x = b.scan[branch] + group * kLanes;
        r.x_across = columns ? kScanMap : x_row * kScanMap, r.x_along = columns ? x_row * kScanMap : kScanMap;
        r.p_across = columns ? kScanMap : p_row * kScanMap, r.p_along = columns ? p_row * kScanMap : kScanMap;
        r.across = across, r.along = along;
        r.y = b.y + branch * layout.branch + group * layout.group;
        r.y_across = columns ? layout.patch : layout.row, r.y_along = columns ? layout.row : layout.patch;
        r.token_across = columns ? kLanes : kPatch * kLanes, r.token_along = columns ? kPatch * kLanes : kLanes;
        r.skip = load(weights.skip[branch] + group * kLanes);
        r.group = static_cast<int>(group);
        for (int backwards = 0; backwards < 2; ++backwards) {
            const int direction = 2 * backwards + columns;
            r.reverse = backwards;
            r.parameters = b.scan[source] + kWidth + direction * kDirection;
            r.decay = weights.decay[branch] + direction * kStates * kWidth + group * kLanes;
            const int64_t first = strip * kStrip;
            const int64_t n = along - first < kStrip ? along - first : kStrip;
            if (direction == 0) scan_strip<true>(r, first, n, w);
            else scan_strip<false>(r, first, n, w);
        }
    }
}
