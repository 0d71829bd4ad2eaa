// The scan's body, for kLanes neighbouring channels at a time. scan.cpp includes it once for each kLanes,
// inside a namespace of its own.

#include "lanes.h"

// N > 0 fixes the number of states at compile time; N == 0 takes it from the arguments.
template <int N>
ALWAYS_INLINE void forward_item(const Das2fScan &s, int64_t item) {
    const int n_states = N ? N : static_cast<int>(s.states);
    const int64_t k = item % s.directions, batch = item / s.directions;
    const int64_t *order = s.order + k * s.steps;
    const float *dt = s.dt + item * s.steps * s.width;
    const float *b = s.b + item * s.steps * n_states;
    const float *c = s.c + item * s.steps * n_states;
    const float *x = s.x + batch * s.steps * s.width;
    float *y = s.y + item * s.steps * s.width;
    for (int64_t first = 0; first < s.width; first += kLanes) {
        Vec h[N ? N : kMaxStates], a[N ? N : kMaxStates];
        for (int n = 0; n < n_states; ++n) {
            h[n] = Vec{};
            a[n] = load(s.a + (k * n_states + n) * s.width + first) * kLog2e;
        }
        const Vec skip = load(s.d + k * s.width + first);
        for (int64_t t = 0; t < s.steps; ++t) {
            const int64_t token = order[t];
            const Vec step = load(dt + token * s.width + first);
            const Vec input = load(x + token * s.width + first);
            const Vec drive = step * input;
            const float *bt = b + token * n_states, *ct = c + token * n_states;
            Vec sum[4] = {skip * input, Vec{}, Vec{}, Vec{}};
#pragma GCC unroll 3
            for (int eight = 0; eight < n_states; eight += kStateStep)
#pragma GCC unroll 8
                for (int n = eight; n < eight + kStateStep; ++n) {
                    h[n] = exp2_lanes(step * a[n]) * h[n] + drive * bt[n];
                    sum[n & 3] += h[n] * ct[n];
                }
            store(y + token * s.width + first, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
    }
}

template <int N>
ALWAYS_INLINE void backward_item(const Das2fScan &s, int64_t item, Vec *scratch) {
    const int n_states = N ? N : static_cast<int>(s.states);
    constexpr int kCap = N ? N : kMaxStates;
    const int64_t k = item % s.directions, batch = item / s.directions;
    const int64_t *order = s.order + k * s.steps;
    const int64_t groups = s.width / kLanes, chunks = (s.steps + kChunk - 1) / kChunk;
    const float *dt = s.dt + item * s.steps * s.width;
    const float *b = s.b + item * s.steps * n_states;
    const float *c = s.c + item * s.steps * n_states;
    const float *x = s.x + batch * s.steps * s.width;
    const float *grad_y = s.grad_y + item * s.steps * s.width;
    float *grad_x = s.grad_x + item * s.steps * s.width;
    float *grad_dt = s.grad_dt + item * s.steps * s.width;
    float *grad_a = s.grad_a + item * n_states * s.width;
    float *grad_d = s.grad_d + item * s.width;

    // scratch: states at chunk starts (chunks, groups, N), then grad_h (groups, N), then grad_a.
    Vec *starts = scratch;
    Vec *grad_h = starts + chunks * groups * n_states;
    Vec *sum_a = grad_h + groups * n_states;
    for (int64_t i = 0; i < groups * n_states; ++i) grad_h[i] = sum_a[i] = Vec{};
    for (int64_t i = 0; i < s.width; ++i) grad_d[i] = 0.0f;

    for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * kLanes;
        Vec h[kCap], a[kCap];
        for (int n = 0; n < n_states; ++n) {
            h[n] = Vec{};
            a[n] = load(s.a + (k * n_states + n) * s.width + first) * kLog2e;
        }
        for (int64_t t = 0; t < s.steps; ++t) {
            if (t % kChunk == 0)
                for (int n = 0; n < n_states; ++n) starts[((t / kChunk) * groups + g) * n_states + n] = h[n];
            const int64_t token = order[t];
            const Vec step = load(dt + token * s.width + first);
            const Vec drive = step * load(x + token * s.width + first);
            const float *bt = b + token * n_states;
#pragma GCC unroll 3
            for (int eight = 0; eight < n_states; eight += kStateStep)
#pragma GCC unroll 8
                for (int n = eight; n < eight + kStateStep; ++n)
                    h[n] = exp2_lanes(step * a[n]) * h[n] + drive * bt[n];
        }
    }

    Vec decay[kChunk][kCap], state[kChunk + 1][kCap];
    Vec sum_b[kChunk][kCap], sum_c[kChunk][kCap];
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        const int64_t begin = chunk * kChunk;
        const int length = static_cast<int>(s.steps - begin < kChunk ? s.steps - begin : kChunk);
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = g * kLanes;
            Vec *gh = grad_h + g * n_states, *ga = sum_a + g * n_states;
            Vec a[kCap];
            for (int n = 0; n < n_states; ++n) {
                a[n] = load(s.a + (k * n_states + n) * s.width + first);
                state[0][n] = starts[(chunk * groups + g) * n_states + n];
            }
            for (int i = 0; i < length; ++i) {
                const int64_t token = order[begin + i];
                const Vec step = load(dt + token * s.width + first);
                const Vec scaled = step * kLog2e;
                const Vec drive = step * load(x + token * s.width + first);
                const float *bt = b + token * n_states;
#pragma GCC unroll 4
                for (int n = 0; n < n_states; ++n) {
                    decay[i][n] = exp2_lanes(scaled * a[n]);
                    state[i + 1][n] = decay[i][n] * state[i][n] + drive * bt[n];
                }
            }
            const Vec skip = load(s.d + k * s.width + first);
            Vec gd = load(grad_d + first);
            for (int i = length - 1; i >= 0; --i) {
                const int64_t token = order[begin + i];
                const Vec step = load(dt + token * s.width + first);
                const Vec input = load(x + token * s.width + first);
                const Vec drive = step * input;
                const Vec gy = load(grad_y + token * s.width + first);
                const float *bt = b + token * n_states, *ct = c + token * n_states;
                Vec grad_drive = Vec{}, grad_step = Vec{};
#pragma GCC unroll 4
                for (int n = 0; n < n_states; ++n) {
                    const Vec into = gh[n] + gy * ct[n];
                    const Vec back = into * decay[i][n];
                    const Vec moved = back * state[i][n];
                    grad_step += moved * a[n];
                    ga[n] += moved * step;
                    grad_drive += into * bt[n];
                    gh[n] = back;
                    const Vec pb = into * drive, pc = gy * state[i + 1][n];
                    sum_b[i][n] = g ? sum_b[i][n] + pb : pb;
                    sum_c[i][n] = g ? sum_c[i][n] + pc : pc;
                }
                store(grad_x + token * s.width + first, grad_drive * step + skip * gy);
                store(grad_dt + token * s.width + first, grad_step + grad_drive * input);
                gd += gy * input;
            }
            store(grad_d + first, gd);
        }
        for (int i = 0; i < length; ++i) {
            const int64_t token = order[begin + i];
            float *gb = s.grad_b + (item * s.steps + token) * n_states;
            float *gc = s.grad_c + (item * s.steps + token) * n_states;
            for (int n = 0; n < n_states; ++n) {
                float total_b = 0.0f, total_c = 0.0f;
                for (int lane = 0; lane < kLanes; ++lane) {
                    total_b += sum_b[i][n][lane];
                    total_c += sum_c[i][n][lane];
                }
                gb[n] = total_b;
                gc[n] = total_c;
            }
        }
    }
    for (int64_t g = 0; g < groups; ++g)
        for (int n = 0; n < n_states; ++n) store(grad_a + n * s.width + g * kLanes, sum_a[g * n_states + n]);
}

ALWAYS_INLINE void run_range(const Das2fScan &s, bool backward, std::atomic<int64_t> &next) {
    const int64_t items = s.batch * s.directions;
    std::vector<char> memory;
    Vec *scratch = nullptr;
    if (backward) {
        const int64_t groups = s.width / kLanes, chunks = (s.steps + kChunk - 1) / kChunk;
        size_t bytes = static_cast<size_t>((chunks + 2) * groups * s.states) * sizeof(Vec);
        size_t room = bytes + sizeof(Vec);
        memory.resize(room);
        void *start = memory.data();
        scratch = static_cast<Vec *>(std::align(sizeof(Vec), bytes, start, room));
    }
    for (int64_t item = next++; item < items; item = next++) {
        if (backward) {
            if (s.states == 24) backward_item<24>(s, item, scratch);
            else backward_item<0>(s, item, scratch);
        } else {
            if (s.states == 24) forward_item<24>(s, item);
            else forward_item<0>(s, item);
        }
    }
}
