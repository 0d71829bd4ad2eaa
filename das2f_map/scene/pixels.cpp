// Passes over all pixels of a block that would take several of NumPy's. compiled_pixels.py calls them, and
// gives the same numbers to the last bit without this library.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>

#if defined(_WIN32)
#define DAS2F_API extern "C" __declspec(dllexport)
#else
#define DAS2F_API extern "C" __attribute__((visibility("default")))
#endif

DAS2F_API int das2f_pixels_abi() { return 2; }

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

// counts[id] += 1. Four tables, so that equal pixels side by side do not wait for each other.
DAS2F_API void das2f_count(const uint8_t* ids, int64_t count, int64_t* counts) {
  int64_t parts[4][256] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int k = 0; k < 4; ++k) ++parts[k][ids[i + k]];
  for (; i < count; ++i) ++parts[0][ids[i]];
  for (int id = 0; id < 256; ++id) counts[id] += parts[0][id] + parts[1][id] + parts[2][id] + parts[3][id];
}

// Of the values that are wanted and no NaN: ends = {least, greatest}; sums += {their number, the sum of the
// values in whole parts of 1 / unit, the sum of their squares less `shift` bits}.
DAS2F_API void das2f_sum_parts(const float* values, const uint8_t* wanted, int64_t count, float unit,
                               int64_t shift, float* ends, int64_t* sums) {
  float low = ends[0], high = ends[1];
  int64_t known = 0, total = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float value = values[i];
    if (!wanted[i] || !(value == value)) continue;
    low = value < low ? value : low;
    high = value > high ? value : high;
    const int64_t whole = static_cast<int64_t>(value * unit);
    ++known;
    total += whole;
    squares += (whole * whole) >> shift;
  }
  ends[0] = low;
  ends[1] = high;
  sums[0] += known;
  sums[1] += total;
  sums[2] += squares;
}

// The elements in the order in which `onward` leads from one to the next, -1 ends a list: first the lists that
// begin at the heads, then the rings. `seen` is 0 everywhere. Returns the number of lists.
DAS2F_API int64_t das2f_follow(const int64_t* onward, int64_t count, const int64_t* heads, int64_t lists,
                               uint8_t* seen, int64_t* order, int64_t* starts) {
  int64_t placed = 0, found = 0;
  for (; found < lists; ++found) {
    starts[found] = placed;
    for (int64_t i = heads[found]; i >= 0; i = onward[i]) {
      seen[i] = 1;
      order[placed++] = i;
    }
  }
  for (int64_t start = 0; start < count; ++start) {
    if (seen[start]) continue;
    starts[found++] = placed;
    for (int64_t i = start; !seen[i]; i = onward[i]) {
      seen[i] = 1;
      order[placed++] = i;
    }
  }
  return found;
}

// NaN in the place of a value.
DAS2F_API void das2f_blank(float* values, int64_t count, float value) {
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] == value ? nothing : values[i];
}

// Sums over all pixels above and left of each corner: (rows + 1, columns + 1), 0 in the first row and column.
// Rows are added up before columns.
DAS2F_API void das2f_integral(const double* values, int64_t rows, int64_t columns, double* out) {
  const int64_t width = columns + 1;
  for (int64_t j = 0; j < width; ++j) out[j] = 0.0;
  for (int64_t i = 0; i < rows; ++i) {
    const double* row = values + i * columns;
    const double* above = out + i * width;
    double* here = out + (i + 1) * width;
    double sum = 0.0;
    here[0] = 0.0;
    for (int64_t j = 0; j < columns; ++j) {
      sum += row[j];
      here[j + 1] = above[j + 1] + sum;
    }
  }
}
