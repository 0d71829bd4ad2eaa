// What the scans of all stages share: groups of kLanes neighbouring channels, and the functions of a scan.
// Included by shared_scan.cpp once for each kLanes, inside a namespace of its own, after lanes.h.

constexpr int kGroups = kWidth / kLanes;
constexpr int kSteps = 4;  // tokens of a scan that are in registers together
constexpr int kTogether = kManyRegisters ? 6 : 3;  // powers that are computed together

typedef float Lanes[kLanes];

// What the inputs of products are in memory, and the number of terms of series. The products' bfloat16 has 8 bits, so
// relative errors of 1e-4 are lost in its rounding.
#if DAS2F_BF16
struct Stored {
    uint16_t bfloat16;
};

DAS2F_FN Vec load(const Stored *p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}

DAS2F_FN void store(Stored *p, const Vec &v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

constexpr bool kCoarse = true;
constexpr int kArtanhMost = 7;
#else
typedef float Stored;

constexpr bool kCoarse = false;
constexpr int kArtanhMost = 13;
#endif

// What the scanned tokens are in memory. Their directions are added there, so they have 11 bits at least; float16 is
// infinite above 65,504.
#if DAS2F_HALF
struct Scanned {
    uint16_t float16;
};

DAS2F_FN Vec load(const Scanned *p) {
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

DAS2F_FN void store(Scanned *p, const Vec &v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
typedef float Scanned;
#endif
constexpr bool kScales = DAS2F_SCALES;
constexpr int kLineTokens = 64 / (kLanes * sizeof(Scanned));  // whose kLanes channels share a cache line

// a / b, for b from 1 to 2^126. Division takes longer than an estimate of 14 bits and Newton's step.
DAS2F_FN Vec quotient(const Vec &a, const Vec &b) {
#if DAS2F_SCALES
    Vec inverse = (Vec)_mm512_rcp14_ps((__m512)b);
    if (!kCoarse) inverse += inverse * (1.0f - b * inverse);
    return a * inverse;
#else
    return a / b;
#endif
}

DAS2F_FN Vec abs_lanes(const Vec &v) { return v < Vec{} ? -v : v; }

// Powers of 2. Each step is done for all vectors: a processor looks only so far ahead, and would not find a second chain of
// operations behind the first.
#if DAS2F_SCALES
// Rounding and scaling are instructions here, and need no limits.
struct PowerConstants {
    static constexpr int kTerms = kCoarse ? 4 : 6;
    Vec c[kTerms];
    DAS2F_FN PowerConstants() {
#pragma GCC unroll 6
        for (int i = 0; i < kTerms; ++i) c[i] = Vec{} + (kCoarse ? kCoarseShiftedExp2 : kShiftedExp2)[i];
    }
    DAS2F_FN void keep() {
#pragma GCC unroll 6
        for (int i = 0; i < kTerms; ++i) DAS2F_KEEP(c[i]);
    }
};

// 2^(v - 1/2) in place: exactly 1 at 1/2, relative error below 2e-7, in bfloat16 below 1.1e-4.
template <int kN>
DAS2F_FN void shifted_powers(Vec (&v)[kN], const PowerConstants &constants) {
    constexpr int kTerms = PowerConstants::kTerms;
    Vec f[kN], p[kN];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) f[i] = (Vec)_mm512_reduce_ps((__m512)v[i], _MM_FROUND_TO_NEG_INF);
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) p[i] = constants.c[kTerms - 1] * f[i] + constants.c[kTerms - 2];
#pragma GCC unroll 4
    for (int k = kTerms - 3; k >= 0; --k)
#pragma GCC unroll 8
        for (int i = 0; i < kN; ++i) p[i] = p[i] * f[i] + constants.c[k];
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) v[i] = (Vec)_mm512_scalef_ps((__m512)p[i], (__m512)v[i]);
}

template <int kN>
DAS2F_FN void power_lanes(Vec (&v)[kN], const PowerConstants &constants) {
#pragma GCC unroll 8
    for (int i = 0; i < kN; ++i) v[i] += 0.5f;
    shifted_powers(v, constants);
}
#else
struct PowerConstants {
    Vec magic = Vec{} + 12582912.0f, c[5];
    ALWAYS_INLINE PowerConstants() {
#pragma GCC unroll 5
        for (int i = 0; i < 5; ++i) c[i] = Vec{} + kExp2[i];
    }
    ALWAYS_INLINE void keep() {
        DAS2F_KEEP(magic);
#pragma GCC unroll 5
        for (int i = 0; i < 5; ++i) DAS2F_KEEP(c[i]);
    }
};

// 2^v in place, for -126 <= v <= 0: relative error below 2e-7, and exactly 1 at 0.
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
#endif

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

// log(1 + e^v) in place.
template <int kN>
DAS2F_FN void softplus_lanes(Vec (&v)[kN]) {
    // max(v, 0) + log(1 + t), the logarithm as 2 artanh(t / (2 + t)), which is accurate for small t too.
    Vec t[kN], z[kN], q[kN];
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) t[i] = abs_lanes(v[i]) * -kLog2e;
    if (!kScales)
#pragma GCC unroll 4
        for (int i = 0; i < kN; ++i) t[i] = least_power(t[i]);
    power_lanes(t, PowerConstants());
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) {
        z[i] = quotient(t[i], t[i] + 2.0f);
        q[i] = z[i] * z[i];
        t[i] = q[i] * (1.0f / kArtanhMost) + 1.0f / (kArtanhMost - 2);
    }
#pragma GCC unroll 5
    for (int k = kArtanhMost - 4; k > 0; k -= 2)
#pragma GCC unroll 4
        for (int i = 0; i < kN; ++i) t[i] = t[i] * q[i] + 1.0f / static_cast<float>(k);
#pragma GCC unroll 4
    for (int i = 0; i < kN; ++i) v[i] = (v[i] > Vec{} ? v[i] : Vec{}) + 2.0f * z[i] * t[i];
}

// The rates of a direction's decays in a group of channels: A log2(e), and the fastest of each channel.
struct Rates {
    Lanes rate[kStates], fastest;

    DAS2F_FN void take(const float *decay) {
        Vec most{};
        for (int n = 0; n < kStates; ++n) {
            const Vec some = load(decay + n * kWidth);
            store(rate[n], some);
            most = some < most ? some : most;
        }
        store(fastest, most);
    }

    // Whether a decay over a time of `dt` is below 2^-126 in any channel, and needs a limit.
    DAS2F_FN bool are_long(const Vec &dt) const {
        if (kScales) return false;
        const VecInt longer = dt * load(fastest) < Vec{} + kLeastPower;
        int any = 0;
        for (int i = 0; i < kLanes; ++i) any |= longer[i];
        return any;
    }
};

// Decays of a token in all states of a group of channels: 2^(dt rate). Without kLong none may be below 2^-126.
template <bool kLong>
DAS2F_FN void fill_decays(const Vec &dt, const Lanes *rate, Lanes *decay) {
    PowerConstants constants;
    constants.keep();
    for (int n = 0; n < kStates; n += kTogether) {
        Vec power[kTogether];
#if DAS2F_SCALES
#pragma GCC unroll 6
        for (int i = 0; i < kTogether; ++i) power[i] = dt * load(rate[n + i]) + 0.5f;
        shifted_powers(power, constants);
#else
#pragma GCC unroll 6
        for (int i = 0; i < kTogether; ++i) {
            power[i] = dt * load(rate[n + i]);
            if (kLong) power[i] = least_power(power[i]);
        }
        power_lanes(power, constants);
#endif
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
