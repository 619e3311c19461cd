// verify_fused: exact speculative sampling straight from logits, in one launch.
//
//   accept x_i while u_i * draft_i(x_i) < target_i(x_i); at the first rejection the next token is
//   drawn from max(0, target_i - draft_i), after full acceptance from target_{gamma+1}.
//   (Leviathan et al., 2211.17192; the law is the target's, whatever the draft.)
//
// Why it is exact: a probability is exp(logit / temperature) over the row's normaliser, and the
// normalisers, merged from all slices, are all that the acceptance test needs. The draw is a race:
// with E ~ Exp(1) for each id, argmax weight / E falls on an id with probability weight / sum, so the
// residual's own sum is never needed. Accept and race use different random numbers.
//
// In and out: struct Arguments (common.cuh). float32, float16 or bfloat16 logits, float32 sums.
// Launch: cooperative, (members, groups) blocks of THREADS.
#include "common.cuh"

struct Fused : Normalised, TokenByToken<Fused> {};

extern "C" __global__ void __launch_bounds__(THREADS, 2) verify_fused(const __grid_constant__ Arguments arguments) {
    verify<Fused>(arguments);
}
