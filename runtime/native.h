// Tiles of attention in C++, forward and backward, for one pass over pairs.
//
// A generated `Pass` says what a pair's score and its derivatives are; this file walks the tiles.
// Rows of a block, keys of a tile; all sums in float32. Matrix products go through `product`, whose
// right operand is packed once: WIDE numbers of every k lie together, one panel after another.
// Nothing here has the size of the mask; shapes and the number of threads fix the order of sums.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace attnspec {

#if defined(__AVX512F__)
constexpr int LANES = 16, HIGH = 12;
#elif defined(__AVX__)
constexpr int LANES = 8, HIGH = 6;
#elif defined(__aarch64__)
constexpr int LANES = 4, HIGH = 12;
#else
constexpr int LANES = 4, HIGH = 6;
#endif
constexpr int WIDE = 2 * LANES;      // columns of a panel
constexpr int ROWS = 96;             // queries of a block
constexpr int COLUMNS = 256;         // keys of a tile
constexpr int PITCH = COLUMNS + 2 * 16;  // of a tile in memory: it may begin within a panel
constexpr float NOTHING = -std::numeric_limits<float>::infinity();
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4)));

inline int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A tensor [B, H, tokens, channels]; strides in elements, 0 where an axis is broadcast, and `part`
// from one of several such tensors to the next, which are added up afterwards.
struct View {
    void* data;
    int64_t b, h, token, channel, size, part;

    float* at(int64_t batch, int64_t head, int64_t place = 0) const {
        return static_cast<float*>(data) + batch * b + head * h + place * token;
    }
    template <typename T>
    const T* numbers(int64_t batch, int64_t head, int64_t place = 0) const {
        return static_cast<const T*>(data) + batch * b + head * h + place * token;
    }
    template <typename T>
    T number(int64_t batch, int64_t head, int64_t place = 0) const {
        return *numbers<T>(batch, head, place);
    }
};

// One call. `starts` and `runs` say what each block of rows visits: first key, end, whether pairs
// are excluded. `grads` are by operand; those that nobody wants have no data, the others zeros.
struct Call {
    int64_t batch, heads, key_heads, rows, columns, q_start, k_start, channels, blocks, parts, threads;
    const View* operands;
    const double* numbers;
    const double* largest;  // of each operand of whole numbers, the largest size of one
    const int64_t* starts;
    const int64_t* runs;
    const View* grads;
    View out, lse, delta, d_out, ungated;
};

// Some pairs of a row: `count` keys from `column` on. For the backward what the softmax saved, in
// base 2 the log-sum-exp; the gradient of the weights, which becomes that of the first product; and
// where the shares of other gradients go, and their `places` in tables. `along` holds what is the
// same for all pairs of a diagonal, that of the first pair at `shift`.
struct Spot {
    const Call& call;
    int64_t b, h, hk, row, column;
    int count;
    float lse, delta;
    float* d_weight;
    float* const* shares;
    int32_t* const* places;
    float* const* along;
    int shift;
};

// What an operand that takes part in no product belongs to.
enum class Role { row, column, head, pair, table, row_table };

// Elementary functions, without branches so that loops over them become vectors.

inline float bits(int32_t x) { float y; std::memcpy(&y, &x, 4); return y; }
inline int32_t bits(float x) { int32_t y; std::memcpy(&y, &x, 4); return y; }

// 2 ** f for |f| <= 1/2
inline float near_one(float f) {
    float y = 1.535336188e-4f;
    y = y * f + 1.339887440e-3f;
    y = y * f + 9.618437357e-3f;
    y = y * f + 5.550332548e-2f;
    y = y * f + 2.402264791e-1f;
    y = y * f + 6.931472028e-1f;
    return y * f + 1.0f;
}

// 2 ** x of x <= 0, within 2 units in the last place; 0 below the normal numbers.
inline float exp2_below(float x) {
    const float shift = 12582912.0f;  // what is added to it is rounded to a whole number
    const float near = x < -127.0f ? -127.0f : x;
    const float whole = near + shift;
    return near_one(near - (whole - shift)) * bits((bits(whole) - bits(shift) + 127) << 23);
}

// 2 ** x of any x, likewise.
inline float exp2_of(float x) {
    const float shift = 12582912.0f;
    const float small = x < -127.0f ? -127.0f : x, near = small > 129.0f ? 129.0f : small;
    const float whole = near + shift;
    const int32_t power = bits(whole) - bits(shift), half = power >> 1;
    // in two factors: 2 ** 128 is no number
    const float y = near_one(near - (whole - shift)) * bits((half + 127) << 23);
    const float far = y * bits((power - half + 127) << 23);
    return x < -126.5f ? 0.0f : far;
}
inline float exp_of(float x) { return exp2_of(LOG2E * x); }

// tanh x: a series where 1 - 2 / (e ** 2x + 1) would cancel.
inline float tanh_of(float x) {
    const float size = std::fabs(x), square = x * x;
    float y = -5.70498872745e-3f;
    y = y * square + 2.06390887954e-2f;
    y = y * square + -5.37397155531e-2f;
    y = y * square + 1.33314422036e-1f;
    y = y * square + -3.33332819422e-1f;
    const float inner = x + x * square * y;
    const float outer = std::copysign(1.0f - 2.0f / (exp2_of(2.0f * LOG2E * size) + 1.0f), x);
    return size < 0.625f ? inner : outer;
}
inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
inline float softplus_of(float x) { return (x > 0.0f ? x : 0.0f) + std::log1p(std::exp(-std::fabs(x))); }
inline float logsigmoid_of(float x) { return -softplus_of(-x); }
inline float gelu_of(float x) { return 0.5f * x * (1.0f + std::erf(0.70710678118654752f * x)); }

// What is not a number stays so.
template <typename X, typename Y>
inline auto least(X x, Y y) { return x < y || x != x ? x : y; }
template <typename X, typename Y>
inline auto most(X x, Y y) { return x > y || x != x ? x : y; }
template <typename X>
inline X relu_of(X x) { return x <= 0 ? 0 : x; }
template <typename X>
inline X sign_of(X x) { return (x > 0) - (x < 0); }
// By 0, which only pairs do that do not count, as by 1.
inline int quotient(int x, int y) {
    const int by = y == 0 ? 1 : y, whole = x / by;
    return whole - (x % by != 0 && (x < 0) != (by < 0));
}
inline int remainder_of(int x, int y) { return x - quotient(x, y) * (y == 0 ? 1 : y); }
// A float without a fraction as an int, the nearest there is.
inline int whole_of(float x) {
    const float most = 2147483520.0f, high = x > most ? most : x;
    return static_cast<int>(high >= -most ? high : -most);
}
inline int power_of(int x, int n) { int y = 1; for (; n > 0; --n) y *= x; return y; }
inline int within(int x, int64_t size) { const int last = static_cast<int>(size) - 1; return x < 0 ? 0 : x > last ? last : x; }


// Products.

// C[m, n] (+)= sum over k of A[m * am + k * ak] * panel[k * WIDE + n] for n < WIDE
template <int M>
inline void strip(int64_t count, const float* __restrict a, int64_t am, int64_t ak,
                  const float* __restrict panel, float* __restrict c, int64_t ldc, bool add) {
    Lanes sums[M][2];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        sums[m][0] = add ? *reinterpret_cast<const Loose*>(c + m * ldc) : Lanes{};
        sums[m][1] = add ? *reinterpret_cast<const Loose*>(c + m * ldc + LANES) : Lanes{};
    }
    for (int64_t k = 0; k < count; ++k) {
        const Lanes first = *reinterpret_cast<const Loose*>(panel + k * WIDE);
        const Lanes second = *reinterpret_cast<const Loose*>(panel + k * WIDE + LANES);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const float x = a[m * am + k * ak];
            sums[m][0] += x * first;
            sums[m][1] += x * second;
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        *reinterpret_cast<Loose*>(c + m * ldc) = sums[m][0];
        *reinterpret_cast<Loose*>(c + m * ldc + LANES) = sums[m][1];
    }
}

template <int M>
inline void rest(int m, int64_t count, const float* a, int64_t am, int64_t ak, const float* panel,
                 float* c, int64_t ldc, bool add) {
    if constexpr (M > 0) {
        if (m == M) return strip<M>(count, a, am, ak, panel, c, ldc, add);
        rest<M - 1>(m, count, a, am, ak, panel, c, ldc, add);
    }
}

// C [m, n] (+)= A [m, k] B [k, n]: A by its strides, B in panels `apart` numbers apart, C with rows
// `ldc` apart that have room for whole panels.
__attribute__((noinline)) inline void product(int64_t m, int64_t n, int64_t k, const float* a, int64_t am, int64_t ak,
                    const float* panels, int64_t apart, float* c, int64_t ldc, bool add) {
    for (int64_t at = 0; at < n; at += WIDE, panels += apart)
        for (int64_t row = 0; row < m; row += HIGH) {
            const float* left = a + row * am;
            float* into = c + row * ldc + at;
            if (m - row >= HIGH) strip<HIGH>(k, left, am, ak, panels, into, ldc, add);
            else rest<HIGH - 1>(static_cast<int>(m - row), k, left, am, ak, panels, into, ldc, add);
        }
}

// Panels of tokens [channels, WIDE tokens]; true if every number is finite.
__attribute__((noinline)) inline bool pack_tokens(const View& x, int64_t b, int64_t h, int64_t tokens, float* to) {
    float bad = 0.0f;
    for (int64_t first = 0; first < tokens; first += WIDE) {
        const int64_t count = std::min<int64_t>(WIDE, tokens - first);
        for (int64_t n = 0; n < WIDE; ++n) {
            const float* from = n < count ? x.at(b, h, first + n) : nullptr;
            for (int64_t c = 0; c < x.size; ++c) {
                const float value = from ? from[c * x.channel] : 0.0f;
                bad += value * 0.0f;
                to[c * WIDE + n] = value;
            }
        }
        to += x.size * WIDE;
    }
    return bad == 0.0f;
}

// Panels of channels [tokens, WIDE channels] of `tokens` tokens from `first` on.
__attribute__((noinline)) inline bool pack_channels(const View& x, int64_t b, int64_t h, int64_t first, int64_t tokens,
                          float* to) {
    float bad = 0.0f;
    for (int64_t low = 0; low < x.size; low += WIDE) {
        const int64_t count = std::min<int64_t>(WIDE, x.size - low);
        for (int64_t n = 0; n < tokens; ++n, to += WIDE) {
            const float* from = x.at(b, h, first + n) + low * x.channel;
            for (int64_t c = 0; c < WIDE; ++c) {
                const float value = c < count ? from[c * x.channel] : 0.0f;
                bad += value * 0.0f;
                to[c] = value;
            }
        }
    }
    return bad == 0.0f;
}

// Rows of tokens, one after another.
__attribute__((noinline)) inline bool copy_rows(const View& x, int64_t b, int64_t h, int64_t first, int64_t tokens, float* to) {
    float bad = 0.0f;
    for (int64_t n = 0; n < tokens; ++n, to += x.size) {
        const float* from = x.at(b, h, first + n);
        for (int64_t c = 0; c < x.size; ++c) {
            to[c] = from[c * x.channel];
            bad += to[c] * 0.0f;
        }
    }
    return bad == 0.0f;
}

// What all blocks of a batch and key head read, packed.
struct Packed {
    std::vector<float> numbers;
    int64_t each = 0;
    bool finite = true;
    const float* of(int64_t group) const { return numbers.data() + group * each; }
};

__attribute__((noinline)) inline void pack(const Call& call, const View& x, bool by_tokens, Packed& into) {
    into.each = by_tokens ? up(call.columns, WIDE) * x.size : call.columns * up(x.size, WIDE);
    const int64_t groups = call.batch * call.key_heads;
    into.numbers.resize(groups * into.each);
    int bad = 0;
#pragma omp parallel for num_threads(call.threads) reduction(+ : bad)
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t b = group / call.key_heads, h = group % call.key_heads;
        float* to = into.numbers.data() + group * into.each;
        bad += !(by_tokens ? pack_tokens(x, b, h, call.columns, to)
                           : pack_channels(x, b, h, 0, call.columns, to));
    }
    into.finite = bad == 0;
}

// The blocks of rows, those with the most keys first.
inline std::vector<int64_t> longest_first(const Call& call) {
    std::vector<int64_t> order(call.blocks), work(call.blocks);
    for (int64_t n = 0; n < call.blocks; ++n) {
        order[n] = n;
        for (int64_t r = call.starts[n]; r < call.starts[n + 1]; ++r)
            work[n] += call.runs[3 * r + 1] - call.runs[3 * r];
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return work[x] > work[y]; });
    return order;
}

// The tiles that a block of rows visits: first key, end, whether pairs are excluded.
template <typename Visit>
inline void visit(const Call& call, int64_t block, Visit&& tile) {
    for (int64_t r = call.starts[block]; r < call.starts[block + 1]; ++r) {
        const int64_t* run = call.runs + 3 * r;
        for (int64_t low = run[0]; low < run[1]; low += COLUMNS)
            tile(low, std::min<int64_t>(low + COLUMNS, run[1]), run[2] != 0);
    }
}

inline float largest(const float* x, int count) {
    float found = NOTHING;
#pragma omp simd reduction(max : found)
    for (int n = 0; n < count; ++n) found = x[n] > found ? x[n] : found;
    return found;
}

// exp2(x - less), x <= less, in place, and the sum of these.
inline float weigh(float* x, int count, float less) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int n = 0; n < count; ++n) {
        x[n] = exp2_below(x[n] - less);
        total += x[n];
    }
    return total;
}

inline float sum(const float* x, int count) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int n = 0; n < count; ++n) total += x[n];
    return total;
}

// Numbers of the diagonals of a tile, from that of the last row's first pair on.
template <int count>
struct Diagonals {
    std::vector<float> numbers = std::vector<float>(count * (ROWS + COLUMNS));
    float* at[count + 1] = {};
    Diagonals() {
        for (int k = 0; k < count; ++k) at[k] = numbers.data() + k * (ROWS + COLUMNS);
    }
};

// Pairs of the last of `m` rows from `low` on, as many as there are diagonals.
inline Spot crossing(const Call& call, int64_t b, int64_t h, int64_t hk, int64_t low, int64_t m, int64_t begin, int64_t count) {
    return {call, b, h, hk, low + m - 1, begin, static_cast<int>(m - 1 + count), 0, 0, nullptr, nullptr, nullptr, nullptr, 0};
}

// 0 where all went well, 1 where an operand is not finite: then nothing is written that counts.
template <typename Pass>
int forward(const Call& call) {
    Packed keys[Pass::dots ? Pass::dots : 1], values;
    for (int d = 0; d < Pass::dots; ++d) {
        pack(call, call.operands[Pass::right[d]], true, keys[d]);
        if (!keys[d].finite) return 1;
    }
    if constexpr (Pass::value >= 0) {
        pack(call, call.operands[Pass::value], false, values);
        if (!values.finite) return 1;
    }
    const std::vector<int64_t> order = longest_first(call);
    const int64_t wide = up(call.channels, WIDE), tasks = call.batch * call.heads * call.blocks;
    const int64_t group = call.heads / call.key_heads;
    int bad = 0;
#pragma omp parallel num_threads(call.threads) reduction(+ : bad)
    {
        std::vector<float> left[Pass::dots ? Pass::dots : 1], tile[Pass::dots ? Pass::dots : 1];
        for (int d = 0; d < Pass::dots; ++d) left[d].resize(ROWS * call.operands[Pass::left[d]].size);
        for (auto& t : tile) t.resize(ROWS * PITCH);
        std::vector<float> acc(ROWS * wide), top(ROWS), total(ROWS);
        const Diagonals<Pass::score_along> along;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t block = order[task / (call.batch * call.heads)];
            const int64_t b = task / call.heads % call.batch, h = task % call.heads, hk = h / group;
            const int64_t low = block * ROWS, m = std::min<int64_t>(ROWS, call.rows - low);
            for (int d = 0; d < Pass::dots; ++d)
                bad += !copy_rows(call.operands[Pass::left[d]], b, h, low, m, left[d].data());
            std::fill(acc.begin(), acc.end(), 0.0f);
            std::fill(top.begin(), top.end(), NOTHING);
            std::fill(total.begin(), total.end(), 0.0f);
            visit(call, block, [&](int64_t begin, int64_t end, bool masked) {
                const int64_t from = begin / WIDE * WIDE;
                const int count = static_cast<int>(end - begin);
                for (int d = 0; d < Pass::dots; ++d) {
                    const int64_t size = call.operands[Pass::left[d]].size;
                    product(m, end - from, size, left[d].data(), size, 1,
                            keys[d].of(b * call.key_heads + hk) + from * size, size * WIDE,
                            tile[d].data(), PITCH, false);
                }
                if constexpr (Pass::score_along > 0)
                    Pass::score_diagonals(crossing(call, b, h, hk, low, m, begin, count), along.at);
                for (int64_t r = 0; r < m; ++r) {
                    float* scores[Pass::dots ? Pass::dots : 1];
                    for (auto& t : tile) scores[&t - tile] = t.data() + r * PITCH + begin - from;
                    const Spot spot{call, b, h, hk, low + r, begin, count, 0, 0, nullptr, nullptr, nullptr,
                                    along.at, static_cast<int>(m - 1 - r)};
                    if (masked) Pass::template score<true>(spot, scores);
                    else Pass::template score<false>(spot, scores);
                    if constexpr (Pass::softmax) {
                        const float higher = std::max(top[r], largest(scores[0], count));
                        const float safe = higher == NOTHING ? 0.0f : higher;
                        const float scale = exp2_of(top[r] - safe);
                        total[r] = total[r] * scale + weigh(scores[0], count, safe);
                        top[r] = higher;
                        if (Pass::value >= 0 && scale != 1.0f)
                            for (int64_t c = 0; c < wide; ++c) acc[r * wide + c] *= scale;
                    } else if constexpr (Pass::value < 0) {
                        acc[r * wide] += sum(scores[0], count);
                    }
                }
                if constexpr (Pass::value >= 0)
                    product(m, wide, count, tile[0].data() + begin - from, PITCH, 1,
                            values.of(b * call.key_heads + hk) + begin * WIDE, call.columns * WIDE,
                            acc.data(), wide, true);
            });
            for (int64_t r = 0; r < m; ++r) {
                float by = 1.0f;
                if constexpr (Pass::softmax) {
                    const bool empty = total[r] == 0.0f;
                    if constexpr (Pass::sink >= 0) {
                        const float sink = LOG2E * call.operands[Pass::sink].template number<float>(b, h, low + r);
                        const float higher = std::max(top[r], sink);
                        const float safe = higher == NOTHING ? 0.0f : higher;
                        const float scale = empty ? 0.0f : exp2_of(top[r] - safe);
                        total[r] = total[r] * scale + exp2_of(sink - safe);
                        top[r] = higher;
                        by = scale;
                    }
                    by = empty ? by : by / total[r];
                    *call.lse.at(b, h, low + r) = LN2 * (top[r] + std::log2(total[r]));
                }
                if constexpr (Pass::value >= 0 || !Pass::softmax) {
                    float* out = call.out.at(b, h, low + r);
                    for (int64_t c = 0; c < call.channels; ++c) out[c] = acc[r * wide + c] * by;
                }
            }
        }
    }
    return bad != 0;
}

// Adds what the pairs of a row share to the gradient of an operand, or to `diagonals` of a tile.
__attribute__((noinline)) inline void add_share(Role role, const View& grad, const Spot& at, int64_t part, const float* share,
                      const int32_t* place, float* diagonals) {
    if (diagonals) {
        float* const to = diagonals + at.shift;
        for (int n = 0; n < at.count; ++n) to[n] += share[n];
        return;
    }
    float* const base = static_cast<float*>(grad.data) + part * grad.part + at.b * grad.b;
    switch (role) {
        case Role::row:
        case Role::head:
            base[at.h * grad.h + (role == Role::row ? at.row * grad.token : 0)] += sum(share, at.count);
            return;
        case Role::column:
        case Role::pair: {
            const int64_t own = role == Role::column ? at.hk * grad.h : at.h * grad.h + at.row * grad.token;
            float* const to = base + own + at.column;
            for (int n = 0; n < at.count; ++n) to[n] += share[n];
            return;
        }
        case Role::table:
        case Role::row_table: {
            float* const to = base + at.h * grad.h + (role == Role::row_table ? at.row * grad.token : 0);
            for (int n = 0; n < at.count; ++n) to[place[n]] += share[n];
        }
    }
}

// Adds what the diagonals of a tile share to the gradient of a table, at `places`, in bits.
__attribute__((noinline)) inline void add_diagonals(const View& grad, const Spot& at, int64_t part, const float* share,
                          const float* places) {
    float* const to = static_cast<float*>(grad.data) + part * grad.part + at.b * grad.b + at.h * grad.h;
    for (int n = 0; n < at.count; ++n) to[within(bits(places[n]), grad.size)] += share[n];
}

// Gradients of what `grads` has room for: those of rows directly, others for each of `parts`, which
// take every so many blocks of rows. 0 and 1 as in `forward`.
template <typename Pass>
int backward(const Call& call) {
    constexpr int dots = Pass::dots, tiles = dots ? dots : 1, leaves = Pass::leaves;
    Packed keys[tiles], backs[tiles], values, mixed;
    bool finite = true, shared = false;
    for (int d = 0; d < dots; ++d) {
        pack(call, call.operands[Pass::right[d]], true, keys[d]);
        finite = finite && keys[d].finite;
        if (call.grads[Pass::left[d]].data) pack(call, call.operands[Pass::right[d]], false, backs[d]);
    }
    if constexpr (Pass::value >= 0) {
        pack(call, call.operands[Pass::value], true, values);
        if (call.ungated.data) pack(call, call.operands[Pass::value], false, mixed);
    }
    if (!finite || !values.finite) return 1;
    for (int k = 0; k < leaves; ++k) shared = shared || call.grads[Pass::operands[k]].data;
    const int64_t wide = up(call.channels, WIDE), groups = call.batch * call.key_heads;
    const int64_t each = call.heads / call.key_heads;
    int bad = 0;
#pragma omp parallel num_threads(call.threads) reduction(+ : bad)
    {
        std::vector<float> left[tiles], turned[tiles], into[tiles], tile[tiles], share[leaves + 1];
        std::vector<int32_t> place[leaves + 1];
        for (int d = 0; d < dots; ++d) {
            const int64_t size = call.operands[Pass::left[d]].size;
            left[d].resize(ROWS * size);
            turned[d].resize(ROWS * up(size, WIDE));
            into[d].resize(ROWS * up(size, WIDE));
        }
        for (auto& t : tile) t.resize(ROWS * PITCH);
        float* shares[leaves + 1] = {};
        int32_t* places[leaves + 1] = {};
        for (int k = 0; shared && k < leaves; ++k) {
            share[k].resize(COLUMNS);
            place[k].resize(COLUMNS);
            shares[k] = share[k].data();
            places[k] = place[k].data();
        }
        const Diagonals<Pass::slopes_along> along;
        const Diagonals<leaves> flows;
        std::vector<float> d_out(ROWS * call.channels), d_turned(ROWS * wide), d_tile(ROWS * PITCH), acc(ROWS * wide);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < groups * call.parts; ++task) {
            const int64_t part = task / groups, group = task % groups;
            const int64_t b = group / call.key_heads, hk = group % call.key_heads;
            const auto of_columns = [&](int operand, int64_t column) {
                const View& grad = call.grads[operand];
                return grad.data ? grad.at(b, hk, column) + part * grad.part : nullptr;
            };
            for (int64_t turn = 0; turn < each * call.blocks; ++turn) {
                const int64_t block = turn % call.blocks, h = hk * each + turn / call.blocks;
                if (block % call.parts != part) continue;
                const int64_t low = block * ROWS, m = std::min<int64_t>(ROWS, call.rows - low);
                for (int d = 0; d < dots; ++d) {
                    const View& x = call.operands[Pass::left[d]];
                    bad += !copy_rows(x, b, h, low, m, left[d].data());
                    pack_channels(x, b, h, low, m, turned[d].data());
                    std::fill(into[d].begin(), into[d].end(), 0.0f);
                }
                if constexpr (Pass::value >= 0) {
                    copy_rows(call.d_out, b, h, low, m, d_out.data());
                    pack_channels(call.d_out, b, h, low, m, d_turned.data());
                }
                std::fill(acc.begin(), acc.end(), 0.0f);
                visit(call, block, [&](int64_t begin, int64_t end, bool masked) {
                    const int64_t from = begin / WIDE * WIDE, skip = begin - from, count = end - begin;
                    for (int d = 0; d < dots; ++d) {
                        const int64_t size = call.operands[Pass::left[d]].size;
                        product(m, end - from, size, left[d].data(), size, 1, keys[d].of(group) + from * size,
                                size * WIDE, tile[d].data(), PITCH, false);
                    }
                    if constexpr (Pass::value >= 0)
                        product(m, end - from, call.channels, d_out.data(), call.channels, 1,
                                values.of(group) + from * call.channels, call.channels * WIDE, d_tile.data(), PITCH, false);
                    const Spot across = crossing(call, b, h, hk, low, m, begin, count);
                    if constexpr (Pass::slopes_along > 0) Pass::slopes_diagonals(across, along.at);
                    for (int k = 0; k < leaves; ++k) std::fill_n(flows.at[k], across.count, 0.0f);
                    for (int64_t r = 0; r < m; ++r) {
                        if constexpr (Pass::value < 0)
                            std::fill_n(d_tile.data() + r * PITCH + skip, count,
                                        Pass::softmax ? 0.0f : *call.d_out.at(b, h, low + r));
                        float* scores[tiles];
                        for (int d = 0; d < tiles; ++d) scores[d] = tile[d].data() + r * PITCH + skip;
                        Spot spot{call, b, h, hk, low + r, begin, static_cast<int>(count), 0.0f, 0.0f,
                                  d_tile.data() + r * PITCH + skip, shares, places,
                                  along.at, static_cast<int>(m - 1 - r)};
                        if constexpr (Pass::softmax) {
                            spot.lse = LOG2E * *call.lse.at(b, h, low + r);
                            spot.lse = spot.lse == NOTHING ? 0.0f : spot.lse;
                            spot.delta = *call.delta.at(b, h, low + r);
                        }
                        if (shared) {
                            if (masked) Pass::template slopes<true, true>(spot, scores);
                            else Pass::template slopes<false, true>(spot, scores);
                            for (int k = 0; k < leaves; ++k)
                                if (const View& grad = call.grads[Pass::operands[k]]; grad.data)
                                    add_share(Pass::roles[k], grad, spot, part, shares[k], places[k],
                                              Pass::along[k] < 0 ? nullptr : flows.at[k]);
                        } else if (masked) Pass::template slopes<true, false>(spot, scores);
                        else Pass::template slopes<false, false>(spot, scores);
                    }
                    for (int k = 0; k < leaves; ++k)
                        if (const View& grad = call.grads[Pass::operands[k]]; grad.data && Pass::along[k] >= 0)
                            add_diagonals(grad, across, part, flows.at[k], along.at[Pass::along[k]]);
                    if constexpr (Pass::value >= 0) {
                        if (float* to = of_columns(Pass::value, begin))
                            product(count, wide, m, tile[0].data() + skip, 1, PITCH, d_turned.data(), m * WIDE, to, wide, true);
                        if (call.ungated.data)
                            product(m, wide, count, tile[0].data() + skip, PITCH, 1, mixed.of(group) + begin * WIDE,
                                    call.columns * WIDE, acc.data(), wide, true);
                    }
                    for (int d = 0; d < dots; ++d) {
                        const float* grad = (d ? tile[d] : d_tile).data() + skip;
                        const int64_t size = up(call.operands[Pass::left[d]].size, WIDE);
                        if (float* to = of_columns(Pass::right[d], begin))
                            product(count, size, m, grad, 1, PITCH, turned[d].data(), m * WIDE, to, size, true);
                        if (call.grads[Pass::left[d]].data)
                            product(m, size, count, grad, PITCH, 1, backs[d].of(group) + begin * WIDE,
                                    call.columns * WIDE, into[d].data(), size, true);
                    }
                });
                for (int64_t r = 0; r < m; ++r) {
                    for (int d = 0; d < dots; ++d)
                        if (const View& grad = call.grads[Pass::left[d]]; grad.data) {
                            float* to = grad.at(b, h, low + r);
                            const float* from = into[d].data() + r * up(grad.size, WIDE);
                            for (int64_t c = 0; c < grad.size; ++c) to[c] += from[c];
                        }
                    if (call.ungated.data) std::copy_n(acc.data() + r * wide, call.channels, call.ungated.at(b, h, low + r));
                }
            }
        }
    }
    return bad != 0;
}

// 1 also where whole numbers may leave 32 bits, or memory ends.
template <typename Pass>
int checked(const Call& call, int (*run)(const Call&)) {
    if (!Pass::fits(call)) return 1;
    try {
        return run(call);
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace attnspec

#define EXPORTED extern "C" __attribute__((visibility("default")))
