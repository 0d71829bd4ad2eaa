// Vectors of kLanes float32, and the operations that all kernels share. Included inside a namespace that
// defines kLanes; needs <cstdint> and <cstring> before.

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4)));

ALWAYS_INLINE Vec load(const float *p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE void store(float *p, const Vec &v) { std::memcpy(p, &v, sizeof v); }

// 2^v to within 2 units in the last place; 0 below 2^-126, and finite above 2^127.
ALWAYS_INLINE Vec exp2_lanes(Vec v) {
    const Vec low = Vec{} - 126.0f, high = Vec{} + 127.0f;
    const VecInt tiny = v < low;
    v = (tiny) ? low : v;
    v = (v > high) ? high : v;
    // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
    const Vec magic = Vec{} + 12582912.0f;
    const Vec shifted = v + magic;
    const Vec f = v - (shifted - magic);  // in [-0.5, 0.5]
    Vec p = Vec{} + 1.535336188319500e-4f;
    p = p * f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.0f;
    VecInt bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000 + 127) << 23;
    Vec scale;
    std::memcpy(&scale, &bits, sizeof scale);
    p = p * scale;
    return tiny ? Vec{} : p;
}
