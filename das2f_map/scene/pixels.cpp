// Passes over all pixels of a block that would take several of NumPy's. compiled_pixels.py calls them, and
// gives the same numbers to the last bit without this library.

#include <cfloat>
#include <cmath>
#include <cstdint>

#if defined(_WIN32)
#define DAS2F_API extern "C" __declspec(dllexport)
#else
#define DAS2F_API extern "C" __attribute__((visibility("default")))
#endif

DAS2F_API int das2f_pixels_abi() { return 1; }

// (value - mean) / std in float64, rounded to float32; 0 where that is not finite. `out` may be `values`.
DAS2F_API void das2f_normalise(const float* values, int64_t count, double mean, double std, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float found = static_cast<float>((static_cast<double>(values[i]) - mean) / std);
    // False for NaN.
    out[i] = std::fabs(found) <= FLT_MAX ? found : 0.0f;
  }
}

// sums[id] += value, pixel by pixel in their order.
DAS2F_API void das2f_add_values(const uint8_t* ids, const double* values, int64_t count, double* sums) {
  for (int64_t i = 0; i < count; ++i) sums[ids[i]] += values[i];
}

// The same for float32 values, those that are not finite left out; `known` counts the others.
DAS2F_API void das2f_add_known(const uint8_t* ids, const float* values, int64_t count, double* sums,
                               double* known) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::fabs(values[i]) <= FLT_MAX)) continue;
    sums[ids[i]] += static_cast<double>(values[i]);
    known[ids[i]] += 1.0;
  }
}
