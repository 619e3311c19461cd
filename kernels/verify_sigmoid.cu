// verify_sigmoid: the paper's approximation, an element-wise sigmoid in the place of softmax. NOT exact.
//
//   weight(x) = sigmoid((logit / temperature - alpha) / (beta - alpha)), 0 below alpha, 1 above beta;
//   then acceptance, residual and bonus as in verify_exact, with weights for probabilities.
//   (2406.11016, second method.)
//
// Nothing is normalised, so no row is read but the one where the step ends, and a block decides for
// itself from 2 gamma logits. A NaN in the target's stop row gives no token, one in the draft's
// leaves the target row alone; elsewhere nothing looks.
//
// In and out: struct Arguments (common.cuh). float32, float16 or bfloat16 logits.
// Launch: cooperative, (members, groups) blocks of THREADS.
#include "common.cuh"

struct Sigmoid : Logits, TokenByToken<Sigmoid> {
    static constexpr bool NORMALISES = false;

    struct Weight {
        float temperature, alpha, beta;
        __device__ float operator()(float logit) const {
            const float scaled = logit / temperature;
            if (scaled < alpha) return 0.0f;
            if (scaled > beta) return 1.0f;
            return 1.0f / (1.0f + exp2f((scaled - alpha) / (alpha - beta) * LOG2_E));
        }
    };

    template <typename Step>
    __device__ static Weight weight(const Arguments &a, const Step &step, Norm) {
        return {step.temperature, a.sigmoid_alpha, a.sigmoid_beta};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2) verify_sigmoid(const __grid_constant__ Arguments arguments) {
    verify<Sigmoid>(arguments);
}
