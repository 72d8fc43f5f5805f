// Float64 vectors of the compiled instruction set, and the elementary functions on them to about one unit in the last
// place. Header with bodies: include only from sources compiled once per instruction set. Internal linkage. On a GPU a
// vector is one number.
#pragma once

#include <math.h>
#include <string.h>

#include "common/isa.hpp"
#if defined(EXPUNGE_DEVICE_CODE)
#include "common/gpu.cuh"
#endif

namespace {
namespace vm {

#if defined(EXPUNGE_DEVICE_CODE)

#define EXPUNGE_INLINE [[maybe_unused]] static EXPUNGE_HD __forceinline__

constexpr int kLanes = 1;
typedef double vd;
typedef long long vi;

EXPUNGE_INLINE vd broadcast(double x) { return x; }
EXPUNGE_INLINE vd select(vi mask, vd a, vd b) { return mask != 0 ? a : b; }
EXPUNGE_INLINE vi words(vd x) {
  vi out;
  memcpy(&out, &x, sizeof out);
  return out;
}
EXPUNGE_INLINE vd numbers(vi x) {
  vd out;
  memcpy(&out, &x, sizeof out);
  return out;
}
EXPUNGE_INLINE vi shifted_left(vi x, int bits) { return static_cast<vi>(static_cast<unsigned long long>(x) << bits); }
EXPUNGE_INLINE double get(vd x, int) { return x; }
EXPUNGE_INLINE void set(vd* x, int, double value) { *x = value; }
EXPUNGE_INLINE vd sqrt(vd x) { return ::sqrt(x); }

#else

#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif

typedef double vd __attribute__((vector_size(8 * kLanes)));
typedef long long vi __attribute__((vector_size(8 * kLanes)));

#define EXPUNGE_INLINE [[maybe_unused, gnu::always_inline]] static inline

EXPUNGE_INLINE vd broadcast(double x) { return vd{} + x; }
EXPUNGE_INLINE vd select(vi mask, vd a, vd b) { return (vd)((mask & (vi)a) | (~mask & (vi)b)); }
EXPUNGE_INLINE vi words(vd x) { return (vi)x; }
EXPUNGE_INLINE vd numbers(vi x) { return (vd)x; }
EXPUNGE_INLINE vi shifted_left(vi x, int bits) { return x << bits; }
EXPUNGE_INLINE double get(vd x, int lane) { return x[lane]; }
EXPUNGE_INLINE void set(vd* x, int lane, double value) { (*x)[lane] = value; }
EXPUNGE_INLINE vd sqrt(vd x) {
  vd out;
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = __builtin_sqrt(x[lane]);
  return out;
}

#endif

EXPUNGE_INLINE vd abs(vd x) { return numbers(words(x) & 0x7fffffffffffffffLL); }

// Adding 1.5 * 2^52 leaves the nearest integer in the low bits: rounding and conversion in one addition.
constexpr double kShift = 6755399441055744.0;

// exp for x <= 709; 0 below -708, NaN stays NaN.
EXPUNGE_INLINE vd exp(vd x) {
  const vi tiny = x < -708.0;
  x = select(tiny, broadcast(-708.0), x);
  x = select(x > 709.0, broadcast(709.0), x);
  const vd shifted = x * 1.44269504088896340736 + kShift;
  const vd n = shifted - kShift;
  const vd r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  vd p = broadcast(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r + 1.0;
  const vd scale = numbers(shifted_left(words(shifted), 52) + 0x3ff0000000000000LL);
  return select(tiny, broadcast(0.0), p * scale);
}

// log of a positive normal number (fdlibm's series).
EXPUNGE_INLINE vd log(vd x) {
  // Split at sqrt(1/2) so that the mantissa lies within [sqrt(1/2), sqrt(2)).
  const vi bits = words(x) - 0x3fe6a09e667f3bcdLL;
  // The exponent's sign survives an arithmetic shift; 2^52 arithmetic turns it into a double.
  const vd k = numbers((bits >> 52) + 0x4338000000000000LL) - kShift;
  const vd mantissa = numbers((bits & 0x000fffffffffffffLL) + 0x3fe6a09e667f3bcdLL);
  const vd f = mantissa - 1.0;
  const vd s = f / (2.0 + f);
  const vd z = s * s;
  vd r = broadcast(1.479819860511658591e-01);
  r = r * z + 1.531383769920937332e-01;
  r = r * z + 1.818357216161805012e-01;
  r = r * z + 2.222219843214978396e-01;
  r = r * z + 2.857142874366239149e-01;
  r = r * z + 3.999999999940941908e-01;
  r = r * z + 6.666666666666735130e-01;
  r = r * z;
  const vd half = 0.5 * f * f;
  return k * 6.93147180369123816490e-01 - ((half - (s * (half + r) + k * 1.90821492927058770002e-10)) - f);
}

// atan2 for arguments that are not both zero (fdlibm's series on [0, tan(pi/8)]).
EXPUNGE_INLINE vd atan2(vd y, vd x) {
  const vd ax = abs(x), ay = abs(y);
  const vi steep = ay > ax;
  const vd low = select(steep, ax, ay), high = select(steep, ay, ax);
  const vi upper = low > 0.41421356237309503 * high;
  const vd t = select(upper, low - high, low) / select(upper, low + high, high);
  const vd z = t * t;
  vd p = broadcast(1.62858201153657823623e-02);
  p = p * z - 3.65315727442169155270e-02;
  p = p * z + 4.97687799461593236017e-02;
  p = p * z - 5.83357013379057348645e-02;
  p = p * z + 6.66107313738753120669e-02;
  p = p * z - 7.69187620504482999495e-02;
  p = p * z + 9.09088713343650656196e-02;
  p = p * z - 1.11111104054623557880e-01;
  p = p * z + 1.42857142725034663711e-01;
  p = p * z - 1.99999999998764832476e-01;
  p = p * z + 3.33333333333329318027e-01;
  vd angle = t - t * z * p;
  angle += select(upper, broadcast(0.785398163397448309616), broadcast(0.0));
  angle = select(steep, 1.57079632679489661923 - angle, angle);
  angle = select(x < 0.0, 3.14159265358979323846 - angle, angle);
  return select(y < 0.0, -angle, angle);
}

// Sine and cosine; the error grows as the argument's own unit in the last place.
EXPUNGE_INLINE void sincos(vd x, vd* sine, vd* cosine) {
  const vd shifted = x * 0.636619772367581343076 + kShift;
  const vd n = shifted - kShift;
  vd r = x - n * 1.57079632673412561417e+00;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const vd z = r * r;
  vd s = broadcast(1.58969099521155010221e-10);
  s = s * z - 2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z - 1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z - 1.66666666666666324348e-01;
  s = r + r * z * s;
  vd c = broadcast(-1.13596475577881948265e-11);
  c = c * z + 2.08757232129817482790e-09;
  c = c * z - 2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z - 1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = 1.0 - 0.5 * z + z * z * c;
  const vi quarter = words(shifted);
  const vi odd = -(quarter & 1);
  const vi sine_sign = shifted_left(quarter & 2, 62);
  const vi cosine_sign = shifted_left((quarter + 1) & 2, 62);
  *sine = numbers(words(select(odd, c, s)) ^ sine_sign);
  *cosine = numbers(words(select(odd, s, c)) ^ cosine_sign);
}

// Moves the power of two of a complex number's size into *exponent, so that products of many stay in range.
EXPUNGE_INLINE void rescale(vd* re, vd* im, vd* exponent) {
  const vd a = abs(*re), b = abs(*im);
  const vd big = select(a > b, a, b);
  const vi field = (words(big) >> 52) & 0x7ff;
  *exponent += numbers(field + (0x4338000000000000LL - 1023)) - kShift;
  const vd scale = numbers(shifted_left(2046 - field, 52));
  *re *= scale;
  *im *= scale;
}

}  // namespace vm
}  // namespace
