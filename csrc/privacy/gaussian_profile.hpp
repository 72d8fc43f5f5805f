// The exact privacy profile of one pair of Gaussians: Q = N(0, I), P = N(d, I + diag e).
// Header with bodies: include only from sources compiled once per instruction set. Internal linkage, no allocation.
// A team of lanes works on one pair: they split the excesses, or the nodes of a panel.
//
// delta(eps) = (1/(2 pi i)) int exp(-w eps + K(w)) / (w (1 + w)) dw over a contour with Re w = w0 > 0 at the real axis,
// K(w) = sum_j [w (1 + w) d2_j / (2 v_j) - (q/2) (log v_j + w log1p(e_j))], v_j = 1 - w e_j.
// For delta(Q | P) exchange the roles first.
#pragma once

#include <math.h>

#include "common/team.hpp"
#include "common/vector_math.hpp"

namespace expunge::privacy {
namespace {

struct ProfileResult {
  double log_delta;  // log of delta(P | Q) at epsilon; -inf where delta is exactly 0
  double relative_error;  // of delta: tail and rounding (bounds) and the quadrature (an estimate)
  int converged;  // 0: log_delta is the Chernoff-type upper bound instead (or NaN if the input was)
  double saddle;  // -d log delta / d epsilon, to a few per cent where converged
};

// The pair seen by every routine below. d2[j] sums the squared shift over the q columns that share excess e[j].
struct ProfilePair {
  const double* e;
  const double* d2;
  long m;
  double rest_d2;  // squared shift along directions whose excess is exactly 0
  double q;  // columns: the multiplicity of each excess in the log-determinant
  double sum_log1p;  // sum_j log1p(e_j)
  double sum_abs;  // sum_j |log1p(e_j)|, for the rounding error
  double pole;  // 1 / max positive e, or +inf
  double max_loss;  // supremum of log(dP/dQ), or +inf
  int trivial;  // P = Q
  int valid;  // 0: NaN, an infinite excess or e <= -1 somewhere
  int overflows;  // an excess or a squared shift leaves the floats: only delta <= 1 is known
  const double* origin;  // excesses before swap_roles, or null; 1 + e loses digits near e = -1, 1 + origin does not
};

constexpr double kLargestExcess = 1e300;  // its inverse and its products with small numbers stay normal
constexpr double kRoundoff = 1.1102230246251565e-16;  // of one operation, relative

struct ProfileSlopes {
  double k1, k2, k3, k4;  // derivatives of K at a real w
};

// log1p of excess j.
EXPUNGE_HD static inline double profile_log1p(const ProfilePair& pair, long j) {
  return pair.origin ? -log1p(pair.origin[j]) : log1p(pair.e[j]);
}

EXPUNGE_HD static ProfilePair profile_pair(const double* e, const double* d2, long m, double rest_d2, double q,
                                           const double* origin) {
  ProfilePair pair{e, d2, m, rest_d2, q, 0.0, 0.0, HUGE_VAL, 0.0, 1, 1, 0, origin};
  double top = 0.0;
  double loss = 0.0;
  bool unbounded = rest_d2 > 0.0;
  bool trivial = rest_d2 == 0.0;
  bool valid = rest_d2 >= 0.0 && q > 0.0 && q < HUGE_VAL;
  bool overflows = rest_d2 == HUGE_VAL;
  for (long j = team::lane(); j < m; j += team::size) {
    const double ej = e[j];
    const double dj = d2[j];
    // An exchanged excess may round to -1; its logarithm is known all the same.
    valid = valid && (ej > -1.0 || (origin && ej == -1.0)) && ej < HUGE_VAL && dj >= 0.0;
    overflows = overflows || dj == HUGE_VAL || ej > kLargestExcess || (origin && origin[j] > kLargestExcess);
    const double a = fabs(ej);
    const double series = ej * (1.0 - ej * (1.0 / 2 - ej * (1.0 / 3 - ej * (1.0 / 4 - ej * (1.0 / 5 - ej / 6)))));
    const double term = a < 1e-3 ? series : profile_log1p(pair, j);
    pair.sum_log1p += term;
    pair.sum_abs += fabs(term);
    if (ej > top) top = ej;
    if (ej > 0.0 || (ej == 0.0 && dj > 0.0)) unbounded = true;
    if (ej < 0.0) loss += dj / (-2.0 * ej);
    if (ej != 0.0 || dj != 0.0) trivial = false;
  }
  top = team::largest(top);
  loss = team::sum(loss);
  unbounded = team::any(unbounded);
  trivial = !team::any(!trivial);
  valid = !team::any(!valid);
  pair.overflows = team::any(overflows);
  pair.sum_log1p = team::sum(pair.sum_log1p);
  pair.sum_abs = team::sum(pair.sum_abs);
  if (top > 0.0) pair.pole = 1.0 / top;
  pair.max_loss = unbounded ? HUGE_VAL : loss - 0.5 * q * pair.sum_log1p;
  pair.trivial = trivial;
  pair.valid = valid;
  return pair;
}

EXPUNGE_HD static ProfileSlopes profile_slopes(const ProfilePair& pair, double w) {
  const double rest_d2 = team::leads() ? pair.rest_d2 : 0.0;  // added once
  double k1 = 0.5 * rest_d2 * (1.0 + 2.0 * w);
  double k2 = rest_d2;
  double k3 = 0.0;
  double k4 = 0.0;
  double r1 = 0.0;
  double r2 = 0.0;
  double r3 = 0.0;
  double r4 = 0.0;
  for (long j = team::lane(); j < pair.m; j += team::size) {
    const double ej = pair.e[j];
    const double inverse = 1.0 / (1.0 - w * ej);
    const double r = ej * inverse;
    const double square = inverse * inverse;
    const double bend = pair.d2[j] * (1.0 + ej) * square * inverse;
    k1 += 0.5 * pair.d2[j] * (1.0 + 2.0 * w - w * w * ej) * square;
    k2 += bend;
    k3 += bend * r;
    k4 += bend * r * r;
    r1 += r;
    r2 += r * r;
    r3 += r * r * r;
    r4 += r * r * r * r;
  }
  k1 = team::sum(k1);
  k2 = team::sum(k2);
  k3 = team::sum(k3);
  k4 = team::sum(k4);
  r1 = team::sum(r1);
  r2 = team::sum(r2);
  r3 = team::sum(r3);
  r4 = team::sum(r4);
  const double half = 0.5 * pair.q;
  return {k1 + half * (r1 - pair.sum_log1p), k2 + half * r2, 3.0 * k3 + 2.0 * half * r3, 12.0 * k4 + 6.0 * half * r4};
}

// How far 1 - w e magnifies the rounding of w e, over the excesses: at a real w, and up to twice that plus one along
// the contours used here.
struct Magnification {
  double sum, largest;
};

// K at a real w in [0, pole); *error grows by a bound on its rounding error.
EXPUNGE_HD static double profile_log_moment(const ProfilePair& pair, double w, double* error,
                                            Magnification* magnification) {
  double shift = team::leads() ? pair.rest_d2 : 0.0;
  double logs = 0.0;
  double magnitude = 0.0;
  double sum = 0.0;
  double largest = 0.0;
  for (long j = team::lane(); j < pair.m; j += team::size) {
    const double e = pair.e[j];
    const double x = w * e;
    const double factor = fabs(x) / (1.0 - x);
    shift += pair.d2[j] / (1.0 - x);
    sum += factor;
    largest = factor > largest ? factor : largest;
    if (fabs(x) < 2e-3 && fabs(e) < 2e-3) {
      // The first-order terms of -log1p(-x) and -w log1p(e) cancel: add the rest, or a tiny excess drowns in rounding.
      const double up = x * x * (1.0 / 2 + x * (1.0 / 3 + x * (1.0 / 4 + x * (1.0 / 5 + x * (1.0 / 6 + x / 7)))));
      const double down = w * e * e * (1.0 / 2 - e * (1.0 / 3 - e * (1.0 / 4 - e * (1.0 / 5 - e * (1.0 / 6 - e / 7)))));
      logs -= up + down;
      magnitude += up + down;
    } else {
      const double first = log1p(-x);
      const double second = w * profile_log1p(pair, j);
      logs += first + second;
      magnitude += fabs(first) + fabs(second);
    }
  }
  shift = team::sum(shift);
  logs = team::sum(logs);
  magnitude = team::sum(magnitude);
  magnification->sum = sum = team::sum(sum);
  magnification->largest = largest = team::largest(largest);
  const double bend = 0.5 * w * (1.0 + w) * shift;
  const double terms = static_cast<double>(pair.m);
  // Each sum of m terms rounds m times; an excess that swap_roles rounded twice counts three times in 1 - w e.
  *error +=
      kRoundoff * ((terms + 12.0 + 3.0 * largest) * bend + 0.5 * pair.q * ((terms + 6.0) * magnitude + 3.0 * sum));
  return bend - 0.5 * pair.q * logs;
}

// Minimiser over (0, pole) of base(w) = -w eps + K(w) - log w - log1p w, which is convex. Near is good enough: any
// contour gives the same integral.
EXPUNGE_HD EXPUNGE_OUTLINE static double profile_saddle(const ProfilePair& pair, double epsilon,
                                                        ProfileSlopes* slopes) {
  const ProfileSlopes zero = profile_slopes(pair, 0.0);
  const double drift = zero.k1 - epsilon;
  double low = 0.0;
  double high = pair.pole;
  double w;
  if (zero.k2 > 0.0) {
    const double root = sqrt(drift * drift + 6.0 * zero.k2);
    w = drift > 0.0 ? 3.0 / (drift + root) : (root - drift) / (2.0 * zero.k2);
  } else {
    w = 1.0;
  }
  if (!(w > 0.0)) w = 1e-300;
  if (!(w < HUGE_VAL)) w = 1e300;
  if (w >= 0.9 * high) w = 0.9 * high;
  for (int round = 0; round < 200; ++round) {
    *slopes = profile_slopes(pair, w);
    const double slope = slopes->k1 - epsilon - 1.0 / w - 1.0 / (1.0 + w);
    const double bend = slopes->k2 + 1.0 / (w * w) + 1.0 / ((1.0 + w) * (1.0 + w));
    if (slope > 0.0)
      high = w;
    else
      low = w;
    double next;
    if (slope > 0.0 || pair.pole == HUGE_VAL || w < 0.5 * pair.pole) {
      // Newton on w * slope in log w: straightens the 1/w wall at the origin.
      const double step = -slope / (bend * w + slope);
      next = bend * w + slope > 0.0 ? w * exp(step > 3.0 ? 3.0 : step < -3.0 ? -3.0 : step) : 2.0 * w;
    } else {
      // Newton on the distance to the pole, same idea.
      const double gap = pair.pole - w;
      const double turn = bend * gap - slope;
      next = turn > 0.0 ? pair.pole - gap * exp(slope / turn < -3.0 ? -3.0 : slope / turn) : w - slope / bend;
    }
    if (next == w) break;  // the step is below rounding: bisection would leave the answer
    if (!(next > low && next < high)) {
      if (high == HUGE_VAL)
        next = 4.0 * w;
      else if (low == 0.0)
        next = 0.25 * high;
      else if (high == pair.pole && high < 2.0 * low)
        next = high - 0.25 * (high - low);
      else
        next = high > 4.0 * low ? sqrt(low) * sqrt(high) : 0.5 * (low + high);
    }
    if (!(next > 0.0 && next < pair.pole && next < 1e300)) break;
    const double move = fabs(next - w);
    w = next;
    const double room = pair.pole - w < w ? pair.pole - w : w;
    if (move <= 1e-4 * room) break;
  }
  *slopes = profile_slopes(pair, w);
  return w;
}

// The 24-point Gauss-Legendre rule on [-1, 1].
constexpr int kPanel = 24;
constexpr double kPanelReach = 0.99518721999702136018;  // the last node
// Vectors of nodes a lane of the team has; alone it has all of them, and a warp has lanes to spare.
constexpr int kBlocks = team::size > 1 ? 1 : kPanel / kLanes;
static_assert(team::size == 1 || team::size * kLanes >= kPanel, "one vector of nodes each");

// Node i and its weight.
EXPUNGE_HD static inline double panel_node(int i, double* weight) {
  static const double kNode[12] = {0.064056892862605626085, 0.19111886747361630916, 0.31504267969616337439,
                                   0.43379350762604513849,  0.54542147138883953566, 0.64809365193697556925,
                                   0.74012419157855436424,  0.82000198597390292195, 0.88641552700440103421,
                                   0.93827455200273275852,  0.9747285559713094982,  0.99518721999702136018};
  static const double kWeight[12] = {0.12793819534675215697,  0.12583745634682829612,  0.1216704729278033912,
                                     0.11550566805372560135,  0.10744427011596563478,  0.09761865210411388827,
                                     0.086190161531953275917, 0.073346481411080305734, 0.059298584915436780746,
                                     0.044277438817419806169, 0.028531388628933663181, 0.012341229799987199547};
  const int k = i < 12 ? 11 - i : i - 12;
  *weight = kWeight[k];
  return i < 12 ? -kNode[k] : kNode[k];
}

constexpr int kOrder = 8;  // lumped excesses enter as a power series up to (w e)^(kOrder - 1)

// Twelve values each of 45/2 P_22 and 47/2 P_23, Legendre's polynomials, at the nodes from the middle outwards: with
// the weights they give a panel's last two Legendre coefficients.
EXPUNGE_TABLE double kLegendre22[12] = {-0.484204927529, 1.43276445467, -2.32238795664, 3.11579174998,
                                        -3.77854698586,  4.27988553717, -4.59309150422, 4.69517026081,
                                        -4.56509322763,  4.17863810336, -3.49258724342, 2.37832772717};
EXPUNGE_TABLE double kLegendre23[12] = {-3.86347990755, 3.83165640351, -3.76773804138, 3.6711378924,
                                        -3.54085317436, 3.37527924521, -3.17187321921, 2.92652180105,
                                        -2.63225293423, 2.27625097513, -1.83138180953, 1.22146838584};

struct PanelSum {
  double value;  // integral over the panel of Re(integrand dw / i), relative to its value at w0
  double noise;  // bound on the rounding error of `value`, in units of kRoundoff
  double unresolved;  // error of the Gauss rule
  double end_size;  // |w (1 + w) integrand| at the last node, relative to its value at w0
  double largest;  // largest |integrand| met
  double phase_rate;  // |d phase / dt| over the panel
};

struct Contour {
  double w0, s, bend;  // w(t) = w0 + bend s (sqrt(1 + (t/s)^2) - 1) + i t
  double epsilon, exponent, rtol;  // exponent = K(w0) - w0 eps
  Magnification magnification;  // at w0
};

EXPUNGE_HD EXPUNGE_OUTLINE static PanelSum profile_panel(const ProfilePair& pair, const Contour& path, double begin,
                                                         double width) {
  F64 wr[kBlocks], wi[kBlocks], tilt[kBlocks], weight[kBlocks];
  F64 pr[kBlocks], pi[kBlocks], turns[kBlocks], scale[kBlocks], sr[kBlocks], si[kBlocks], sa[kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    F64 t;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int i = (static_cast<int>(team::lane()) * kBlocks + b) * kLanes + lane;
      double share;
      const double node = panel_node(i < kPanel ? i : kPanel - 1, &share);
      set_lane(&t, lane, begin + 0.5 * width * (1.0 + node));
      set_lane(&weight[b], lane, i < kPanel ? 0.5 * width * share : 0.0);
    }
    const F64 x = t / path.s;
    const F64 h = sqrt_lanes(1.0 + x * x);
    wr[b] = path.w0 + (path.bend * path.s) * (x * x / (h + 1.0));
    wi[b] = t;
    tilt[b] = path.bend * x / h;
    pr[b] = splat(1.0);
    pi[b] = turns[b] = scale[b] = sr[b] = si[b] = sa[b] = F64{};
  }
  const double end_t = begin + width;
  const double end_x = end_t / path.s;
  const double reach = fabs(path.w0) + fabs(path.bend) * path.s * (sqrt(1.0 + end_x * end_x) - 1.0);
  const double w_max = sqrt(reach * reach + end_t * end_t);
  double shift_moment[kOrder] = {};
  double moment[kOrder] = {};
  double lumped = 0.0;
  double lumped_d2 = 0.0;
  double sum_e = 0.0;  // of the sizes of the lumped excesses
  int pending = 0;
  for (long j = 0; j < pair.m; ++j) {
    const double e = pair.e[j];
    const double d2 = pair.d2[j];
    const double ratio = fabs(e) * w_max;
    const double r2 = ratio * ratio;
    const double r8 = (r2 * r2) * (r2 * r2);
    if (ratio < 0.25 && (d2 * w_max * (1.0 + w_max) + pair.q) * r8 <= 1e-3 * path.rtol) {
      double power = 1.0;
      for (int k = 0; k < kOrder; ++k) {
        shift_moment[k] += d2 * power;
        moment[k] += power;
        power *= e;
      }
      ++lumped;
      lumped_d2 += d2;
      sum_e += fabs(e);
      continue;
    }
    for (int b = 0; b < kBlocks; ++b) {
      const F64 vr = 1.0 - e * wr[b];
      const F64 I64 = -e * wi[b];
      const F64 re = pr[b] * vr - pi[b] * I64;
      const F64 im = pr[b] * I64 + pi[b] * vr;
      // The product turns one way per factor; a sign change of the imaginary part tells when it passed the cut.
      if (e > 0.0)
        turns[b] -= select((pi[b] <= 0.0) & (im > 0.0), splat(1.0), F64{});
      else
        turns[b] += select((pi[b] >= 0.0) & (im < 0.0), splat(1.0), F64{});
      pr[b] = re;
      pi[b] = im;
      const F64 factor = d2 / (vr * vr + I64 * I64);
      const F64 across = factor * I64;
      sr[b] += factor * vr;
      si[b] -= across;
      sa[b] += vm::abs(across);
    }
    if (++pending == 6) {
      pending = 0;
      for (int b = 0; b < kBlocks; ++b) vm::rescale(&pr[b], &pi[b], &scale[b]);
    }
  }
  const double half = 0.5 * pair.q;
  const double linear = half * (moment[1] - pair.sum_log1p);
  const double terms = static_cast<double>(pair.m);
  // Roundings of each node's exponent and phase, by what they are proportional to (see the sums below).
  const double of_shift = terms + 20.0 + 6.0 * path.magnification.largest;
  const double of_w = half * (sum_e + pair.sum_abs) * (terms + 2.0) + 3.0 * fabs(linear - path.epsilon);
  const double of_squares = half * (terms + 8.0) * moment[2];
  const double fixed =
      16.0 + 2.0 * fabs(path.exponent) + half * (12.0 * (terms - lumped) + 6.0 * path.magnification.sum);
  double c22 = 0.0;
  double c23 = 0.0;
  PanelSum out{0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
  double first_phase = 0.0;
  double last_phase = 0.0;
  for (int b = 0; b < kBlocks; ++b) {
    vm::rescale(&pr[b], &pi[b], &scale[b]);
    F64 log_size = 0.5 * vm::log(pr[b] * pr[b] + pi[b] * pi[b]) + scale[b] * 0.693147180559945309417232121458;
    F64 angle = vm::atan2(pi[b], pr[b]) + turns[b] * 6.28318530717958647692528676656;
    // Lumped part by Horner: shift series, and sum_k moment[k] w^k / k for k >= 2.
    F64 ar = F64{}, ai = ar, lr = ar, li = ar;
    if (lumped > 0.0) {
      for (int k = kOrder - 1; k >= 0; --k) {
        const F64 nr = ar * wr[b] - ai * wi[b] + shift_moment[k];
        ai = ar * wi[b] + ai * wr[b];
        ar = nr;
      }
      for (int k = kOrder - 1; k >= 2; --k) {
        const F64 nr = lr * wr[b] - li * wi[b] + moment[k] / k;
        li = lr * wi[b] + li * wr[b];
        lr = nr;
      }
      for (int k = 0; k < 2; ++k) {
        const F64 nr = lr * wr[b] - li * wi[b];
        li = lr * wi[b] + li * wr[b];
        lr = nr;
      }
    }
    ar += sr[b] + pair.rest_d2;
    ai += si[b];
    // w (1 + w) / 2 times the shift sum.
    const F64 nr = wr[b] + 1.0;
    const F64 zr = 0.5 * (wr[b] * nr - wi[b] * wi[b]);
    const F64 zi = 0.5 * wi[b] * (wr[b] + nr);
    const F64 real = zr * ar - zi * ai + half * (lr - log_size) + (linear - path.epsilon) * wr[b] - path.exponent;
    const F64 phase = zr * ai + zi * ar + half * (li - angle) + (linear - path.epsilon) * wi[b];
    // Divide by w (1 + w), each factor relative to its size at w0 so that nothing overflows.
    const F64 ur = wr[b] / path.w0, ui = wi[b] / path.w0;
    const F64 yr = nr / (1.0 + path.w0), yi = wi[b] / (1.0 + path.w0);
    const F64 cr = ur * yr - ui * yi, ci = ur * yi + ui * yr;
    const F64 norm = 1.0 / (cr * cr + ci * ci);
    F64 sine, cosine;
    vm::sincos(phase, &sine, &cosine);
    const F64 size = vm::exp(real);
    // (cosine + i sine)(cr - i ci)(1 - i tilt) / |c|^2, real part.
    const F64 fr = (cosine * cr + sine * ci) * norm;
    const F64 fi = (sine * cr - cosine * ci) * norm;
    const F64 value = size * (fr + fi * tilt[b]) * weight[b];
    const F64 absolute = size * sqrt_lanes(norm * (1.0 + tilt[b] * tilt[b]));
    const F64 size_w = vm::abs(wr[b]) + wi[b];
    const F64 along = vm::abs(sr[b]) + sa[b] + (pair.rest_d2 + 1.34 * lumped_d2);
    const F64 roundings = of_shift * (vm::abs(zr) + vm::abs(zi)) * along + of_w * size_w +
                          of_squares * (size_w * size_w) + 2.0 * half * (vm::abs(log_size) + vm::abs(angle)) + fixed;
    const F64 noise = absolute * weight[b] * roundings;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int i = (static_cast<int>(team::lane()) * kBlocks + b) * kLanes + lane;
      const double share = lane_of(value, lane);
      out.value += share;
      out.noise += lane_of(noise, lane);
      if (i < kPanel) {
        const int k = i < 12 ? 11 - i : i - 12;
        c22 += share * kLegendre22[k];
        c23 += i < 12 ? -share * kLegendre23[k] : share * kLegendre23[k];
      }
      if (!(lane_of(absolute, lane) <= out.largest)) out.largest = lane_of(absolute, lane);
    }
    if (b == 0) first_phase = lane_of(phase, 0);
    if (b == kBlocks - 1) {
      last_phase = lane_of(phase, kLanes - 1);
      out.end_size = lane_of(size, kLanes - 1);
    }
  }
  if (team::size > 1) {
    const int last = kPanel / kLanes - 1;  // the lane with the last node
    out.value = team::sum(out.value);
    out.noise = team::sum(out.noise);
    c22 = team::sum(c22);
    c23 = team::sum(c23);
    out.largest = team::largest(out.largest == out.largest ? out.largest : HUGE_VAL);
    first_phase = team::from_lane(first_phase, 0);
    last_phase = team::from_lane(last_phase, last);
    out.end_size = team::from_lane(out.end_size, last);
  }
  // Coefficients of an analytic function fall geometrically: the 48th, which the rule misses, is near the square of the
  // 24th over the first.
  const double last = fabs(c22) + fabs(c23);
  out.unresolved = out.largest > 0.0 ? 8.0 * last * last / (width * out.largest) : 0.0;
  out.phase_rate = fabs(last_phase - first_phase) / (width * kPanelReach);
  return out;
}

// log of the bound delta <= exp(K - w eps) w^w / (1 + w)^(1 + w), given exponent = K - w eps at w.
EXPUNGE_HD static double profile_bound(double exponent, double w) {
  const double bound = exponent - log1p(w) - w * log1p(1.0 / w);
  return bound < 0.0 ? bound : 0.0;
}

// The supremum of the privacy loss, rounded up: at and beyond it delta is exactly 0.
EXPUNGE_HD static double loss_ceiling(const ProfilePair& pair) {
  const double size = fabs(pair.max_loss) + 0.5 * pair.q * pair.sum_abs;
  return pair.max_loss + (8.0 + static_cast<double>(pair.m)) * 2.220446049250313e-16 * size;
}

// Bound on |exp(K)| on the vertical line above w = (wr, wi), over its value there. Each factor of exp(K) falls along a
// vertical line but those whose Re v is negative, which rise towards a limit.
EXPUNGE_HD static double rise_above(const ProfilePair& pair, double wr, double wi) {
  double rise = 0.0;
  for (long j = team::lane(); j < pair.m; j += team::size) {
    const double e = pair.e[j], vr = 1.0 - e * wr, I64 = e * wi;
    if (vr < 0.0) rise -= 0.5 * pair.d2[j] * ((1.0 + e) / (e * e)) * (vr / (vr * vr + I64 * I64));
  }
  return ::exp(team::sum(rise));
}

EXPUNGE_HD EXPUNGE_OUTLINE static ProfileResult profile_at(const ProfilePair& pair, double epsilon, double rtol,
                                                           int approximate) {
  if (!pair.valid || !(epsilon >= 0.0)) return {NAN, NAN, 0, 0.0};
  if (pair.trivial || epsilon == HUGE_VAL) return {-HUGE_VAL, 0.0, 1, 0.0};
  if (pair.overflows) return {0.0, 1.0, 0, 1.0};
  if (pair.max_loss < HUGE_VAL) {
    if (epsilon > loss_ceiling(pair)) return {-HUGE_VAL, 0.0, 1, 0.0};
  }
  ProfileSlopes slopes;
  double w0 = profile_saddle(pair, epsilon, &slopes);
  Magnification magnification;
  double rounding = kRoundoff * (4.0 * w0 * epsilon + 16.0);
  double exponent = profile_log_moment(pair, w0, &rounding, &magnification) - w0 * epsilon;
  // Every w below the pole gives a bound: where squares overflow at the saddle, a smaller one does.
  const bool overflows = !(exponent < HUGE_VAL && rounding < HUGE_VAL);
  while (!(exponent < HUGE_VAL && rounding < HUGE_VAL) && w0 > 2.0) {
    w0 = sqrt(w0);
    rounding = kRoundoff * (4.0 * w0 * epsilon + 16.0);
    exponent = profile_log_moment(pair, w0, &rounding, &magnification) - w0 * epsilon;
  }
  if (!(exponent < HUGE_VAL && rounding < HUGE_VAL)) return {0.0, 1.0, 0, w0};
  rounding += kRoundoff * 8.0 * fabs(exponent);
  const double bound = profile_bound(exponent, w0);
  const double proved = bound + rounding < 0.0 ? bound + rounding : 0.0;
  if (overflows) return {proved, 1.0, 0, w0};
  const double base = exponent - ::log(w0) - log1p(w0);
  const double a = 1.0 / w0;
  const double c = 1.0 / (1.0 + w0);
  const double k2 = slopes.k2 + a * a + c * c;
  if (approximate) {
    const double k3 = slopes.k3 - 2.0 * (a * a * a + c * c * c);
    const double k4 = slopes.k4 + 6.0 * (a * a * a * a + c * c * c * c);
    const double fix = k4 / (8.0 * k2 * k2) - 5.0 * k3 * k3 / (24.0 * k2 * k2 * k2);
    const double factor = fix > -0.5 && fix < 0.5 ? 1.0 + fix : 1.0;
    const double value = base - 0.5 * ::log(6.28318530717958647692528676656 * k2) + ::log(factor);
    return {value < bound ? value : bound, 0.02 + fix * fix, 1, w0};
  }
  if (!(base >= -700.0)) return {proved, 1.0, 0, w0};
  double s = 1.0 / sqrt(k2);
  const double gap = pair.pole - w0;
  const double cap = 10.0 * (gap < w0 ? gap : w0);
  if (s > cap) s = cap;
  // A vertical line first; then bent to the side on which the integrand falls in the end, then to the other.
  const double side = pair.max_loss < HUGE_VAL ? -0.6 : 0.6;
  const double bends[3] = {0.0, side, -side};
  ProfileResult best{proved, 1.0, 0, w0};
  for (int turn = 0; turn < 3; ++turn) {
    const Contour path{w0, s, bends[turn], epsilon, exponent, rtol, magnification};
    double total = 0.0;
    double error = 0.0;  // of the rule, absolute
    double noise = 0.0;
    double t = 0.0;
    double width = 0.5 * s;
    const int panels = turn == 0 ? 40 : 80;
    for (int panel = 0; panel < panels; ++panel) {
      const PanelSum part = profile_panel(pair, path, t, width);
      if (!(part.largest <= 1e3)) break;
      total += part.value;
      error += part.unresolved;
      noise += part.noise;
      t += width;
      // What lies beyond, continued vertically from here: there |exp(K - w eps)| falls, and 1/|w (1 + w)| leaves at
      // most min(1/t, pi / (2 |Re w|)).
      const double x = t / s;
      const double wr = w0 + bends[turn] * s * (x * x / (sqrt(1.0 + x * x) + 1.0));
      const double arc = 1.5707963267948966 * t < fabs(wr) ? 1.5707963267948966 / fabs(wr) : 1.0 / t;
      double tail = part.end_size * (w0 * arc) * (1.0 + w0);
      if (tail <= 0.1 * rtol * fabs(total)) {
        if (turn > 0) tail *= 2.0 * rise_above(pair, wr, t);
        const double value = base + ::log(total / 3.14159265358979323846264338328);
        const double relative = (error + tail + kRoundoff * noise) / total + 1e-3 * rtol * static_cast<double>(pair.m) +
                                kRoundoff * (16.0 + 4.0 * fabs(exponent) + 4.0 * fabs(base));
        if (!(total > 0.0) || !(relative < best.relative_error)) break;
        best = {value, relative, 1, w0};
        break;
      }
      width *= 1.6;
      if (part.phase_rate * width > 10.0) width = 10.0 / part.phase_rate;
    }
    if (best.converged && best.relative_error <= 20.0 * rtol) break;
  }
  // The Chernoff-type bound holds always: where rounding leaves the integral above it, it is the answer.
  if (best.converged && !(best.log_delta + best.relative_error <= proved)) {
    if (!(best.relative_error < 1e-9)) return {proved, 1.0, 0, w0};
    if (best.log_delta > proved) best.log_delta = proved;
  }
  return best;
}

// delta(P | Q) at epsilon. rtol: wanted relative accuracy (1e-12 for certificates, 1e-8 for quotes).
[[maybe_unused]] EXPUNGE_HD static ProfileResult gaussian_profile(const double* e, const double* d2, long m,
                                                                  double rest_d2, double q, double epsilon, double rtol,
                                                                  const double* origin) {
  return profile_at(profile_pair(e, d2, m, rest_d2, q, origin), epsilon, rtol, 0);
}

// The saddle-point estimate of the same, two to three digits: to start a noise solve, never to claim.
[[maybe_unused]] EXPUNGE_HD static ProfileResult gaussian_profile_approx(const double* e, const double* d2, long m,
                                                                         double rest_d2, double q, double epsilon,
                                                                         const double* origin) {
  return profile_at(profile_pair(e, d2, m, rest_d2, q, origin), epsilon, 1e-2, 1);
}

// The pair with its roles exchanged, whitened by the other law; rest_d2 stays as it is. delta grows with every d2
// (Anderson: level sets of both laws are symmetric and convex), so d2 is rounded up. Profiles need `e` as well:
// `origin`.
[[maybe_unused]] EXPUNGE_HD static void swap_roles(const double* e, const double* d2, long m, double* e_out,
                                                   double* d2_out) {
  team::sync();
  for (long j = team::lane(); j < m; j += team::size) {
    const double scale = 1.0 / (1.0 + e[j]);
    const double up = d2[j] * scale * (1.0 + 4.0 * kRoundoff);
    d2_out[j] = d2[j] > 0.0 && up < 1e-280 ? 1e-280 : up;
    e_out[j] = e[j] < kLargestExcess ? -e[j] * scale : -1.0;
  }
  team::sync();
}

// Renyi divergence D_order(P | Q), order > 1; +inf where it diverges. *error: bound on the rounding error.
[[maybe_unused]] EXPUNGE_HD static double gaussian_renyi(const ProfilePair& pair, double order, double* error) {
  const double w = order - 1.0;
  *error = 0.0;
  if (!pair.valid || !(w > 0.0)) return NAN;
  if (pair.trivial) return 0.0;
  if (pair.overflows || !(w < pair.pole)) return HUGE_VAL;
  Magnification magnification;
  double rounding = 0.0;
  const double value = profile_log_moment(pair, w, &rounding, &magnification) / w;
  if (!(value < HUGE_VAL && rounding < HUGE_VAL)) return HUGE_VAL;
  *error = rounding / w + 4.0 * kRoundoff * fabs(value) + 4.9406564584124654e-324;
  return value > 0.0 ? value : 0.0;
}

}  // namespace
}  // namespace expunge::privacy
