// What the verification kernels share: how thread blocks split a batch, talk, and race for a token.
//
//   grid     (members, groups) thread blocks. A group takes every groups-th sequence; its warps share
//            out rows x slices of the vocabulary, its blocks the one row that is raced for.
//   mail     members talk through 64-bit words in global memory that say everything at once: a word
//            is 0 until it is posted, so no flag, fence or counter can disagree with the data.
//            Launches alternate between two halves of the mail and each clears the other half.
//   stages   per sequence: `examine` its rows, from the first on, until it is known where the step may
//            end -> `race` there for the next token -> `write`, the leader's (member 0) alone. Each
//            arrow is a mail of all to all, or to the leader.
//   stop     a row at which a step may end. Token verification knows its one stop; block
//            verification races for several and the leader picks.
//
// Launch cooperatively: members wait for each other and must all be resident. Deterministic: sums
// are taken in a fixed order and ties go to the smallest id. Subnormals count as zero (-ftz).
#pragma once
#include "philox.cuh"

constexpr int THREADS = 384, WARPS = THREADS / 32;
constexpr int MAX_GAMMA = 128, MAX_ROWS = 2 * MAX_GAMMA + 1;
constexpr float LARGEST = 3.402823466e38f, LOG2_E = 1.442695041f;
constexpr float EMPTY = 1e-30f;  // a residual below this is numerically zero

using Word = unsigned long long;
constexpr Word NOBODY = 1;                // a slice without any candidate
constexpr Word INVALID = ~0ull;           // the target's row is invalid: no token
constexpr Word TARGET_ALONE = INVALID - 1;  // the draft's row is invalid: sample from the target

// ---- Inputs -------------------------------------------------------------------------------------

#if defined(INPUT_F16)
using Scalar = unsigned short;
__device__ __forceinline__ float widen(unsigned short half) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
    return wide;
}
#elif defined(INPUT_BF16)
using Scalar = unsigned short;
__device__ __forceinline__ float widen(unsigned short half) {
    return __uint_as_float((unsigned)half << 16);
}
#else
using Scalar = float;
#endif
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Filled by specbench/cuda/launch.py, field by field in this order. B sequences, g members.
struct Arguments {  // what the first reads need comes first: parameters arrive in lines of 64 bytes
    const Scalar *target_logits;  // (B, gamma+1, V), rows contiguous, any strides else
    const Scalar *draft_logits;   // (B, gamma, V)
    long long target_batch_stride, target_row_stride, draft_batch_stride, draft_row_stride;
    const long long *lengths;   // (B,), or null: all are gamma
    const float *temperatures;  // (B,), or null: all are `temperature`
    int batch, gamma, vocab, slices;
    unsigned slices_inverse;  // ceil(2^32 / slices): a division would take as long as a trip to memory
    int share;                // of the race, Philox groups for a member
    int wave, stops_at_once;  // rows examined, stops raced for, before the next decision
    float temperature, sigmoid_alpha, sigmoid_beta;
    int token_stride, lse_stride;   // over sequences
    unsigned *epochs;               // (groups,): launches so far
    Word *mail;                     // see Place; zero before first use
    const long long *draft_tokens;  // (B, gamma)
    const float *draft_lse;         // (B, gamma) log-normalisers of the draft rows, or null
    const long long *seeds;         // (B,), or null: all are `seed`
    const long long *positions;     // (B,), or null: all are `position`
    long long seed, position;
    const float *target_probs;  // (B, gamma+1, V) contiguous; verify_exact alone
    const float *draft_probs;   // (B, gamma, V)
    long long *tokens;          // out (B, gamma+1): accepted drafts, next token, then -1
    long long *accepted;        // out (B,)
};

// 0 to gamma, whatever the memory holds: an index out of range must not follow from a wrong length.
__device__ __forceinline__ int length_of(const Arguments &a, int sequence) {
    if (!a.lengths) return a.gamma;
    const long long length = a.lengths[sequence];
    return length < 0 ? 0 : length > a.gamma ? a.gamma : (int)length;
}

// value / slices, exact for values below 2^32 / slices.
__device__ __forceinline__ int by_slices(const Arguments &a, int value) {
    return (int)__umulhi((unsigned)value, a.slices_inverse);
}

__device__ __forceinline__ const Scalar *target_row(const Arguments &a, int sequence, int row) {
    return a.target_logits + sequence * a.target_batch_stride + row * a.target_row_stride;
}

__device__ __forceinline__ const Scalar *draft_row(const Arguments &a, int sequence, int row) {
    return a.draft_logits + sequence * a.draft_batch_stride + row * a.draft_row_stride;
}

// ---- Mail ---------------------------------------------------------------------------------------

__device__ __forceinline__ void post(Word *slot, Word word) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(slot), "l"(word) : "memory");
}

__device__ __forceinline__ Word peek(const Word *slot) {
    Word word;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(slot) : "memory");
    return word;
}

__device__ __forceinline__ unsigned peek(const unsigned *slot) {
    unsigned word;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(slot) : "memory");
    return word;
}

// `readers` lanes share what was posted side by side; `take` gets a lane's words in their order. All
// that are missing are asked for again together: one by one, each would cost a trip to the L2 cache.
template <typename Take>
__device__ __forceinline__ void collect(const Word *slots, int count, int reader, int readers, Take take) {
    constexpr int AHEAD = 4;
#pragma unroll 1
    for (int first = reader; first < count; first += readers * AHEAD) {
        Word words[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) words[i] = first + readers * i < count ? 0 : INVALID;
        bool missing = true;
        while (missing) {
            missing = false;
#pragma unroll
            for (int i = 0; i < AHEAD; ++i)
                if (words[i] == 0) words[i] = peek(slots + first + readers * i);
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) missing |= words[i] == 0;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + readers * i < count) take(words[i]);
    }
}

// ---- Arithmetic ---------------------------------------------------------------------------------

// Within one unit in the last place; IEEE division costs ten times as much.
__device__ __forceinline__ float inverse(float value) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
    return result;
}

// A row's normaliser, sum * 2^max, with max = largest logit / temperature * log2 e: two numbers, because
// the logarithm of their product would lose digits wherever logits are large.
struct Norm {
    float max, sum;
};
constexpr Norm NO_ENTRY = {-LARGEST, 0.0f};

// A NaN or a +inf makes the sum NaN, nothing but -inf leaves it 0.
__device__ __forceinline__ bool valid(Norm norm) { return norm.sum > 0.0f && norm.sum <= LARGEST; }

__device__ __forceinline__ Norm merge(Norm one, Norm other) {
    const float max = fmaxf(one.max, other.max);
    return {max, one.sum * exp2f(one.max - max) + other.sum * exp2f(other.max - max)};
}

// Over `lanes` neighbouring lanes, a power of two; every lane gets the result.
__device__ __forceinline__ Norm lanes_merge(Norm norm, int lanes) {
    float max = norm.max;
    for (int lane = lanes / 2; lane; lane /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, lane));
    float sum = norm.sum * exp2f(norm.max - max);
    for (int lane = lanes / 2; lane; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
    return {max, sum};
}

__device__ __forceinline__ Word pack(Norm norm) {  // never 0: a maximum of 0 has a sum of at least 1
    return (Word)__float_as_uint(norm.max) << 32 | __float_as_uint(norm.sum);
}

__device__ __forceinline__ Norm unpack(Word word) {
    return {__uint_as_float((unsigned)(word >> 32)), __uint_as_float((unsigned)word)};
}

__device__ __forceinline__ Word larger(Word one, Word other) { return one > other ? one : other; }

__device__ __forceinline__ Word warp_largest(Word word) {
#if __CUDA_ARCH__ >= 800
    const unsigned high = __reduce_max_sync(~0u, (unsigned)(word >> 32));
    const unsigned low = __reduce_max_sync(~0u, (unsigned)(word >> 32) == high ? (unsigned)word : 0u);
    return (Word)high << 32 | low;
#else
#pragma unroll
    for (int lane = 16; lane; lane /= 2) word = larger(word, __shfl_xor_sync(~0u, word, lane));
    return word;
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lane = 16; lane; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
    return value;
}

// Keys order by value, then by the smaller id.
__device__ __forceinline__ Word key_of(unsigned ordered, int id) {
    return (Word)ordered << 32 | (0xFFFFFFFFu - (unsigned)id);
}

__device__ __forceinline__ int id_of(Word key) { return (int)(0xFFFFFFFFu - (unsigned)key); }

// Floats of either sign as unsigned integers of the same order; a NaN beats everything, and the two zeros
// are equal.
__device__ __forceinline__ Word signed_key(float value, int id) {
    if (value != value) return INVALID;
    const unsigned bits = value == 0.0f ? 0u : __float_as_uint(value);
    return key_of(bits & 0x80000000u ? ~bits : bits | 0x80000000u, id);
}

__device__ __forceinline__ bool finite_key(Word key) {  // of signed_key
    const unsigned ordered = (unsigned)(key >> 32);
    return ordered > 0x007FFFFFu && ordered < 0xFF800000u;  // between -inf and +inf
}

// ---- Reading rows -------------------------------------------------------------------------------

// A row of any alignment: `head` entries, then 16-byte vectors, then `tail` entries.
struct RowShape {
    static constexpr int WIDTH = 16 / sizeof(Scalar);
    int head, vectors, tail;

    __device__ __forceinline__ RowShape(const Scalar *row, int vocab) {
        head = (int)(-reinterpret_cast<unsigned long long>(row) % 16 / sizeof(Scalar));
        head = head < vocab ? head : vocab;
        vectors = (vocab - head) / WIDTH;
        tail = vocab - head - vectors * WIDTH;
    }

    // Head and tail are at most 2 WIDTH - 2 entries: one each for the first lanes of a warp.
    __device__ __forceinline__ int edge(int lane) const {
        return lane < head ? lane : lane < head + tail ? lane + vectors * WIDTH : -1;
    }
};

// One warp reads slice `slice` of a row, AHEAD vectors a lane always on their way: visit(values, id of the
// first, ids from one vector to the next) gets eight entries at a time, and the edges one by one. What
// is not there is -inf.
template <typename Visit>
__device__ __forceinline__ void visit_slice(const Arguments &a, const Scalar *row, int slice, Visit visit) {
    constexpr int WIDTH = RowShape::WIDTH, AHEAD = 4, AT_ONCE = 8 / WIDTH;
    const RowShape shape(row, a.vocab);
    const int lane = threadIdx.x % 32;
    const int share = by_slices(a, shape.vectors + a.slices - 1);
    const int last = min((slice + 1) * share, shape.vectors);
    const uint4 *vectors = reinterpret_cast<const uint4 *>(row + shape.head);
    int first = slice * share + lane;

    uint4 raw[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (first + 32 * i < last) raw[i] = __ldg(vectors + first + 32 * i);
#pragma unroll 1
    for (; first < last; first += 32 * AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i += AT_ONCE) {
            float values[AT_ONCE][WIDTH];
#pragma unroll
            for (int j = 0; j < AT_ONCE * WIDTH; ++j) {
                const int vector = i + j / WIDTH;
                const Scalar entry = reinterpret_cast<const Scalar *>(&raw[vector])[j % WIDTH];
                values[j / WIDTH][j % WIDTH] =
                    AT_ONCE == 1 || first + 32 * vector < last ? widen(entry) : minus_infinity();
            }
#pragma unroll
            for (int j = i; j < i + AT_ONCE; ++j)
                if (first + 32 * (AHEAD + j) < last) raw[j] = __ldg(vectors + first + 32 * (AHEAD + j));
            if (first + 32 * i < last) visit(values, shape.head + (first + 32 * i) * WIDTH, 32 * WIDTH);
        }
    }
    if (slice == a.slices - 1 && shape.head + shape.tail > 0) {
        const int id = shape.edge(lane);
        const float value[1][1] = {{id < 0 ? minus_infinity() : widen(row[id])}};
        visit(value, id, 0);
    }
}

template <int ROWS, int COLUMNS>
__device__ __forceinline__ void add(Norm &norm, const float (&values)[ROWS][COLUMNS], float scale) {
    float top = values[0][0];
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) top = fmaxf(top, values[i][j]);
    top = fmaxf(top * scale, norm.max);
    norm.sum *= exp2f(norm.max - top);
    norm.max = top;
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) norm.sum += exp2f(fmaf(values[i][j], scale, -top));
}

__device__ __forceinline__ Norm norm_of_slice(const Arguments &a, const Scalar *row, int slice, float scale) {
    Norm norm = NO_ENTRY;
    visit_slice(a, row, slice, [&](const auto &values, int, int) { add(norm, values, scale); });
    return lanes_merge(norm, 32);
}

__device__ __forceinline__ Word best_of_slice(const Arguments &a, const Scalar *row, int slice) {
    float best = minus_infinity();
    int where = 0x7FFFFFFF;
    visit_slice(a, row, slice, [&](const auto &values, int id, int stride) {
        for (const auto &vector : values) {
            int i = 0;
            for (float value : vector) {
                // The edges come last, and the head's ids are the smallest. A NaN stays: nothing is larger.
                const bool better = value > best || (value == best && id + i < where) || value != value;
                where = better ? id + i : where;
                best = better ? value : best;
                ++i;
            }
            id += stride;
        }
    });
    return warp_largest(signed_key(best, where));
}

// Entries 4 * group .. 4 * group + 3 of a row, the ones that share a Philox call.
template <typename Entry>
__device__ __forceinline__ void load_group(const Entry *row, int vocab, int group, float (&values)[4],
                                           float missing) {
    const Entry *entries = row + 4ll * group;
    if (4 * group + 4 <= vocab && reinterpret_cast<unsigned long long>(entries) % (4 * sizeof(Entry)) == 0) {
        struct alignas(4 * sizeof(Entry)) Four {
            Entry entry[4];
        };
        const Four four = *reinterpret_cast<const Four *>(entries);
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = widen(four.entry[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = 4 * group + i < vocab ? widen(entries[i]) : missing;
}

struct Noise {
    float exponentials[4];
};

__device__ __forceinline__ Noise noise_of_group(long long seed, long long position, Purpose purpose,
                                                int slot, int group) {
    const uint4 words = philox_words(seed, position, purpose, slot, group);
    return {exponential(words.x), exponential(words.y), exponential(words.z), exponential(words.w)};
}

// ---- A verify step ------------------------------------------------------------------------------

// What a thread block knows of its sequence.
template <int STOPS>
struct Step {
    int sequence, length;
    float temperature, scale;
    int drafts[MAX_GAMMA];  // -1 unless a real id
    float uniforms[MAX_GAMMA];
    float target_at[MAX_GAMMA], draft_at[MAX_GAMMA];  // what each row holds at its drafted id
    Norm norms[MAX_ROWS];  // gamma+1 target rows, then gamma draft rows, as far as examined
    float prefixes[MAX_GAMMA + 1];  // block: P_0 ... P_length
    // Where the step may end, from the longest acceptance down; the last one needs no test.
    int stops;  // 0: not known yet
    int accepted[STOPS];
    float prefix[STOPS];  // block: P, for a test that needs the residual's sum
    float weight[STOPS];  // residual = max(0, target - weight * draft); 0: the target alone
    Norm target[STOPS], draft[STOPS];
};

template <typename Method>
struct Shared {
    static constexpr int STOPS = Method::STOPS;
    Step<STOPS> step;
    Word keys[STOPS][WARPS];
    float sums[STOPS][WARPS];
    Word winners[STOPS];
    float excess[STOPS];
    Word best[MAX_GAMMA + 1];  // greedy: of each target row
    Noise noises[THREADS];     // a thread's own, of the first group it races: registers are short
};

// Where this thread block stands, and where its mail goes. A sequence's mail in one half:
//   (2 gamma + 1, slices) words about rows: target rows first; then for each stop (members,) words
//   about its winner and, where there are several stops, (members,) about its residual's sum.
struct Place {
    unsigned epoch;  // launches before this one: its parity picks the half

    __device__ __forceinline__ explicit Place(const Arguments &a) : epoch(peek(a.epochs + blockIdx.y)) {}
    __device__ __forceinline__ int member() const { return (int)blockIdx.x; }
    __device__ __forceinline__ int members() const { return (int)gridDim.x; }
};

// A sequence's words in one half.
template <typename Method>
__device__ __forceinline__ int words_of(const Arguments &a) {
    return (2 * a.gamma + 1) * a.slices +
           (Method::STOPS > 1 ? 2 * (a.gamma + 1) : 1) * (int)gridDim.x;
}

template <typename Method>
__device__ __forceinline__ Word *mail_of(const Arguments &a, unsigned epoch, int sequence) {
    return a.mail + ((size_t)(epoch & 1) * a.batch + sequence) * words_of<Method>(a);
}

template <typename Method>
__device__ __forceinline__ Word *row_mail(const Arguments &a, const Place &place, int sequence, int row) {
    return mail_of<Method>(a, place.epoch, sequence) + row * a.slices;
}

template <typename Method>
__device__ __forceinline__ Word *winner_mail(const Arguments &a, const Place &place, int sequence, int stop) {
    return row_mail<Method>(a, place, sequence, 2 * a.gamma + 1) + 2 * stop * place.members();
}

// What every thread must know before it reads a row: in registers, so that nothing waits for a barrier.
struct Facts {
    int sequence, length;
    float temperature, scale;

    __device__ __forceinline__ Facts(const Arguments &a, int sequence)
        : sequence(sequence), length(length_of(a, sequence)),
          temperature(a.temperatures ? a.temperatures[sequence] : a.temperature),
          scale(LOG2_E * inverse(temperature)) {}
};

// The same and the rest for the later stages, after the next barrier. By one thread.
template <typename Step>
__device__ __forceinline__ void keep_facts(const Arguments &a, const Facts &facts, Step &step) {
    step.sequence = facts.sequence;
    step.length = facts.length;
    step.temperature = facts.temperature;
    step.scale = facts.scale;
    step.stops = 0;
}

__device__ __forceinline__ long long seed_of(const Arguments &a, int sequence) {
    return a.seeds ? a.seeds[sequence] : a.seed;
}

__device__ __forceinline__ long long position_of(const Arguments &a, int sequence) {
    return a.positions ? a.positions[sequence] : a.position;
}

// The drafts, and what the rows hold there: two trips to memory, one after the other. The last warps
// start with them while the others, and with few rows they alone, read.
template <typename Method, typename Step>
__device__ __forceinline__ void fetch_drafts(const Arguments &a, int sequence, Step &step) {
    const int slot = THREADS - 1 - (int)threadIdx.x;
    if (slot >= a.gamma) return;
    const long long token = a.draft_tokens[(long long)sequence * a.token_stride + slot];
    const int draft = token >= 0 && token < a.vocab ? (int)token : -1;
    step.drafts[slot] = draft;
    step.target_at[slot] = draft < 0 ? 0.0f : widen(Method::target_row(a, sequence, slot)[draft]);
    step.draft_at[slot] = draft < 0 ? 0.0f : widen(Method::draft_row(a, sequence, slot)[draft]);
    step.uniforms[slot] = uniform(philox_words(seed_of(a, sequence), position_of(a, sequence), PURPOSE_ACCEPT, slot, 0).x);
    if (a.draft_lse) {
        const float lse = a.draft_lse[(long long)sequence * a.lse_stride + slot];
        step.norms[a.gamma + 1 + slot] = {lse * LOG2_E, fabsf(lse) <= LARGEST ? 1.0f : 0.0f};
    }
}

// Rows first ... last - 1 of the target and their draft rows, numbered through: where is row `row`?
struct Rows {
    int first, targets, drafts;

    __device__ __forceinline__ Rows(const Arguments &a, const Facts &facts, int first)
        : first(first), targets(min(first + a.wave, facts.length + 1) - first),
          drafts(a.draft_lse ? 0 : min(first + a.wave, facts.length) - first) {}

    __device__ __forceinline__ int count() const { return targets + drafts; }
    __device__ __forceinline__ int slot(const Arguments &a, int row) const {
        return row < targets ? first + row : a.gamma + 1 + first + row - targets;
    }
    __device__ __forceinline__ const Scalar *logits(const Arguments &a, int sequence, int row) const {
        return row < targets ? target_row(a, sequence, first + row)
                             : draft_row(a, sequence, first + row - targets);
    }
};

// Each slice of each row becomes one word: summarize(logits, slice).
template <typename Method, typename Summarize>
__device__ __forceinline__ void read(const Arguments &a, const Place &place, int sequence, const Rows &rows,
                                     Summarize summarize) {
    // Neighbouring slices go to different blocks, so that a last short round is shared by all.
    const int first = threadIdx.x / 32 * place.members() + place.member();
#pragma unroll 1
    for (int item = first; item < rows.count() * a.slices; item += WARPS * place.members()) {
        const int row = by_slices(a, item), slice = item - row * a.slices;
        const Word word = summarize(rows.logits(a, sequence, row), slice);
        if (threadIdx.x % 32 == 0)
            post(row_mail<Method>(a, place, sequence, rows.slot(a, row)) + slice, word);
    }
}

// The normalisers of the rows, merged from what was posted about their slices.
template <typename Method>
__device__ __forceinline__ void gather(const Arguments &a, const Place &place, Step<Method::STOPS> &step,
                                       int sequence, const Rows &rows) {
    int log_readers = 5;  // as many lanes for each row as let all rows be read at once
    while (log_readers > 0 && rows.count() << log_readers > THREADS) --log_readers;
    const int readers = 1 << log_readers, reader = threadIdx.x & (readers - 1);
#pragma unroll 1
    for (int first = 0; first < rows.count(); first += THREADS >> log_readers) {
        const int row = first + (threadIdx.x >> log_readers);
        Norm norm = NO_ENTRY;
        if (row < rows.count())
            collect(row_mail<Method>(a, place, sequence, rows.slot(a, row)), a.slices, reader, readers,
                    [&](Word word) { norm = merge(norm, unpack(word)); });
        norm = lanes_merge(norm, readers);
        if (row < rows.count() && reader == 0) step.norms[rows.slot(a, row)] = norm;
    }
}

// The race of a thread runs over Philox groups first, first + THREADS, ... < last.
__device__ __forceinline__ Noise race_noise(const Arguments &a, int sequence, int group) {
    return noise_of_group(seed_of(a, sequence), position_of(a, sequence), PURPOSE_RESIDUAL, 0, group);
}

__device__ __forceinline__ int race_first(const Arguments &a, const Place &place) {
    return place.member() * a.share + (int)threadIdx.x;
}

__device__ __forceinline__ int race_last(const Arguments &a, const Place &place) {
    return min((place.member() + 1) * a.share, (a.vocab + 3) / 4);
}

// Stage 1: where may the step end? Rows come in waves, and what follows a rejection is never read.
template <typename Method>
__device__ __forceinline__ void examine(const Arguments &a, const Place &place, const Facts &facts,
                                        Shared<Method> &shared) {
    Step<Method::STOPS> &step = shared.step;
#pragma unroll 1
    for (int first = 0;; first += a.wave) {
        const Rows rows(a, facts, first);
        if (Method::NORMALISES)
            read<Method>(a, place, facts.sequence, rows, [&](const Scalar *logits, int slice) {
                return pack(norm_of_slice(a, logits, slice, facts.scale));
            });
        if (first == 0)  // while the mail travels
            shared.noises[threadIdx.x] = race_noise(a, facts.sequence, race_first(a, place));
        if (Method::NORMALISES) gather<Method>(a, place, step, facts.sequence, rows);
        __syncthreads();  // Facts, drafts and normalisers come from all warps.
        if (threadIdx.x < 32) Method::decide(a, step, first, min(first + a.wave, facts.length + 1));
        __syncthreads();  // The stops come from one warp.
        if (step.stops > 0) return;
    }
}

// The race of one row: the entry with the largest weight / exponential wins, with probability
// weight / sum of weights. `share` of the draft is taken off the target.
template <typename Method>
__device__ __forceinline__ Word race_row(const Arguments &a, const Step<Method::STOPS> &step, int stop,
                                         float share, int first, int last, Noise noise, float &sum) {
    const int row = step.accepted[stop];
    const auto *target = Method::target_row(a, step.sequence, row);
    const auto *draft = share > 0.0f ? Method::draft_row(a, step.sequence, row) : target;
    const auto target_weight = Method::weight(a, step, step.target[stop]);
    const auto draft_weight = Method::weight(a, step, share > 0.0f ? step.draft[stop] : step.target[stop]);
    float best = 0.0f;
    int winner = 0;
    bool invalid = false, alone = false;
#pragma unroll 1
    for (int group = first; group < last;) {
        float target_values[4], draft_values[4];
        load_group(target, a.vocab, group, target_values, Method::MISSING());
        load_group(draft, a.vocab, group, draft_values, Method::MISSING());
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float whole = target_weight(target_values[i]), taken = draft_weight(draft_values[i]);
            invalid |= whole != whole;
            alone |= taken != taken;
            const float weight = fmaf(-share, taken, whole);
            if (Method::STOPS > 1) sum += fmaxf(weight, 0.0f);
            const float speed = weight * inverse(noise.exponentials[i]);
            if (weight >= EMPTY && speed > best) {
                best = speed;
                winner = 4 * group + i;
            }
        }
        group += THREADS;
        if (group < last) noise = race_noise(a, step.sequence, group);
    }
    return invalid ? INVALID : alone ? TARGET_ALONE : best > 0.0f ? key_of(__float_as_uint(best), winner) : NOBODY;
}

// Stage 2: who wins at stops from ... to - 1? Leaves the warps' winners and sums in `keys`, `sums`.
template <typename Method>
__device__ __forceinline__ void race(const Arguments &a, Shared<Method> &shared, int first, int last, int from,
                                     int to, bool alone) {
    const Step<Method::STOPS> &step = shared.step;
    const int warp = threadIdx.x / 32;
#pragma unroll 1
    for (int stop = from; stop < to; ++stop) {
        float sum = 0.0f;
        const float share = alone ? 0.0f : step.weight[stop];
        const Word best = warp_largest(
            race_row<Method>(a, step, stop, share, first, last, shared.noises[threadIdx.x], sum));
        if (Method::STOPS > 1) sum = warp_sum(sum);
        if (threadIdx.x % 32 != 0) continue;
        shared.keys[stop][warp] = best;
        if (Method::STOPS > 1) shared.sums[stop][warp] = sum;
    }
    __syncthreads();  // Winners come from all warps.
}

// The leader alone, for the rare residual that is empty: the target's row without the draft's.
template <typename Method>
__device__ __noinline__ Word race_alone(const Arguments &a, Shared<Method> &shared, int stop) {
    shared.noises[threadIdx.x] = race_noise(a, shared.step.sequence, threadIdx.x);
    race(a, shared, threadIdx.x, (a.vocab + 3) / 4, stop, stop + 1, true);
    Word winner = NOBODY;
    for (int warp = 0; warp < WARPS; ++warp) winner = larger(winner, shared.keys[stop][warp]);
    return winner;
}

// Every member posts for every sequence, so that the leader's last word proves that all have read the
// epoch.
template <typename Method>
__device__ __forceinline__ void post_winners(const Arguments &a, const Place &place,
                                             const Shared<Method> &shared, int from, int to) {
    const int lane = threadIdx.x % 32;
    for (int stop = from + threadIdx.x / 32; stop < to; stop += WARPS) {
        Word *mail = winner_mail<Method>(a, place, shared.step.sequence, stop) + place.member();
        const Word best = warp_largest(lane < WARPS ? shared.keys[stop][lane] : NOBODY);
        if (lane == 0) post(mail, best);
        if (Method::STOPS == 1) continue;
        const float sum = warp_sum(lane < WARPS ? shared.sums[stop][lane] : 0.0f);
        if (lane == 0) post(mail + place.members(), (Word)1 << 32 | __float_as_uint(sum));
    }
}

template <typename Method>
__device__ __forceinline__ void gather_winners(const Arguments &a, const Place &place,
                                               Shared<Method> &shared, int from, int to) {
    const int lane = threadIdx.x % 32;
    for (int stop = from + threadIdx.x / 32; stop < to; stop += WARPS) {
        const Word *mail = winner_mail<Method>(a, place, shared.step.sequence, stop);
        Word best = NOBODY;
        collect(mail, place.members(), lane, 32, [&](Word word) { best = larger(best, word); });
        best = warp_largest(best);
        if (lane == 0) shared.winners[stop] = best;
        if (Method::STOPS == 1 || shared.step.stops == 0) continue;
        float sum = 0.0f;
        collect(mail + place.members(), place.members(), lane, 32,
                [&](Word word) { sum += __uint_as_float((unsigned)word); });
        sum = warp_sum(sum);
        if (lane == 0) shared.excess[stop] = sum;
    }
    __syncthreads();  // Each stop's winner comes from one warp.
}

// Temperature 0: accept while the draft is the target's argmax, then emit the argmax.
template <typename Method>
__device__ __forceinline__ int finish_greedy(const Arguments &a, const Place &place, Shared<Method> &shared,
                                          Word &winner) {
    const Step<Method::STOPS> &step = shared.step;
    for (int row = threadIdx.x / 32; row <= step.length; row += WARPS) {
        Word best = NOBODY;
        collect(row_mail<Method>(a, place, step.sequence, row), a.slices, threadIdx.x % 32, 32,
                [&](Word word) { best = larger(best, word); });
        best = warp_largest(best);
        if (threadIdx.x % 32 == 0) shared.best[row] = best;
    }
    __syncthreads();  // The rows' winners come from all warps.
    int accepted = 0;
    while (accepted < step.length && finite_key(shared.best[accepted]) &&
           step.drafts[accepted] == id_of(shared.best[accepted]))
        ++accepted;
    winner = finite_key(shared.best[accepted]) ? shared.best[accepted] : INVALID;
    return accepted;
}

template <typename Step>
__device__ __forceinline__ void write(const Arguments &a, const Step &step, int accepted, Word winner) {
    const long long token = winner == NOBODY || winner == INVALID ? -1 : id_of(winner);
    long long *tokens = a.tokens + (long long)step.sequence * (a.gamma + 1);
    for (int slot = threadIdx.x; slot <= a.gamma; slot += THREADS)
        tokens[slot] = slot < accepted ? step.drafts[slot] : slot == accepted ? token : -1;
    if (threadIdx.x == 0) a.accepted[step.sequence] = accepted;
}

template <typename Method>
__device__ __forceinline__ void verify_greedy(const Arguments &a, const Place &place, const Facts &facts,
                                              Shared<Method> &shared) {
    Rows rows(a, facts, 0);
    rows.targets = facts.length + 1;
    rows.drafts = 0;
    read<Method>(a, place, facts.sequence, rows,
                 [&](const Scalar *logits, int slice) { return best_of_slice(a, logits, slice); });
    __syncthreads();  // All have read the epoch; the drafts come from all warps.
    if (threadIdx.x == 0) post(winner_mail<Method>(a, place, facts.sequence, 0) + place.member(), NOBODY);
    if (place.member() != 0) return;
    gather_winners(a, place, shared, 0, 1);
    Word winner;
    const int accepted = finish_greedy(a, place, shared, winner);
    write(a, shared.step, accepted, winner);
}

template <typename Method>
__device__ __forceinline__ void verify_sampled(const Arguments &a, const Place &place, const Facts &facts,
                                               Shared<Method> &shared) {
    examine(a, place, facts, shared);
    const int stops = shared.step.stops;
    int from = 0, to, stop;
#pragma unroll 1
    for (;; from = to) {
        to = min(from + a.stops_at_once, stops);
        race(a, shared, race_first(a, place), race_last(a, place), from, to, false);
        post_winners(a, place, shared, from, to);
        if (place.member() != 0 && to == stops) return;  // What is left to decide is the leader's.
        gather_winners(a, place, shared, from, to);
        stop = Method::choose(shared.step, shared.excess, from, to);
        if (stop < to) break;
    }
    if (place.member() != 0) return;
    Word winner = shared.winners[stop];
    if (winner == NOBODY || winner == TARGET_ALONE) winner = race_alone(a, shared, stop);
    write(a, shared.step, shared.step.accepted[stop], winner);
}

template <typename Method>
__device__ __forceinline__ void verify(const Arguments &a) {
    __shared__ Shared<Method> shared;
    const Place place(a);
#pragma unroll 1
    for (int sequence = blockIdx.y; sequence < a.batch; sequence += gridDim.y) {
        const Facts facts(a, sequence);
        if (threadIdx.x == 0) keep_facts(a, facts, shared.step);
        fetch_drafts<Method>(a, sequence, shared.step);
        if (facts.temperature == 0.0f)
            verify_greedy(a, place, facts, shared);
        else
            verify_sampled(a, place, facts, shared);
        Word *other = mail_of<Method>(a, place.epoch + 1, sequence);
        for (int word = threadIdx.x * place.members() + place.member(); word < words_of<Method>(a);
             word += THREADS * place.members())
            other[word] = 0;
        __syncthreads();  // The next sequence reuses everything shared.
    }
    if (place.member() == 0 && threadIdx.x == 0) a.epochs[blockIdx.y] = place.epoch + 1;
}

// ---- What the methods share ---------------------------------------------------------------------

struct Logits {  // rows come as logits
    __device__ static const Scalar *target_row(const Arguments &a, int sequence, int row) {
        return ::target_row(a, sequence, row);
    }
    __device__ static const Scalar *draft_row(const Arguments &a, int sequence, int row) {
        return ::draft_row(a, sequence, row);
    }
    __device__ static float MISSING() { return minus_infinity(); }
};

struct Softmax {  // the weight of a logit is its probability
    float max, scale, inverse_sum;
    __device__ float operator()(float logit) const { return exp2f(fmaf(logit, scale, -max)) * inverse_sum; }
};

struct Normalised : Logits {
    static constexpr bool NORMALISES = true;
    template <typename Step>
    __device__ static Softmax weight(const Arguments &, const Step &step, Norm norm) {
        return {norm.max, step.scale, inverse(norm.sum)};
    }
};

// By one lane. The residual of a stop is target - draft / prefix.
template <typename Step>
__device__ __forceinline__ void add_stop(Step &step, int stop, int accepted, float prefix, Norm target,
                                         Norm draft, bool drafted) {
    step.accepted[stop] = accepted;
    step.prefix[stop] = prefix;
    step.weight[stop] = drafted ? inverse(fmaxf(prefix, EMPTY)) : 0.0f;
    step.target[stop] = target;
    step.draft[stop] = draft;
}

// The first of slots first ... last - 1 that is not kept, else `last`; one warp, every lane.
template <typename Keep>
__device__ __forceinline__ int leading(int first, int last, Keep keep) {
#pragma unroll 1
    for (; first < last; first += 32) {
        const int slot = first + threadIdx.x % 32;
        const unsigned rejected = ~__ballot_sync(~0u, slot >= last || keep(slot));
        if (rejected) return first + __ffs(rejected) - 1;
    }
    return last;
}

// Token-by-token verification: one stop, at the first draft that fails u * draft(x) < target(x).
// Strictly: u = 0 must not accept a token of probability 0, and a NaN accepts nothing.
template <typename Method>
struct TokenByToken {
    static constexpr int STOPS = 1;

    // Rows first ... last - 1 are new; what stands before them was accepted.
    template <typename Step>
    __device__ static void decide(const Arguments &a, Step &step, int first, int last) {
        const Norm *drafts = step.norms + a.gamma + 1;
        const int end = min(last, step.length);
        const int accepted = leading(first, end, [&](int slot) {
            const float target = Method::weight(a, step, step.norms[slot])(step.target_at[slot]);
            const float draft = Method::weight(a, step, drafts[slot])(step.draft_at[slot]);
            return step.drafts[slot] >= 0 && step.uniforms[slot] * draft < target;
        });
        if (threadIdx.x != 0 || (accepted == end && last <= step.length)) return;
        bool drafted = accepted < step.length;
        const Norm draft = drafted ? drafts[accepted] : NO_ENTRY;
        if (Method::NORMALISES) drafted = drafted && valid(draft);
        add_stop(step, 0, accepted, 1.0f, step.norms[accepted], draft, drafted);
        step.stops = 1;
    }

    template <typename Step>
    __device__ static int choose(const Step &, const float *, int from, int) {
        return from;
    }
};
