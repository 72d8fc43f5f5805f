// The elementary functions on vectors, to about one unit in the last place, in internal linkage: +, -, *, / and integer
// operations in one fixed order. What may be fused is for the flags of the family to say.
#pragma once

#include "common/lanes.hpp"

namespace expunge {
namespace {
namespace vm {

EXPUNGE_INLINE F64 abs(F64 x) { return bits_as<F64>(bits_as<U64>(x) & uint64_t(0x7fffffffffffffff)); }

// Adding 1.5 * 2^52 leaves the nearest integer in the low bits: rounding and conversion in one addition.
constexpr double kShift = 6755399441055744.0;

// exp(x) = scale (1 + rest) where that is a normal number, to so many terms: 13 are all of float64, 7 are 5e-9.
template <class P, int terms = 13>
EXPUNGE_INLINE void exp_parts(typename P::F x, typename P::F* scale, typename P::F* rest) {
  using F = typename P::F;
  using U = typename P::U;
  if constexpr (sizeof(typename P::T) == 8) {
    const F shifted = x * 1.44269504088896340736 + kShift;
    const F n = shifted - kShift;
    const F r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;  // ln 2 in two parts
    F y = P::splat(1.0 / 5040.0);
    if constexpr (terms == 13) {
      y = r * (1.0 / 6227020800.0) + (1.0 / 479001600.0);
      y = y * r + (1.0 / 39916800.0);
      y = y * r + (1.0 / 3628800.0);
      y = y * r + (1.0 / 362880.0);
      y = y * r + (1.0 / 40320.0);
      y = y * r + (1.0 / 5040.0);
    }
    y = y * r + (1.0 / 720.0);
    y = y * r + (1.0 / 120.0);
    y = y * r + (1.0 / 24.0);
    y = y * r + (1.0 / 6.0);
    y = y * r + 0.5;
    *rest = y * r * r + r;
    *scale = bits_as<F>((bits_as<U>(shifted) << 52) + uint64_t(0x3ff0000000000000));
  } else {  // Cephes
    const F shifted = x * 1.44269504088896341f + 0x1.8p23f;
    const F n = shifted - 0x1.8p23f;
    const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    F y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    *rest = y * r * r + r;
    *scale = bits_as<F>((bits_as<U>(shifted) << 23) + uint32_t(0x3f800000));
  }
}

template <class P, int terms = 13>
EXPUNGE_INLINE typename P::F exp_normal(typename P::F x) {
  typename P::F scale, rest;
  exp_parts<P, terms>(x, &scale, &rest);
  return (rest + typename P::T(1)) * scale;
}

// exp for x <= 709; 0 below -708, NaN stays NaN.
EXPUNGE_INLINE F64 exp(F64 x) {
  const I64 tiny = x < -708.0;
  x = select(tiny, splat(-708.0), x);
  x = select(x > 709.0, splat(709.0), x);
  return select(tiny, F64{}, exp_normal<Lanes<double>>(x));
}

// exp with the argument clamped to where neither the result nor its reciprocal overflows or is denormal.
template <class P>
EXPUNGE_INLINE typename P::F exp_clamped(typename P::F x) {
  const auto limit = P::splat(sizeof(typename P::T) == 8 ? 700 : 80);
  x = P::where_less(x, -limit, -limit, x);
  x = P::where_less(limit, x, limit, x);
  return exp_normal<P>(x);
}

// log of a positive normal number (fdlibm's series).
EXPUNGE_INLINE F64 log(F64 x) {
  // Split at sqrt(1/2) so that the mantissa lies within [sqrt(1/2), sqrt(2)).
  const I64 bits = bits_as<I64>(x) - int64_t(0x3fe6a09e667f3bcd);
  // The exponent's sign survives an arithmetic shift; 2^52 arithmetic turns it into a double.
  const F64 k = bits_as<F64>((bits >> 52) + int64_t(0x4338000000000000)) - kShift;
  const F64 mantissa = bits_as<F64>((bits & int64_t(0x000fffffffffffff)) + int64_t(0x3fe6a09e667f3bcd));
  const F64 f = mantissa - 1.0;
  const F64 s = f / (2.0 + f);
  const F64 z = s * s;
  F64 r = splat(1.479819860511658591e-01);
  r = r * z + 1.531383769920937332e-01;
  r = r * z + 1.818357216161805012e-01;
  r = r * z + 2.222219843214978396e-01;
  r = r * z + 2.857142874366239149e-01;
  r = r * z + 3.999999999940941908e-01;
  r = r * z + 6.666666666666735130e-01;
  r = r * z;
  const F64 half = 0.5 * f * f;
  return k * 6.93147180369123816490e-01 - ((half - (s * (half + r) + k * 1.90821492927058770002e-10)) - f);
}

// atan2 for arguments that are not both zero (fdlibm's series on [0, tan(pi/8)]).
EXPUNGE_INLINE F64 atan2(F64 y, F64 x) {
  const F64 ax = abs(x), ay = abs(y);
  const I64 steep = ay > ax;
  const F64 low = select(steep, ax, ay), high = select(steep, ay, ax);
  const I64 upper = low > 0.41421356237309503 * high;
  const F64 t = select(upper, low - high, low) / select(upper, low + high, high);
  const F64 z = t * t;
  F64 p = splat(1.62858201153657823623e-02);
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
  F64 angle = t - t * z * p;
  angle += select(upper, splat(0.785398163397448309616), F64{});
  angle = select(steep, 1.57079632679489661923 - angle, angle);
  angle = select(x < 0.0, 3.14159265358979323846 - angle, angle);
  return select(y < 0.0, -angle, angle);
}

// Sine and cosine; the error grows as the argument's own unit in the last place.
EXPUNGE_INLINE void sincos(F64 x, F64* sine, F64* cosine) {
  const F64 shifted = x * 0.636619772367581343076 + kShift;
  const F64 n = shifted - kShift;
  F64 r = x - n * 1.57079632673412561417e+00;
  r = r - n * 6.07710050630396597660e-11;
  r = r - n * 2.02226624879595063154e-21;
  const F64 z = r * r;
  F64 s = splat(1.58969099521155010221e-10);
  s = s * z - 2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z - 1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z - 1.66666666666666324348e-01;
  s = r + r * z * s;
  F64 c = splat(-1.13596475577881948265e-11);
  c = c * z + 2.08757232129817482790e-09;
  c = c * z - 2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z - 1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = 1.0 - 0.5 * z + z * z * c;
  const U64 quarter = bits_as<U64>(shifted);
  const I64 odd = bits_as<I64>(U64{} - (quarter & uint64_t(1)));
  const U64 sine_sign = (quarter & uint64_t(2)) << 62;
  const U64 cosine_sign = ((quarter + uint64_t(1)) & uint64_t(2)) << 62;
  *sine = bits_as<F64>(bits_as<U64>(select(odd, c, s)) ^ sine_sign);
  *cosine = bits_as<F64>(bits_as<U64>(select(odd, s, c)) ^ cosine_sign);
}

// Moves the power of two of a complex number's size into *exponent, so that products of many stay in range.
EXPUNGE_INLINE void rescale(F64* re, F64* im, F64* exponent) {
  const F64 a = abs(*re), b = abs(*im);
  const F64 big = select(a > b, a, b);
  const U64 field = (bits_as<U64>(big) >> 52) & uint64_t(0x7ff);
  *exponent += bits_as<F64>(field + (uint64_t(0x4338000000000000) - 1023)) - kShift;
  const F64 scale = bits_as<F64>((uint64_t(2046) - field) << 52);
  *re *= scale;
  *im *= scale;
}

}  // namespace vm
}  // namespace
}  // namespace expunge
