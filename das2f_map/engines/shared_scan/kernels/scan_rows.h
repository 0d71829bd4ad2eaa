// The scan of all patches of a block along one axis, forwards and backwards, for kLanes channels at a time.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after channels.h.
//
// `along` is the axis a row of tokens lies on, `across` the other one. Up to 16 patches meet a row of the block, each
// at its own position across. Patches that have the row in their middle share the map from state to state.

constexpr int kShared = kManyRegisters ? 6 : 3;  // patches whose sums are held in registers together
constexpr int kMostEntries = 4 * kStrip + kStrip + kPatch - 1 - 4;

// The scan's inputs at one token of one position class, for one group of channels.
struct Entry {
    Lanes exp[kStates];  // exp(dt A)
    Lanes dt;            // after softplus
    float b[kStates], c[kStates];
};

struct ScanScratch {
    Lanes state[kStrip][kPatch][kStates];  // of the patch at across i in slot i mod 16
    Entry entry[kMostEntries];  // of a strip in one row: fits a second-level cache
    Rates rates;
    Lanes weight[kSteps][kStates], product[kStates], local_state[kStates], local[kSteps];
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

// The scan of one direction, branch and group of channels.
struct Rows {
    const float *x, *parameters;  // from the group's first channel, and from the direction's first parameter
    int64_t x_across, x_along, p_across, p_along;  // strides of map entries
    int x_edge, p_edge;
    int64_t across, along;  // outputs
    Scanned *y;
    int64_t y_across, y_along;          // strides of patches
    int64_t token_across, token_along;  // strides of tokens
    Vec skip;
    bool reverse;
    int group;
};

// A strip of neighbouring starts along the rows, and the places of its tokens.
struct Strip {
    int64_t first, count, entries;
    int at[kStrip][kPatch];             // entry of the strip's own runs, by start and step
    int64_t x_offset[kStrip][kPatch];   // of the token's x in its map row
    int64_t offset[kMostEntries];       // of an entry in its map row
};

DAS2F_FN void prefetch_entry(const Rows &r, const float *entry) {
    __builtin_prefetch(entry + r.group * kLanes);
    for (int line = 0; line < 2 * kStates; line += 16) __builtin_prefetch(entry + kWidth + line);
}

// Fills the decays of a strip's entries.
template <bool kLong>
DAS2F_LOOP void fill_all_decays(int64_t entries, ScanScratch &w) {
    for (int64_t i = 0; i < entries; ++i) fill_decays<kLong>(load(w.entry[i].dt), w.rates.rate, w.entry[i].exp);
}

// Fills the entries of a strip from one row of the map.
DAS2F_FN void fill_entries(const Rows &r, const Strip &strip, int64_t row, ScanScratch &w) {
    const float *map = r.parameters + row * r.p_across;
    Vec most{};
    // dt first: each softplus is a long chain of operations, and only chains that follow each other overlap.
    for (int64_t i = 0; i < strip.entries; ++i) {
        if (i + 4 < strip.entries) prefetch_entry(r, map + strip.offset[i + 4]);
        Vec dt[1] = {load(map + strip.offset[i] + r.group * kLanes)};
        softplus_lanes(dt);
        store(w.entry[i].dt, dt[0]);
        most = dt[0] > most ? dt[0] : most;
        std::memcpy(w.entry[i].b, map + strip.offset[i] + kWidth, sizeof w.entry[i].b + sizeof w.entry[i].c);
    }
    if (w.rates.are_long(most)) fill_all_decays<true>(strip.entries, w);
    else fill_all_decays<false>(strip.entries, w);
}

template <bool kFirst>
DAS2F_FN void put(Scanned *y, const Vec &sum) {
    store(y, kFirst ? sum : load(y) + sum);
}

// Scans one row of one patch, on processors whose registers hold all of its states.
template <bool kFirst>
DAS2F_FN void scan_in_registers(
    const Rows &r, const float *x_row, const int64_t *x_offset, const int *at, Scanned *y, bool fresh, float *state,
    const ScanScratch &w) {
    Vec h[kStates];
#pragma GCC unroll 24
    for (int n = 0; n < kStates; ++n) h[n] = fresh ? Vec{} : load(state + n * kLanes);
    const int64_t step = r.reverse ? -r.token_along : r.token_along;
    for (int j = 0; j < kPatch; ++j, y += step) {
        const Entry &e = w.entry[at[j]];
        const Vec x = load(x_row + x_offset[j]), drive = load(e.dt) * x;
        Vec even = kFirst ? r.skip * x : Vec{}, odd{};
#pragma GCC unroll 24
        for (int n = 0; n < kStates; ++n) {
            h[n] = load(e.exp[n]) * h[n] + drive * e.b[n];
            if (n % 2) odd += h[n] * e.c[n];
            else even += h[n] * e.c[n];
        }
        put<kFirst>(y, even + odd);
    }
#pragma GCC unroll 24
    for (int n = 0; n < kStates; ++n) store(state + n * kLanes, h[n]);
}

// The same on other processors: a state passes kSteps tokens before it is stored.
template <bool kFirst>
DAS2F_FN void scan_in_steps(
    const Rows &r, const float *x_row, const int64_t *x_offset, const int *at, Scanned *y, bool fresh, float *state,
    const ScanScratch &w) {
    const int64_t step = r.reverse ? -r.token_along : r.token_along;
    for (int j = 0; j < kPatch; j += kSteps) {
        Vec drive[kSteps], sum[kSteps];
        const Entry *e[kSteps];
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            e[k] = &w.entry[at[j + k]];
            const Vec x = load(x_row + x_offset[j + k]);
            drive[k] = load(e[k]->dt) * x;
            sum[k] = kFirst ? r.skip * x : Vec{};
        }
        const bool zero = fresh && j == 0;
#pragma GCC unroll 2
        for (int n = 0; n < kStates; ++n) {
            Vec h = zero ? Vec{} : load(state + n * kLanes);
#pragma GCC unroll 4
            for (int k = 0; k < kSteps; ++k) {
                h = load(e[k]->exp[n]) * h + drive[k] * e[k]->b[n];
                sum[k] += h * e[k]->c[n];
            }
            store(state + n * kLanes, h);
        }
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k, y += step) put<kFirst>(y, sum[k]);
    }
}

template <bool kFirst>
DAS2F_FN void scan_directly(
    const Rows &r, const float *x_row, const int64_t *x_offset, const int *at, Scanned *y, bool fresh, float *state,
    const ScanScratch &w) {
    // Fetch the outputs of the next start.
    for (int j = 0; j < kPatch; ++j) __builtin_prefetch(y + r.y_along + j * r.token_along, 1);
    if (r.reverse) y += (kPatch - 1) * r.token_along;
    if (kManyRegisters) scan_in_registers<kFirst>(r, x_row, x_offset, at, y, fresh, state, w);
    else scan_in_steps<kFirst>(r, x_row, x_offset, at, y, fresh, state, w);
}

// Takes kSteps tokens of a row from a zero state: gives W and ylocal, carries P_end and L_end on.
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

// Outputs of the same tokens in kCount patches, from the states that enter the row.
template <int kCount, bool kFirst>
DAS2F_FN void apply_steps(float *const *state, Scanned *const *y, const int64_t *token, ScanScratch &w) {
    Vec sum[kCount][kSteps];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) sum[i][k] = load(w.local[k]);
#pragma GCC unroll 2
    for (int n = 0; n < kStates; ++n) {
        Vec h[kCount];
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) h[i] = load(state[i] + n * kLanes);
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            const Vec weight = load(w.weight[k][n]);
#pragma GCC unroll 8
            for (int i = 0; i < kCount; ++i) sum[i][k] += weight * h[i];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) put<kFirst>(y[i] + token[k], sum[i][k]);
}

template <bool kFirst>
DAS2F_FN void apply_all(
    int64_t count, float *const *state, Scanned *const *y, const int64_t *token, ScanScratch &w) {
    int64_t i = 0;
    for (; i + kShared <= count; i += kShared) apply_steps<kShared, kFirst>(state + i, y + i, token, w);
    if (kShared > 4 && i + 4 <= count) {
        apply_steps<4, kFirst>(state + i, y + i, token, w);
        i += 4;
    }
    if (i + 2 <= count) {
        apply_steps<2, kFirst>(state + i, y + i, token, w);
        i += 2;
    }
    if (i < count) apply_steps<1, kFirst>(state + i, y + i, token, w);
}

// Scans a row for the patches that have it in their middle, from `low` to `high`.
template <bool kFirst>
DAS2F_FN void scan_middle(
    const Rows &r, const Strip &strip, int64_t row, const float *x_row, int64_t low, int64_t high, ScanScratch &w) {
    const int64_t count = high - low + 1, step = r.reverse ? -r.token_along : r.token_along;
    const int64_t start = r.reverse ? (kPatch - 1) * r.token_along : 0;
    for (int64_t s = 0; s < strip.count; ++s) {
        float *state[kPatch];
        Scanned *y[kPatch];
        for (int64_t i = 0; i < count; ++i) {
            state[i] = w.state[s][(low + i) % kPatch][0];
            y[i] = r.y + (low + i) * r.y_across + (strip.first + s) * r.y_along + (row - low - i) * r.token_across;
        }
        for (int j = 0; j < kPatch; j += kSteps) {
            int64_t token[kSteps];
            for (int k = 0; k < kSteps; ++k) token[k] = start + (j + k) * step;
            // Fetch the outputs that the next steps add to, or those of the next start's first steps.
            const int64_t ahead = j + kSteps < kPatch ? kSteps * step : r.y_along - j * step;
            for (int64_t i = 0; i < count; ++i)
                for (int k = 0; k < kSteps; ++k) __builtin_prefetch(y[i] + token[k] + ahead, 1);
            segment_steps<kFirst>(r, x_row, strip.x_offset[s], strip.at[s], j, w);
            apply_all<kFirst>(count, state, y, token, w);
        }
        for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 8
            for (int k = 0; k < kStates; ++k) {
                float *h = state[i] + k * kLanes;
                store(h, load(w.product[k]) * load(h) + load(w.local_state[k]));
            }
    }
}

// Scans one row for all patches that meet it.
template <bool kFirst>
DAS2F_FN void scan_row(const Rows &r, const Strip &strip, int64_t row, ScanScratch &w) {
    const Axis parameters{r.across, r.p_edge}, inputs{r.across, r.x_edge};
    const int edge = r.x_edge > r.p_edge ? r.x_edge : r.p_edge;
    int64_t filled = -1;
    for (int position = 0; position < kPatch; ++position) {
        const int64_t patch = row - position;
        if (patch < 0 || patch >= r.across) continue;
        const float *x_row = r.x + inputs.entry(patch, position) * r.x_across;
        const int64_t map_row = parameters.entry(patch, position);
        if (map_row != filled) fill_entries(r, strip, map_row, w);
        filled = map_row;
        if (position < edge || position >= kPatch - edge) {
            const bool fresh = position == (r.reverse ? kPatch - 1 : 0);
            for (int64_t s = 0; s < strip.count; ++s) {
                Scanned *y = r.y + patch * r.y_across + (strip.first + s) * r.y_along + position * r.token_across;
                float *state = w.state[s][patch % kPatch][0];
                scan_directly<kFirst>(r, x_row, strip.x_offset[s], strip.at[s], y, fresh, state, w);
            }
            continue;
        }
        const int64_t lowest = row - (kPatch - 1 - edge), low = lowest < 0 ? 0 : lowest;
        scan_middle<kFirst>(r, strip, row, x_row, low, patch, w);
        position = static_cast<int>(row - low);  // all these patches are done
    }
}

// Scans all rows for n neighbouring starts from `first`.
template <bool kFirst>
DAS2F_FN void scan_strip(const Rows &r, int64_t first, int64_t n, ScanScratch &w) {
    const Axis whole{r.along, r.p_edge}, own{n, r.p_edge}, x_whole{r.along, r.x_edge};
    Strip strip;
    strip.first = first, strip.count = n, strip.entries = 2 * r.p_edge * n + own.middle();
    for (int64_t s = 0; s < n; ++s)
        for (int j = 0; j < kPatch; ++j) {
            const int position = r.reverse ? kPatch - 1 - j : j;
            strip.at[s][j] = static_cast<int>(own.entry(s, position));
            strip.offset[strip.at[s][j]] = whole.entry(first + s, position) * r.p_along;
            strip.x_offset[s][j] = x_whole.entry(first + s, position) * r.x_along;
        }
    const int64_t rows = r.across + kPatch - 1;
    for (int64_t i = 0; i < rows; ++i) scan_row<kFirst>(r, strip, r.reverse ? rows - 1 - i : i, w);
}

// Scans both directions of an axis for one branch, group of channels and strip; nothing else writes to that part of y.
DAS2F_FN void scan_item(
    const Das2fSharedBlock &b, const Das2fStageWeights &weights, bool columns, int64_t branch, int64_t group,
    int64_t first, int64_t n, ScanScratch &w) {
    const Layout layout(b.rows, b.cols, kLanes, sizeof(Scanned));
    const int64_t source = parameters_of(static_cast<int>(branch));
    Rows r;
    r.x_edge = scan_edge(branch % 2), r.p_edge = scan_edge(source % 2);
    const int64_t x_row = Axis{b.cols, r.x_edge}.middle() + 2 * r.x_edge * b.cols;
    const int64_t p_row = Axis{b.cols, r.p_edge}.middle() + 2 * r.p_edge * b.cols;
    r.x = b.scan[branch] + group * kLanes;
    r.x_across = columns ? kScanMap : x_row * kScanMap, r.x_along = columns ? x_row * kScanMap : kScanMap;
    r.p_across = columns ? kScanMap : p_row * kScanMap, r.p_along = columns ? p_row * kScanMap : kScanMap;
    r.across = columns ? b.cols : b.rows, r.along = columns ? b.rows : b.cols;
    r.y = static_cast<Scanned *>(b.y) + branch * layout.branch + group * layout.group;
    r.y_across = columns ? layout.patch : layout.row, r.y_along = columns ? layout.row : layout.patch;
    r.token_across = columns ? kLanes : kPatch * kLanes, r.token_along = columns ? kPatch * kLanes : kLanes;
    r.skip = load(weights.skip[branch] + group * kLanes);
    r.group = static_cast<int>(group);
    for (int backwards = 0; backwards < 2; ++backwards) {
        const int direction = 2 * backwards + columns;
        r.reverse = backwards;
        r.parameters = b.scan[source] + kWidth + direction * kDirection;
        w.rates.take(weights.decay[branch] + direction * kStates * kWidth + group * kLanes);
        if (direction == 0) scan_strip<true>(r, first, n, w);
        else scan_strip<false>(r, first, n, w);
    }
}

// A work item is a branch and a group of channels, with all strips of both axes (axis < 0) or one strip of one axis.
DAS2F_FN void scan_items(
    const Das2fSharedBlock &b, const Das2fSharedWeights &weights, Pass pass, std::atomic<int64_t> &next) {
    std::vector<char> memory(sizeof(ScanScratch) + 64);
    void *place = memory.data();
    size_t room = memory.size();
    ScanScratch &w = *static_cast<ScanScratch *>(std::align(64, sizeof(ScanScratch), place, room));
    const int64_t length = pass.strip, alongs[2] = {b.cols, b.rows};
    const int64_t strips[2] = {(b.cols + length - 1) / length, (b.rows + length - 1) / length};
    const int64_t each = pass.axis < 0 ? 1 : strips[pass.axis];
    for (int64_t item = next++; item < 4 * kGroups * each; item = next++) {
        const int64_t group = item / each % kGroups, branch = item / each / kGroups;
        const int64_t begin = pass.axis < 0 ? 0 : pass.axis ? strips[0] + item % each : item % each;
        const int64_t end = pass.axis < 0 ? strips[0] + strips[1] : begin + 1;
        for (int64_t i = begin; i < end; ++i) {
            const bool columns = i >= strips[0];
            const int64_t first = (columns ? i - strips[0] : i) * length, rest = alongs[columns] - first;
            scan_item(b, weights.stage[0], columns, branch, group, first, rest < length ? rest : length, w);
        }
    }
}
