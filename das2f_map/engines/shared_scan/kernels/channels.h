// What the scans of all stages share: groups of kLanes neighbouring channels, and the functions of a scan.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after lanes.h.

constexpr int kGroups = kWidth / kLanes;
constexpr int kSteps = 4;  // tokens of a scan that are in registers together
constexpr int kTogether = kManyRegisters ? 6 : 3;  // powers that are computed together

typedef float Lanes[kLanes];

DAS2F_FN Vec abs_lanes(const Vec &v) { return v < Vec{} ? -v : v; }

// The constants of a power of 2.
struct PowerConstants {
    Vec magic = Vec{} + 12582912.0f, c[5];
    ALWAYS_INLINE PowerConstants() {
#pragma GCC unroll 5
        for (int i = 0; i < 5; ++i) c[i] = Vec{} + kExp2[i];
    }
};

// 2^v in place, for -126 <= v <= 0: relative error below 2e-7, and exactly 1 at 0. Each step is done for all vectors: a
// processor looks only so far ahead, and would not find a second chain of operations behind the first.
template <int kN>
DAS2F_FN void power_lanes(Vec (&v)[kN], const PowerConstants &constants) {
    Vec shifted[kN], p[kN];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) {
        Vec rounded = v[i];  // else compilers multiply twice to save a subtraction
        DAS2F_KEEP(rounded);
        shifted[i] = rounded + constants.magic;
        v[i] = rounded - (shifted[i] - constants.magic);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) p[i] = constants.c[4] * v[i] + constants.c[3];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) p[i] = p[i] * v[i] + constants.c[2];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) p[i] = p[i] * v[i] + constants.c[1];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) p[i] = p[i] * v[i] + constants.c[0];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) {
        p[i] = p[i] * v[i] + 1.0f;
        // The whole number is in the low bits of `shifted`; the others are shifted out.
        VecInt bits, exponent;
        std::memcpy(&exponent, &shifted[i], sizeof exponent);
        std::memcpy(&bits, &p[i], sizeof bits);
        bits += exponent << 23;
        std::memcpy(&v[i], &bits, sizeof bits);
    }
}

constexpr float kLeastPower = -126.0f;

// max(v, -126) for v <= 0, as integers: of two negative numbers, the one nearer to zero has the smaller bits.
DAS2F_FN Vec least_power(Vec v) {
    typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
    const Vec low = Vec{} + kLeastPower;
    Bits own, most;
    std::memcpy(&own, &v, sizeof own);
    std::memcpy(&most, &low, sizeof most);
    own = own < most ? own : most;
    std::memcpy(&v, &own, sizeof v);
    return v;
}

// 2^v for v <= 0; almost 0 below -126.
DAS2F_FN Vec decay_lanes(const Vec &v) {
    Vec power[1] = {least_power(v)};
    power_lanes(power, PowerConstants());
    return power[0];
}

// log(1 + e^v) in place.
template <int kN>
DAS2F_FN void softplus_lanes(Vec (&v)[kN]) {
    // max(v, 0) + log(1 + t), the logarithm as 2 artanh(t / (2 + t)), which is accurate for small t too.
    Vec t[kN], z[kN], q[kN];
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) t[i] = least_power(abs_lanes(v[i]) * -kLog2e);
    power_lanes(t, PowerConstants());
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) {
        z[i] = t[i] / (t[i] + 2.0f);
        q[i] = z[i] * z[i];
        t[i] = q[i] * (1.0f / 13) + 1.0f / 11;
    }
    constexpr float rest[] = {1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f};
#pragma GCC unroll 5
    for (int k = 0; k < 5; ++k)
#pragma GCC unroll 4
        for (int i = 0; i < kN; ++i) t[i] = t[i] * q[i] + rest[k];
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) v[i] = (v[i] > Vec{} ? v[i] : Vec{}) + 2.0f * z[i] * t[i];
}

// Decays of a token in all states of a group of channels: 2^(dt rate). Without kLong none may be below 2^-126.
template <bool kLong>
DAS2F_FN void fill_decays(const Vec &dt, const Lanes *rate, Lanes *decay) {
    PowerConstants constants;
    DAS2F_KEEP(constants.magic);
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) DAS2F_KEEP(constants.c[i]);
    for (int n = 0; n < kStates; n += kTogether) {
        Vec power[kTogether];
#pragma GCC unroll 6
        for (int i = 0; i < kTogether; ++i) {
            power[i] = dt * load(rate[n + i]);
            if (kLong) power[i] = least_power(power[i]);
        }
        power_lanes(power, constants);
#pragma GCC unroll 6
        for (int i = 0; i < kTogether; ++i) store(decay[n + i], power[i]);
    }
}

// Takes a group's states through kSteps tokens and adds the tokens' outputs to `sum`. C follows B.
DAS2F_FN void pass_states(
    const float *const (&decay)[kSteps], const float *const (&b)[kSteps], const Vec (&drive)[kSteps],
    Vec (&sum)[kSteps], float *state) {
#pragma GCC unroll 2
    for (int n = 0; n < kStates; ++n) {
        Vec h = load(state + n * kLanes);
#pragma GCC unroll 4
        for (int k = 0; k < kSteps; ++k) {
            h = load(decay[k] + n * kLanes) * h + drive[k] * b[k][n];
            sum[k] += h * b[k][kStates + n];
        }
        store(state + n * kLanes, h);
    }
}
