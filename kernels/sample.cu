// sample: draws one token from each row of logits and gives the row's log-normaliser, in one pass.
//
//   token = argmax logit / temperature - log E, with E ~ Exp(1) for each id (Gumbel-max);
//   lse = log sum exp(logit / temperature). Temperature 0: the argmax, and lse at temperature 1.
//
// The normaliser is what verification needs of a draft row: with it, the row is not read again.
// A row without a finite normaliser gives lse = NaN and token 0, an id that can be fed to a model.
//
// Launch: cooperative, (members, groups) blocks of THREADS; mail as in common.cuh.
#include "common.cuh"

// Filled by specbench/cuda/launch.py, field by field in this order.
struct SampleArguments {
    const Scalar *logits;       // (B, V), rows contiguous
    const float *temperatures;  // (B,), or null: all are `temperature`
    const long long *seeds;     // (B,), or null: all are `seed`
    const long long *positions; // (B,), or null: all are `position`
    long long *tokens;          // out (B,)
    float *lse;                 // out (B,)
    Word *mail;                 // 2 x B x 2 x members words, zero before first use
    unsigned *epochs;           // (groups,)
    long long logits_stride, token_stride, lse_stride;  // over rows
    long long seed, position;
    float temperature;
    int batch, vocab, share, purpose, slot;
};

struct RowFacts {
    float temperature, scale;
    long long seed, position;

    __device__ RowFacts(const SampleArguments &a, int row) {
        temperature = a.temperatures ? a.temperatures[row] : a.temperature;
        scale = LOG2_E * inverse(temperature == 0.0f ? 1.0f : temperature);
        seed = a.seeds ? a.seeds[row] : a.seed;
        position = a.positions ? a.positions[row] : a.position;
    }
};

// Groups first, first + THREADS, ... of a row, by one thread.
__device__ __forceinline__ Word read_row(const SampleArguments &a, int row, int first, int last, Norm &norm,
                                         const RowFacts &facts) {
    constexpr int AHEAD = 4;
    const Scalar *logits = a.logits + row * a.logits_stride;
    const bool greedy = facts.temperature == 0.0f;
    Word best = NOBODY;
    for (; first < last; first += THREADS * AHEAD) {
        float values[AHEAD][4];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (first + i * THREADS < last)
                load_group(logits, a.vocab, first + i * THREADS, values[i], minus_infinity());
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int group = first + i * THREADS;
            if (group >= last) break;
            const float(&four)[1][4] = reinterpret_cast<const float(&)[1][4]>(values[i]);
            add(norm, four, facts.scale);
            Noise noise = {1.0f, 1.0f, 1.0f, 1.0f};
            if (!greedy)
                noise = noise_of_group(facts.seed, facts.position, (Purpose)a.purpose, a.slot, group);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                // Greedy compares the logits as they are: scaled, neighbours would collapse into ties.
                const float value =
                    greedy ? values[i][j] : values[i][j] * facts.scale - log2f(noise.exponentials[j]);
                if (value > minus_infinity()) best = larger(best, signed_key(value, 4 * group + j));
            }
        }
    }
    return best;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) sample(const __grid_constant__ SampleArguments a) {
    __shared__ Word keys[WARPS];
    __shared__ Norm norms[WARPS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int members = gridDim.x, member = blockIdx.x;
    const unsigned epoch = peek(a.epochs + blockIdx.y);
    const size_t half = (size_t)a.batch * 2 * members;
    Word *inbox = a.mail + (epoch & 1 ? half : 0), *other = a.mail + (epoch & 1 ? 0 : half);
    const int entries = (a.vocab + 3) / 4;

    for (int row = blockIdx.y; row < a.batch; row += gridDim.y) {
        const RowFacts facts(a, row);
        const size_t slot = (size_t)row * 2 * members;
        Norm norm = NO_ENTRY;
        Word best = warp_largest(read_row(a, row, member * a.share + threadIdx.x,
                                          min((member + 1) * a.share, entries), norm, facts));
        norm = lanes_merge(norm, 32);
        if (lane == 0) keys[warp] = best;
        if (lane == 0) norms[warp] = norm;
        __syncthreads();  // A warp's part comes from its first lane.
        if (warp == 0) {
            best = warp_largest(lane < WARPS ? keys[lane] : NOBODY);
            norm = lanes_merge(lane < WARPS ? norms[lane] : NO_ENTRY, 32);
            if (lane < 2) other[slot + lane * members + member] = 0;
            if (lane == 0) post(inbox + slot + member, best);
            if (lane == 0) post(inbox + slot + members + member, pack(norm));
        }
        if (warp == 0 && member == 0) {
            best = NOBODY;
            norm = NO_ENTRY;
            collect(inbox + slot, members, lane, 32, [&](Word word) { best = larger(best, word); });
            collect(inbox + slot + members, members, lane, 32,
                    [&](Word word) { norm = merge(norm, unpack(word)); });
            best = warp_largest(best);
            norm = lanes_merge(norm, 32);
            if (lane == 0) {
                const bool number = valid(norm);
                a.tokens[row * a.token_stride] = number ? id_of(best) : 0;
                a.lse[row * a.lse_stride] =
                    number ? norm.max / LOG2_E + logf(norm.sum) : __int_as_float(0x7FC00000);
            }
        }
        __syncthreads();  // The next row reuses `keys` and `norms`.
    }
    if (member == 0 && threadIdx.x == 0) a.epochs[blockIdx.y] = epoch + 1;
}
