// What the CUDA C of kernels/ means on a CPU, for tests where there is no GPU: the built-ins that the
// kernels use, and every CUDA thread as a fiber. emulation.py puts this in front of a kernel's text.
//
//   fibers    a thread runs until it waits for others. One operating-system thread runs them all, so a
//             failure comes again, and a kernel that waits for ever is noticed instead of waited for.
//   order     a thread block runs as far as it can before the next one runs at all, so does a warp in
//             it, first to last or last to first: far from fair, so that a barrier that is missing, or
//             mail that is stale, shows without luck.
//   strict    lanes of a warp must meet in the same operation, all 32; a thread that has returned
//             meets nobody; shared memory begins as garbage.
//
// Not shown: the memory model (a store is seen at once and in order), speed, registers.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>

// ---- Words of the language ----------------------------------------------------------------------

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900  // which branch of an #if is tested
#endif

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {  // the alignment is CUDA's: a vector load of another address is a fault there
    unsigned x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- Arithmetic ---------------------------------------------------------------------------------
// Of the C library, which rounds better than the GPU's; the judge allows for either.

template <typename To, typename From>
static inline To bits_as(From value) {
    static_assert(sizeof(To) >= sizeof(From), "bits would be lost");
    To result = {};
    memcpy(&result, &value, sizeof value);
    return result;
}
static inline float __uint_as_float(unsigned value) { return bits_as<float>(value); }
static inline float __int_as_float(int value) { return bits_as<float>(value); }
static inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __clz(int value) { return value ? __builtin_clz((unsigned)value) : 32; }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
#define __log2f log2f  // glibc has a __log2f of its own, which it does not export

// ---- Fibers -------------------------------------------------------------------------------------

// Keeps the registers that a call must preserve, and goes on where another stack left off. The C
// library's swapcontext would also set the signal mask, a system call each time.
extern "C" __attribute__((visibility("hidden"))) void emulated_switch(void **left, void *entered);
asm(R"(
    .text
    .hidden emulated_switch
    .globl emulated_switch
    .type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace emulated {

constexpr int BLOCK = 384, LANES = 32;
constexpr size_t STACK = 16 << 10;
constexpr uint64_t CANARY = 0x5AFE57ACC0FFEE00;  // at a stack's end: is it still there?
constexpr int IDLE_ROUNDS = 2000;  // without anything new: nobody will ever go on
constexpr int STEPS = 2000000;  // of warps in one launch; the tests' own need a tenth of it

// As in emulation.py.
enum Outcome { FINISHED, STUCK, ENDLESS, DIFFERENT_OPERATIONS, MISALIGNED, STACK_OVERFLOW };
enum Operation { SYNC, SHUFFLE, BALLOT, REDUCE };

// Where some must all arrive before any goes on; `passed` counts how often they have.
struct Gate {
    int arrived;
    unsigned passed;
};

struct Warp {
    Gate gate;
    Operation operation;
    uint64_t given[LANES], exchanged[LANES];  // who is early may give again before the last has looked
};

struct Block {
    Gate gate;
    Warp warps[BLOCK / LANES];
    dim3 index;
    void *shared[4];
};

struct Fiber {
    void *stack_pointer;
    uint64_t *stack_end;
    Block *block;
    dim3 index;
    const Gate *waits_for;
    unsigned passed;
    bool returned;
};

static Fiber *current;
static void *scheduler;
static dim3 grid;
static uint64_t events;  // arrivals, posts, returns: whatever may let somebody go on
static long long ticks;
static int running;  // threads that have not returned
static int steps;    // of all warps so far
static Outcome outcome;

static inline void leave() { emulated_switch(&current->stack_pointer, scheduler); }

// The last to arrive opens the gate, after `open`; the others sleep until then.
template <typename Open>
static void meet(Gate &gate, int all, Open open) {
    ++events;
    if (++gate.arrived == all) {
        open();
        gate.arrived = 0;
        ++gate.passed;
        return;
    }
    current->waits_for = &gate;
    current->passed = gate.passed;
    leave();
    current->waits_for = nullptr;
}

static inline unsigned lane() { return current->index.x % LANES; }

// Lanes exchange a word each. What they get is safe until all have come back for the next exchange.
static const uint64_t *exchange(Operation operation, uint64_t word) {
    Warp &warp = current->block->warps[current->index.x / LANES];
    if (warp.gate.arrived > 0 && warp.operation != operation) outcome = DIFFERENT_OPERATIONS;
    warp.operation = operation;
    warp.given[lane()] = word;
    meet(warp.gate, LANES, [&] { memcpy(warp.exchanged, warp.given, sizeof warp.given); });
    return warp.exchanged;
}

// Memory of a thread block. Its `number` tells apart what one kernel declares.
template <typename T>
static T &shared(int number) {
    void *&memory = current->block->shared[number];
    if (!memory) memory = memset(aligned_alloc(16, (sizeof(T) + 15) / 16 * 16), 0xA5, sizeof(T));
    return *static_cast<T *>(memory);
}

template <typename Word>
static inline void post(Word *slot, Word word) {
    ++events;
    *slot = word;
}

// Who finds nothing asks again: the others must run in between.
template <typename Word>
static inline Word peek(const Word *slot) {
    if (*slot == 0) leave();
    return *slot;
}

static inline float widen_half(unsigned short half) { return (float)bits_as<_Float16>(half); }

// ---- Launch -------------------------------------------------------------------------------------

template <typename Argument>
struct Call {
    static void (*kernel)(Argument);
    static const Argument *argument;
    static void run() {
        kernel(*argument);
        ++events;
        current->returned = true;
        leave();
    }
};
template <typename Argument>
void (*Call<Argument>::kernel)(Argument);
template <typename Argument>
const Argument *Call<Argument>::argument;

static void start(Fiber &fiber, Block &block, int thread, char *stack, void (*run)()) {
    fiber = {nullptr, reinterpret_cast<uint64_t *>(stack), &block, {(unsigned)thread, 0, 0}};
    *fiber.stack_end = CANARY;
    // Tops of stacks one page apart would all fall into the same few lines of the cache.
    void **top = reinterpret_cast<void **>(stack + STACK - 64 * (thread % 61));
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = reinterpret_cast<void *>(run);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
}

// Each lane of a warp runs until it waits.
static void run_lanes(Fiber *lanes, bool backwards) {
    for (int i = 0; i < LANES && outcome == FINISHED; ++i) {
        Fiber &fiber = lanes[backwards ? LANES - 1 - i : i];
        if (fiber.returned) continue;
        if (fiber.waits_for && fiber.waits_for->passed == fiber.passed) continue;
        current = &fiber;
        emulated_switch(&scheduler, fiber.stack_pointer);
        running -= fiber.returned;
        if (*fiber.stack_end != CANARY) outcome = STACK_OVERFLOW;
    }
    if (++steps == STEPS && outcome == FINISHED) outcome = ENDLESS;
}

// Each of `count` parts runs, again and again for as long as that leads to anything.
template <typename Run>
static void exhaust(int count, bool backwards, Run run) {
    uint64_t before;
    do {
        before = events;
        for (int i = 0; i < count; ++i) run(backwards ? count - 1 - i : i);
    } while (events != before && outcome == FINISHED);
}

// A thread block goes on until only another one can help it, and so does each warp in it.
static void schedule(Fiber *fibers, int blocks, bool backwards) {
    running = blocks * BLOCK;
    steps = 0;
    for (int round = 0; running > 0 && outcome == FINISHED; ++round) {
        const uint64_t before = events;
        exhaust(blocks, backwards, [&](int block) {
            exhaust(BLOCK / LANES, backwards, [&](int warp) {
                Fiber *lanes = fibers + block * BLOCK + warp * LANES;
                exhaust(1, backwards, [&](int) { run_lanes(lanes, backwards); });
            });
        });
        if (events != before) round = 0;
        if (round == IDLE_ROUNDS && outcome == FINISHED) outcome = STUCK;
    }
}

// All thread blocks at once, as a cooperative launch has them. `stacks` holds STACK bytes a thread.
template <typename Argument>
static int launch(void (*kernel)(Argument), unsigned width, unsigned height, const void *argument,
                  char *stacks, bool backwards) {
    Call<Argument>::kernel = kernel;
    Call<Argument>::argument = static_cast<const Argument *>(argument);
    const int count = width * height;
    Block *blocks = static_cast<Block *>(calloc(count, sizeof(Block)));
    Fiber *fibers = static_cast<Fiber *>(calloc(count * BLOCK, sizeof(Fiber)));
    for (int i = 0; i < count; ++i) {
        blocks[i].index = {i % width, i / width, 0};
        for (int thread = 0; thread < BLOCK; ++thread) {
            const size_t number = (size_t)i * BLOCK + thread;
            start(fibers[number], blocks[i], thread, stacks + number * STACK, Call<Argument>::run);
        }
    }
    grid = {width, height, 1};
    outcome = FINISHED;
    const unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | 0x8040);  // subnormals are zero, read or written: CuPy's -ftz=true
    schedule(fibers, count, backwards);
    _mm_setcsr(rounding);
    for (int i = 0; i < count; ++i)
        for (void *memory : blocks[i].shared) free(memory);
    free(blocks);
    free(fibers);
    return outcome;
}

}  // namespace emulated

// ---- What threads ask and tell each other -------------------------------------------------------

#define threadIdx (emulated::current->index)
#define blockIdx (emulated::current->block->index)
#define gridDim (emulated::grid)

template <typename T>
static inline T __ldg(const T *address) {
    if ((uintptr_t)address % alignof(T)) emulated::outcome = emulated::MISALIGNED;
    T value;
    memcpy(&value, address, sizeof value);
    return value;
}

static inline void __syncthreads() {
    emulated::meet(emulated::current->block->gate, emulated::BLOCK, [] {});
}

static inline void __syncwarp() { emulated::exchange(emulated::SYNC, 0); }

template <typename T>
static inline T __shfl_sync(unsigned, T value, int lane) {
    const uint64_t *words = emulated::exchange(emulated::SHUFFLE, bits_as<uint64_t>(value));
    T result;
    memcpy(&result, &words[lane % emulated::LANES], sizeof result);
    return result;
}

template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return __shfl_sync(mask, value, (int)emulated::lane() ^ distance);
}

static inline unsigned __ballot_sync(unsigned, bool vote) {
    const uint64_t *votes = emulated::exchange(emulated::BALLOT, vote);
    unsigned result = 0;
    for (int lane = 0; lane < emulated::LANES; ++lane) result |= (unsigned)votes[lane] << lane;
    return result;
}

static inline unsigned __reduce_max_sync(unsigned, unsigned value) {
    const uint64_t *values = emulated::exchange(emulated::REDUCE, value);
    uint64_t largest = 0;
    for (int lane = 0; lane < emulated::LANES; ++lane)
        largest = values[lane] > largest ? values[lane] : largest;
    return (unsigned)largest;
}

// A thread that looks at the clock waits for it: time passes when the others have run.
static inline long long clock64() {
    emulated::leave();
    return emulated::ticks += 1000;
}
