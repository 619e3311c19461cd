// numbers: the random numbers of a verify step, for methods that are torch operations.
//
//   uniforms (B, gamma) in [0, 1): purpose ACCEPT, slots 0 ... gamma - 1
//   exponentials (B, V) > 0: purpose RESIDUAL, slot 0
//
// Bit for bit what the other kernels draw inside. Launch: any grid of THREADS, sequences along y.
#include "common.cuh"

// Filled by specbench/cuda/launch.py, field by field in this order.
struct NumbersArguments {
    const long long *seeds, *positions;  // (B,)
    float *uniforms, *exponentials;      // out, contiguous
    int batch, gamma, vocab;
};

extern "C" __global__ void __launch_bounds__(THREADS) numbers(const __grid_constant__ NumbersArguments a) {
    const int first = blockIdx.x * THREADS + threadIdx.x, stride = gridDim.x * THREADS;
    for (long long sequence = blockIdx.y; sequence < a.batch; sequence += gridDim.y) {
        const long long seed = a.seeds[sequence], position = a.positions[sequence];
        for (int slot = first; slot < a.gamma; slot += stride)
            a.uniforms[sequence * a.gamma + slot] =
                uniform(philox_words(seed, position, PURPOSE_ACCEPT, slot, 0).x);
        for (int group = first; group < (a.vocab + 3) / 4; group += stride) {
            const Noise noise = noise_of_group(seed, position, PURPOSE_RESIDUAL, 0, group);
            for (int i = 0; i < 4 && 4 * group + i < a.vocab; ++i)
                a.exponentials[sequence * a.vocab + 4 * group + i] = noise.exponentials[i];
        }
    }
}
