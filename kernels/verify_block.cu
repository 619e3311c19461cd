// verify_block: block verification, exact and never accepting fewer drafts in expectation.
//
//   P_0 = 1;  P_i = min(1, P_{i-1} * target_i(x_i) / draft_i(x_i))
//   Z_i = sum max(0, P_i * target - draft) of the row after x_i;  h_i = Z_i / (Z_i + 1 - P_i)
//   accept the largest i with u_i < h_i (h_gamma = P_gamma; 0/0 counts as 1), then draw from
//   max(0, P_i * target - draft), or from the last target row after full acceptance.
//   (Sun et al., 2403.10444.)
//
// Z_i costs a row, but Z_i <= P_i makes h_i <= P_i: a row with u_i >= P_i has failed already, and one
// with P_i = 1 is certain. The few rows between are raced for, each with its own sum, all at once or,
// where reading a row takes longer than a mail, one by one until one passes.
//
// In and out: struct Arguments (common.cuh). float32, float16 or bfloat16 logits, float32 sums.
// Launch: cooperative, (members, groups) blocks of THREADS.
#include "common.cuh"

struct Block : Normalised {
    static constexpr int STOPS = MAX_GAMMA + 1;

    // P_0 ... P_length, by one warp. A ratio that is no number, or not of a real draft, counts as 0.
    template <typename Step>
    __device__ static void fill_prefixes(const Arguments &a, Step &step) {
        const Norm *drafts = step.norms + a.gamma + 1;
        const int lane = threadIdx.x % 32;
        float running = 1.0f;
        if (lane == 0) step.prefixes[0] = 1.0f;
        for (int first = 0; first < step.length; first += 32) {
            const int slot = first + lane;
            float ratio = 0.0f, mine = 0.0f;
            if (slot < step.length && step.drafts[slot] >= 0)
                // Divided exactly: equal rows must give 1, which is certain, and not a hair less.
                ratio = weight(a, step, step.norms[slot])(step.target_at[slot]) /
                        weight(a, step, drafts[slot])(step.draft_at[slot]);
            if (ratio != ratio) ratio = 0.0f;
#pragma unroll 4
            for (int i = 0; i < 32; ++i) {
                const float factor = __shfl_sync(~0u, ratio, i);
                // A draft of probability 0 gives an infinite ratio; nothing follows a dead prefix.
                running = running > 0.0f ? fminf(running * factor, 1.0f) : 0.0f;
                if (lane == i) mine = running;
            }
            if (slot < step.length) step.prefixes[slot + 1] = mine;
        }
        __syncwarp();  // Lanes read what others wrote.
    }

    // All rows come in one wave: P depends on every draft.
    template <typename Step>
    __device__ static void decide(const Arguments &a, Step &step, int, int) {
        const int lane = threadIdx.x;
        const float *prefix = step.prefixes;
        fill_prefixes(a, step);
        // A target row that is no row of numbers ends the step.
        const int last = leading(0, step.length, [&](int row) { return valid(step.norms[row]); });
        const auto add = [&](int stop, int row) {
            const Norm draft = row < step.length ? step.norms[a.gamma + 1 + row] : NO_ENTRY;
            add_stop(step, stop, row, prefix[row], step.norms[row], draft, row < step.length && valid(draft));
        };
        int stops = 0;
        bool certain = last == 0 || step.uniforms[last - 1] < prefix[last];
        if (certain && lane == 0) add(stops, last);
        stops += certain;
        for (int first = (last - 1) / 32 * 32; first >= 0 && !certain; first -= 32) {
            const int row = first + lane;
            const bool inside = row >= 1 && row < last;
            const unsigned sure = __ballot_sync(~0u, inside && prefix[row] == 1.0f);
            const unsigned above = sure ? ~0u << (31 - __clz(sure)) << 1 : ~0u;
            const unsigned open = __ballot_sync(~0u, inside && step.uniforms[row - 1] < prefix[row]) & above;
            if (open >> lane & 1) add(stops + __popc(open >> lane >> 1), row);
            stops += __popc(open);
            if (sure && lane == 31 - __clz(sure)) add(stops, row);
            certain = sure != 0;
            stops += certain;
        }
        if (!certain && lane == 0) add(stops, 0);
        if (!certain) ++stops;
        if (lane == 0) step.stops = stops;
    }

    // The first of stops from ... to - 1 that passes, else `to`; the last stop of all has no test.
    template <typename Step>
    __device__ static int choose(const Step &step, const float *excess, int from, int to) {
        for (int stop = from; stop < to; ++stop) {
            const float prefix = step.prefix[stop], z = prefix * excess[stop];
            if (stop == step.stops - 1 ||
                step.uniforms[step.accepted[stop] - 1] < z * inverse(z + (1.0f - prefix)))
                return stop;
        }
        return to;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) verify_block(const __grid_constant__ Arguments arguments) {
    verify<Block>(arguments);
}
