// What the scans of all stages share: groups of kLanes neighbouring channels, and the functions of a scan.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after lanes.h.

constexpr int kGroups = kWidth / kLanes;
constexpr int kSteps = 4;  // tokens of a scan that are in registers together

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

// 2^v for -126 <= v <= 0, with a relative error below 2e-7, and exactly 1 at 0.
DAS2F_FN Vec power_lanes(const Vec &of, const PowerConstants &constants) {
    // Rounded first: 
    Vec v = of;
    DAS2F_KEEP(v);
    const Vec shifted = v + constants.magic;
    const Vec f = v - (shifted - constants.magic);
    Vec p = constants.c[4] * f + constants.c[3];
    p = p * f + constants.c[2];
    p = p * f + constants.c[1];
    p = p * f + constants.c[0];
    p = p * f + 1.0f;
    // The whole number is in the low bits of `shifted`; the others are shifted out.
    VecInt bits, exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&bits, &p, sizeof bits);
    bits += exponent << 23;
    std::memcpy(&p, &bits, sizeof p);
    return p;
}

constexpr float kLeastPower = -126.0f;

// 2^v for v <= 0; almost 0 below -126.
DAS2F_FN Vec decay_lanes(Vec v) {
    // max(v, -126) as integers: of two negative numbers, the one nearer to zero has the smaller bits.
    typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
    const Vec low = Vec{} + kLeastPower;
    Bits own, most;
    std::memcpy(&own, &v, sizeof own);
    std::memcpy(&most, &low, sizeof most);
    own = own < most ? own : most;
    std::memcpy(&v, &own, sizeof v);
    return power_lanes(v, PowerConstants());
}

DAS2F_FN Vec softplus_lanes(const Vec &v) {
    // max(v, 0) + log(1 + t), the logarithm as 2 artanh(t / (2 + t)), which is accurate for small t too.
    const Vec t = decay_lanes(abs_lanes(v) * -kLog2e);
    const Vec z = t / (t + 2.0f), q = z * z;
    Vec s = q * (1.0f / 13) + 1.0f / 11;
    s = s * q + 1.0f / 9;
    s = s * q + 1.0f / 7;
    s = s * q + 1.0f / 5;
    s = s * q + 1.0f / 3;
    s = s * q + 1.0f;
    return (v > Vec{} ? v : Vec{}) + 2.0f * z * s;
}

// Decays of a token in all states of a group of channels: 2^(dt rate). Without kLong none may be below 2^-126.
template <bool kLong>
DAS2F_FN void fill_decays(const Vec &dt, const Lanes *rate, Lanes *decay) {
    PowerConstants constants;
    DAS2F_KEEP(constants.magic);
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) DAS2F_KEEP(constants.c[i]);
#pragma GCC unroll 8
    for (int n = 0; n < kStates; ++n) {
        const Vec v = dt * load(rate[n]);
        store(decay[n], kLong ? decay_lanes(v) : power_lanes(v, constants));
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
