// CUDA kernels on host memory: what a .cu file needs so that g++ compiles it and one core runs it, as a test harness.
//
// Every CUDA thread is a user-level context with a stack of its own. A context runs until it meets a barrier or a warp
// function, where it waits for the others as the device has it: __syncthreads for all threads of the block that have
// not returned, a *_sync function for all lanes of its mask that have not returned. Misuse ends the launch with a
// message: threads waiting at different barriers, a lane outside its own mask, waiting that nothing can end.
//
// Seed 0 runs block after block and thread after thread. Any other seed shuffles blocks and threads, keeps three blocks
// in flight and gives way at atomics and fences now and then, so that an unsaid order shows up as a wrong result.
//
// Shared memory is poisoned before each block (the device leaves it undefined), and each block in flight has its own.
// Types that the device's atomics do not take do not compile here either. Limits: no dynamic parallelism, no
// cooperative grids, no textures, __shared__ not inside templates or inline functions.
#ifndef VOXTRACT_EMULATOR
#define VOXTRACT_EMULATOR

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// All __shared__ variables of the file lie between these two.
extern "C" {
__attribute__((weak, visibility("hidden"))) extern unsigned char __start_emulated_shared[];
__attribute__((weak, visibility("hidden"))) extern unsigned char __stop_emulated_shared[];
}

namespace emulator {

constexpr size_t STACK = 64 << 10;
constexpr unsigned char POISON = 0xA5;

// ---- contexts ------------------------------------------------------------------------------------------------------

struct Context {
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t saved;
#endif
    void* fake_stack = nullptr;  // the address sanitizer's
};

#if defined(__x86_64__)
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** save, void* load);
asm(R"(
    .text
    .p2align 4
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
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
    .size emulator_switch, . - emulator_switch
)");
#endif

static Context scheduler;
static const void* scheduler_stack = nullptr;
static size_t scheduler_stack_size = 0;

inline void switch_to(Context& from, Context& to, const void* stack, size_t size, bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, stack, size);
#else
    (void)stack, (void)size, (void)last;
#endif
#if defined(__x86_64__)
    emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.saved, &to.saved);
#endif
#if defined(__SANITIZE_ADDRESS__)
    const void* old;
    size_t old_size;
    __sanitizer_finish_switch_fiber(from.fake_stack, &old, &old_size);
#endif
}

// ---- blocks, warps, threads ----------------------------------------------------------------------------------------

enum class State : unsigned char { ready, at_barrier, at_warp, done };

struct Meeting {  // lanes of one warp that meet at a *_sync function; those that have not yet taken its result are left
    unsigned mask = 0, arrived = 0, left = 0;
    int kind = 0;
    uint64_t values[32];
};

struct Thread {
    Context context;
    std::unique_ptr<unsigned char[]> stack;
    uint3 index;
    unsigned number;
    State state;
    int site;  // line of the barrier it waits at
    bool vote;
    Meeting* meeting;
};

struct Block {
    uint3 index;
    unsigned alive, waiting, any, all, count;
    std::vector<Thread> threads;
    std::vector<unsigned> warp_alive;
    std::vector<std::vector<std::unique_ptr<Meeting>>> meetings;  // of each warp
    std::vector<unsigned char> fixed;                             // its __shared__ variables while another block runs
    std::unique_ptr<unsigned char[]> dynamic;
};

static Block* block = nullptr;
static Block* resident = nullptr;  // whose __shared__ variables are in place
static Thread* thread = nullptr;
static char message[512];
static bool failed = false;
static unsigned long long seed = 0;
static std::mt19937_64 chance;
static void (*body)(void**) = nullptr;
static void** arguments = nullptr;

inline void to_scheduler(bool last = false) {
    switch_to(thread->context, scheduler, scheduler_stack, scheduler_stack_size, last);
}

[[noreturn]] inline void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    int used = snprintf(message, sizeof message, "block (%u, %u, %u), thread (%u, %u, %u): ", blockIdx.x, blockIdx.y,
                        blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    vsnprintf(message + used, sizeof message - used, format, values);
    va_end(values);
    failed = true;
    for (;;) to_scheduler();
}

inline void release_meeting(Meeting& meeting, unsigned warp) {
    for (unsigned lane = 0; lane < 32; lane++)
        if (meeting.arrived >> lane & 1) block->threads[warp * 32 + lane].state = State::ready;
    meeting.left = meeting.arrived;
}

inline void finished() {
    thread->state = State::done;
    block->alive--;
    unsigned warp = thread->number / 32;
    block->warp_alive[warp] &= ~(1u << thread->number % 32);
    for (auto& meeting : block->meetings[warp])  // who waits for a thread that has returned waits no longer
        if (meeting->arrived && !meeting->left && meeting->arrived == (meeting->mask & block->warp_alive[warp]))
            release_meeting(*meeting, warp);
}

inline void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
    body(arguments);
    finished();
    for (;;) to_scheduler(true);
}

inline void prepare(Thread& it) {
    unsigned char* top = it.stack.get() + STACK;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(it.stack.get(), STACK);  // of frames that its last thread never left
#endif
#if defined(__x86_64__)
    auto** frame = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
    *--frame = nullptr;  // where a return address would be: keeps the stack aligned as the calling convention wants
    *--frame = reinterpret_cast<void*>(&start);
    for (int i = 0; i < 6; i++) *--frame = nullptr;
    it.context.stack_pointer = frame;
#else
    (void)top;
    getcontext(&it.context.saved);
    it.context.saved.uc_stack.ss_sp = it.stack.get();
    it.context.saved.uc_stack.ss_size = STACK;
    it.context.saved.uc_link = nullptr;
    makecontext(&it.context.saved, reinterpret_cast<void (*)()>(&start), 0);
#endif
}

// Redzones of the address sanitizer lie between shared variables, so these two are not instrumented.
__attribute__((no_sanitize("address", "undefined"))) inline void copy_shared(unsigned char* to, const unsigned char* from,
                                                                             size_t size) {
    size_t i = 0;
    for (; i + 8 <= size; i += 8) *(volatile uint64_t*)(to + i) = *(const uint64_t*)(from + i);
    for (; i < size; i++) static_cast<volatile unsigned char*>(to)[i] = from[i];
}
inline size_t shared_size() { return __stop_emulated_shared - __start_emulated_shared; }

inline void begin(Block& it, unsigned long long number, size_t dynamic_bytes) {
    unsigned size = blockDim.x * blockDim.y * blockDim.z;
    it.index = {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y),
                unsigned(number / gridDim.x / gridDim.y)};
    it.alive = size;
    it.waiting = 0;
    it.threads.resize(size);
    it.warp_alive.assign((size + 31) / 32, ~0u);
    if (size % 32) it.warp_alive.back() = (1u << size % 32) - 1;
    it.meetings.resize(it.warp_alive.size());
    for (auto& warp : it.meetings) warp.clear();
    it.fixed.assign(shared_size(), POISON);
    if (resident == &it) resident = nullptr;
    it.dynamic.reset(new unsigned char[dynamic_bytes]);
    memset(it.dynamic.get(), POISON, dynamic_bytes);
    for (unsigned i = 0; i < size; i++) {
        Thread& one = it.threads[i];
        if (!one.stack) one.stack.reset(new unsigned char[STACK]);
        one.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        one.number = i;
        one.state = State::ready;
        one.meeting = nullptr;
        prepare(one);
    }
}

inline bool open_barrier(Block& it) {
    if (!it.alive || it.waiting != it.alive) return false;
    int site = -1;
    it.any = it.count = 0;
    it.all = 1;
    for (Thread& one : it.threads) {
        if (one.state != State::at_barrier) continue;
        if (site >= 0 && one.site != site) {
            snprintf(message, sizeof message, "block (%u, %u, %u): threads wait at different barriers, lines %d and %d",
                     it.index.x, it.index.y, it.index.z, site, one.site);
            failed = true;
            return false;
        }
        site = one.site;
        one.state = State::ready;
        it.any |= one.vote;
        it.all &= one.vote;
        it.count += one.vote;
    }
    it.waiting = 0;
    return true;
}

// One turn for every ready thread of a block; false when none could move.
inline bool sweep(Block& it, std::vector<unsigned>& order) {
    block = &it;
    blockIdx = it.index;
    if (resident != &it) {
        if (resident) copy_shared(resident->fixed.data(), __start_emulated_shared, resident->fixed.size());
        copy_shared(__start_emulated_shared, it.fixed.data(), it.fixed.size());
        resident = &it;
    }
    if (seed) std::shuffle(order.begin(), order.end(), chance);
    bool moved = false;
    for (unsigned i : order) {
        Thread& one = it.threads[i];
        if (one.state != State::ready) continue;
        moved = true;
        thread = &one;
        threadIdx = one.index;
        switch_to(scheduler, one.context, one.stack.get(), STACK);
        if (failed) break;
    }
    if (!failed) moved |= open_barrier(it);
    return moved;
}

inline const char* launch(const unsigned* grid, const unsigned* block_size, size_t dynamic_bytes, void (*function)(void**),
                          void** values) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block_size[0], block_size[1], block_size[2]};
    unsigned size = blockDim.x * blockDim.y * blockDim.z;
    if (!gridDim.x || !gridDim.y || !gridDim.z || gridDim.x > 2147483647u || gridDim.y > 65535 || gridDim.z > 65535)
        return "a grid of this size is refused by the device";
    if (!size || size > 1024) return "a block of this size is refused by the device";
    if (dynamic_bytes + shared_size() > 227 << 10) return "more shared memory than a block can have";
    body = function;
    arguments = values;
    failed = false;
    message[0] = 0;
    chance.seed(seed);
    unsigned long long total = 1ull * gridDim.x * gridDim.y * gridDim.z, next = 0;
    std::vector<unsigned long long> numbers;
    if (seed) {
        for (unsigned long long i = 0; i < total; i++) numbers.push_back(i);
        std::shuffle(numbers.begin(), numbers.end(), chance);
    }
    std::vector<unsigned> order;
    for (unsigned i = 0; i < size; i++) order.push_back(i);
    static Block slots[3];
    std::vector<Block*> in_flight;
    resident = nullptr;
    auto bring = [&](Block* into) {
        begin(*into, seed ? numbers[next] : next, dynamic_bytes);
        next++;
    };
    for (Block& it : slots) {
        if (next == total || (!seed && next)) break;
        bring(&it);
        in_flight.push_back(&it);
    }
    while (!in_flight.empty() && !failed) {
        size_t chosen = seed ? chance() % in_flight.size() : 0;
        Block* it = in_flight[chosen];
        if (!sweep(*it, order) && it->alive && !failed) {
            unsigned at_warp = 0;
            for (Thread& one : it->threads) at_warp += one.state == State::at_warp;
            snprintf(message, sizeof message,
                     "block (%u, %u, %u): %u threads wait at a barrier and %u for lanes of their warp, and none can come",
                     it->index.x, it->index.y, it->index.z, it->waiting, at_warp);
            failed = true;
        }
        if (!it->alive && !failed) {
            if (next < total) bring(it);
            else in_flight.erase(in_flight.begin() + chosen);
        }
    }
    for (Block& it : slots) it.dynamic.reset();
    return failed ? message : nullptr;
}

template <class... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(values[I])...);
}

template <auto kernel> struct Entry;
template <class... Parameters, void (*kernel)(Parameters...)> struct Entry<kernel> {
    static void body(void** values) { call(kernel, values, std::index_sequence_for<Parameters...>{}); }
};

// ---- what kernels call ---------------------------------------------------------------------------------------------

inline unsigned char* dynamic_shared() { return block->dynamic.get(); }

inline void wait_for_block(int site, bool vote = false) {
    thread->state = State::at_barrier;
    thread->site = site;
    thread->vote = vote;
    block->waiting++;
    to_scheduler();
}

inline void perhaps_yield() {
    if (seed && chance() % 4 == 0) to_scheduler();
}

// Waits for the lanes of `mask`, and gives what each of them brought to `use`.
template <class Use> auto meet(int kind, unsigned mask, uint64_t value, Use use) {
    unsigned warp = thread->number / 32, lane = thread->number % 32;
    if (!(mask >> lane & 1)) fail("lane %u is not in the mask 0x%08x that it passes", lane, mask);
    auto& open = block->meetings[warp];
    Meeting* mine = nullptr;
    for (auto& it : open)
        if (it->arrived && !it->left && it->mask == mask && it->kind == kind && !(it->arrived >> lane & 1))
            mine = it.get();
    for (auto& it : open)
        if (!mine && !it->arrived) mine = it.get();  // one that is over
    if (!mine) {
        open.emplace_back(new Meeting);
        mine = open.back().get();
    }
    mine->mask = mask;
    mine->kind = kind;
    mine->arrived |= 1u << lane;
    mine->values[lane] = value;
    if (mine->arrived == (mask & block->warp_alive[warp])) {
        release_meeting(*mine, warp);
    } else {
        thread->state = State::at_warp;
        to_scheduler();
    }
    auto result = use(*mine);
    mine->left &= ~(1u << lane);
    if (!mine->left) mine->arrived = 0;
    return result;
}

template <class T> uint64_t bits(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    uint64_t out = 0;
    memcpy(&out, &value, sizeof value);
    return out;
}
template <class T> T from_bits(uint64_t value) {
    T out;
    memcpy(&out, &value, sizeof out);
    return out;
}
inline int lane() { return int(thread->number % 32); }

template <class T> T shuffle(int kind, unsigned mask, T value, int source) {
    return meet(kind * 16 + int(sizeof(T)), mask, bits(value),
                [&](Meeting& all) {
                    bool there = all.arrived >> (source & 31) & 1;  // what the device gives of a missing lane is undefined
                    return from_bits<T>(there ? all.values[source & 31] : 0xA5A5A5A5A5A5A5A5u);
                });
}

template <class T> struct Same { using type = T; };  // keeps an argument out of template deduction

}  // namespace emulator

#define __syncthreads() emulator::wait_for_block(__LINE__)
#define __syncthreads_or(vote) (emulator::wait_for_block(__LINE__, (vote) != 0), int(emulator::block->any))
#define __syncthreads_and(vote) (emulator::wait_for_block(__LINE__, (vote) != 0), int(emulator::block->all))
#define __syncthreads_count(vote) (emulator::wait_for_block(__LINE__, (vote) != 0), int(emulator::block->count))

inline void __syncwarp(unsigned mask = ~0u) {
    emulator::meet(1, mask, 0, [](emulator::Meeting&) { return 0; });
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    return emulator::meet(2, mask, vote != 0, [](emulator::Meeting& all) {
        unsigned out = 0;
        for (int i = 0; i < 32; i++)
            if (all.arrived >> i & 1) out |= unsigned(all.values[i] & 1) << i;
        return out;
    });
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, !vote) == 0; }
template <class T> unsigned __match_any_sync(unsigned mask, T value) {
    return emulator::meet(3, mask, emulator::bits(value), [&](emulator::Meeting& all) {
        unsigned out = 0;
        for (int i = 0; i < 32; i++)
            if (all.arrived >> i & 1) out |= unsigned(all.values[i] == emulator::bits(value)) << i;
        return out;
    });
}
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return emulator::shuffle(4, mask, value, (emulator::lane() & ~(width - 1)) + (source & (width - 1)));
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int source = emulator::lane() - int(delta), first = emulator::lane() & ~(width - 1);
    return emulator::shuffle(5, mask, value, source < first ? emulator::lane() : source);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int source = emulator::lane() + int(delta), last = emulator::lane() | (width - 1);
    return emulator::shuffle(6, mask, value, source > last ? emulator::lane() : source);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    int source = emulator::lane() ^ lanes, last = emulator::lane() | (width - 1);
    return emulator::shuffle(7, mask, value, source > last ? emulator::lane() : source);
}
// Only from sm_80 on.
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return emulator::meet(8, mask, value, [](emulator::Meeting& all) {
        unsigned out = 0;
        for (int i = 0; i < 32; i++)
            if (all.arrived >> i & 1) out += unsigned(all.values[i]);
        return out;
    });
}

inline void __threadfence() { emulator::perhaps_yield(); }
inline void __threadfence_block() { emulator::perhaps_yield(); }
inline void __nanosleep(unsigned) { emulator::to_scheduler(); }

#define EMULATED_ATOMIC(name, T, expression)                        \
    inline T name(T* address, emulator::Same<T>::type value) {      \
        emulator::perhaps_yield();                                  \
        T old = *address;                                           \
        *address = expression;                                      \
        return old;                                                 \
    }
#define EMULATED_ATOMICS(T)                            \
    EMULATED_ATOMIC(atomicMin, T, std::min(old, value)) \
    EMULATED_ATOMIC(atomicMax, T, std::max(old, value)) \
    EMULATED_ATOMIC(atomicAnd, T, old& value)           \
    EMULATED_ATOMIC(atomicOr, T, old | value)           \
    EMULATED_ATOMIC(atomicXor, T, old ^ value)
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)
EMULATED_ATOMIC(atomicMin, long long, std::min(old, value))
EMULATED_ATOMIC(atomicMax, long long, std::max(old, value))
EMULATED_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))  // wraps round, as on the device
EMULATED_ATOMIC(atomicAdd, unsigned, old + value)
EMULATED_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATED_ATOMIC(atomicAdd, float, old + value)
EMULATED_ATOMIC(atomicAdd, double, old + value)
EMULATED_ATOMIC(atomicSub, int, int(unsigned(old) - unsigned(value)))
EMULATED_ATOMIC(atomicSub, unsigned, old - value)
EMULATED_ATOMIC(atomicExch, int, value)
EMULATED_ATOMIC(atomicExch, unsigned, value)
EMULATED_ATOMIC(atomicExch, unsigned long long, value)
EMULATED_ATOMIC(atomicExch, float, value)
EMULATED_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
#define EMULATED_CAS(T)                               \
    inline T atomicCAS(T* address, T expected, T value) { \
        emulator::perhaps_yield();                    \
        T old = *address;                             \
        if (old == expected) *address = value;        \
        return old;                                   \
    }
EMULATED_CAS(int)
EMULATED_CAS(unsigned)
EMULATED_CAS(unsigned long long)
EMULATED_CAS(unsigned short)

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(static_cast<unsigned long long>(v)) : 64; }
inline unsigned __brev(unsigned v) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) out |= (v >> i & 1) << (31 - i);
    return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t both = uint64_t(y) << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= unsigned(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return out;
}

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, typename emulator::Same<T>::type v) { *p = v; }
template <class T> void __stcg(T* p, typename emulator::Same<T>::type v) { *p = v; }

inline int __float_as_int(float v) { return emulator::from_bits<int>(emulator::bits(v)); }
inline unsigned __float_as_uint(float v) { return emulator::from_bits<unsigned>(emulator::bits(v)); }
inline float __int_as_float(int v) { return emulator::from_bits<float>(emulator::bits(v)); }
inline float __uint_as_float(unsigned v) { return emulator::from_bits<float>(emulator::bits(v)); }
inline long long __double_as_longlong(double v) { return emulator::from_bits<long long>(emulator::bits(v)); }
inline double __longlong_as_double(long long v) { return emulator::from_bits<double>(emulator::bits(v)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline float __double2float_rn(double v) { return float(v); }
// The device saturates, and turns NaN into 0, where C leaves the result undefined.
template <class To, class From> To emulated_convert(From v) {
    if (std::isnan(v)) return 0;
    v = std::rint(v);
    if (v <= From(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    return v >= From(std::numeric_limits<To>::max()) ? std::numeric_limits<To>::max() : To(v);
}
inline int __float2int_rn(float v) { return emulated_convert<int>(v); }
inline unsigned __float2uint_rn(float v) { return emulated_convert<unsigned>(v); }
inline long long __float2ll_rn(float v) { return emulated_convert<long long>(v); }
inline int __double2int_rn(double v) { return emulated_convert<int>(v); }
inline unsigned __double2uint_rn(double v) { return emulated_convert<unsigned>(v); }
inline long long __double2ll_rn(double v) { return emulated_convert<long long>(v); }

#define EMULATED_VECTORS(T, name, a1, a2, a4)                                                            \
    struct alignas(a1) name##1 { T x; };                                                                 \
    struct alignas(a2) name##2 { T x, y; };                                                              \
    struct alignas(a4) name##4 { T x, y, z, w; };                                                        \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                           \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(signed char, char, 1, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 1, 2, 4)
EMULATED_VECTORS(short, short, 2, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 2, 4, 8)
EMULATED_VECTORS(int, int, 4, 8, 16)
EMULATED_VECTORS(unsigned, uint, 4, 8, 16)
EMULATED_VECTORS(float, float, 4, 8, 16)
EMULATED_VECTORS(double, double, 8, 16, 16)
EMULATED_VECTORS(long long, longlong, 8, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 8, 16, 16)

using std::max;
using std::min;
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __shared__ __attribute__((section("emulated_shared"))) static

extern "C" inline __attribute__((used)) void emulator_seed(unsigned long long value) { emulator::seed = value; }
// The harness appends one of these for each kernel of a file.
#define EMULATED_KERNEL(name)                                                                                     \
    extern "C" const char* run_##name(const unsigned* grid, const unsigned* block, size_t shared, void** values) { \
        return emulator::launch(grid, block, shared, &emulator::Entry<&name>::body, values);                        \
    }
#endif
