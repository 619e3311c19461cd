// Philox 4x32-10: counter-based random numbers (Salmon et al., SC 2011), bit for bit those of
// specbench/sampling/philox.py. Every number is addressed, none is drawn from a stream:
//   key     = the sequence's 64-bit seed
//   counter = (element >> 2, slot, position, purpose); element & 3 picks the word
// position: tokens the sequence holds when the step begins; slot: the draft's index in the step.
// Deterministic. No subnormal is ever produced.
#pragma once

// What a number is for. Two purposes never share one: sharing shifts the output law.
enum Purpose : unsigned { PURPOSE_DRAFT = 0, PURPOSE_ACCEPT = 1, PURPOSE_RESIDUAL = 2 };

__device__ __forceinline__ uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned low0 = 0xD2511F53u * counter.x, high0 = __umulhi(0xD2511F53u, counter.x);
        const unsigned low1 = 0xCD9E8D57u * counter.z, high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// The words of elements 4*group .. 4*group+3.
__device__ __forceinline__ uint4 philox_words(long long seed, long long position, Purpose purpose,
                                              unsigned slot, unsigned group) {
    const uint2 key = make_uint2((unsigned)seed, (unsigned)((unsigned long long)seed >> 32));
    return philox4x32(make_uint4(group, slot, (unsigned)position, (unsigned)purpose), key);
}

// [0, 1): 24 bits, so that none ever rounds up to 1.
__device__ __forceinline__ float uniform(unsigned word) { return (word >> 8) * 0x1p-24f; }

// Standard exponential, -log(1 - r), precise where it is small: the winners of an exponential race are
// small, and there 1 - r would have lost the digits of r. Relative error below 4e-6.
__device__ __forceinline__ float exponential(unsigned word) {
    // The float product rounds to 1 for the largest words, hence the minimum.
    const float r = fminf(((float)word + 0.5f) * 0x1p-32f, 1.0f - 0x1p-24f);
    const float series =
        r * fmaf(r, fmaf(r, fmaf(r, fmaf(r, fmaf(r, 1.0f / 6, 1.0f / 5), 0.25f), 1.0f / 3), 0.5f), 1.0f);
    return r < 0.0625f ? series : -0.693147181f * __log2f(1.0f - r);
}
