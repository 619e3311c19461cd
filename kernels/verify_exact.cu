// verify_exact: the paper's exact method, from probabilities that a softmax outside has made.
//
//   accept x_i while u_i * draft_i(x_i) < target_i(x_i); at the first rejection the next token is
//   drawn from max(0, target_i - draft_i), after full acceptance from target_{gamma+1}.
//   (2406.11016, first method: the vocabulary cut into segments, a thread block's each.)
//
// Every block decides for itself from the 2 gamma probabilities that acceptance needs, then reads its
// segment of the one row where the step ends, once, and keeps the differences in registers. The
// paper reduces the normaliser b = sum of differences across blocks; a race needs none: with
// E ~ Exp(1) for each id, argmax difference / E is drawn from difference / b.
//
// In and out: struct Arguments (common.cuh). float32 probabilities; greedy sequences read the logits.
// Launch: cooperative, (members, groups) blocks of THREADS.
#include "common.cuh"

struct Itself {
    __device__ float operator()(float probability) const { return probability; }
};

struct Exact : TokenByToken<Exact> {
    static constexpr bool NORMALISES = false;

    __device__ static const float *target_row(const Arguments &a, int sequence, int row) {
        return a.target_probs + ((long long)sequence * (a.gamma + 1) + row) * a.vocab;
    }
    __device__ static const float *draft_row(const Arguments &a, int sequence, int row) {
        return a.draft_probs + ((long long)sequence * a.gamma + row) * a.vocab;
    }
    __device__ static float MISSING() { return 0.0f; }

    template <typename Step>
    __device__ static Itself weight(const Arguments &, const Step &, Norm) {
        return {};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) verify_exact(const __grid_constant__ Arguments arguments) {
    verify<Exact>(arguments);
}
