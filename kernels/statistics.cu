// Numbers about all stored voxels, for normalisation: smallest and largest, mean and deviation, percentiles.
//
// Each normalisation needs one of three kernels, each of which reads every voxel once, in memory order, with 16-byte
// reads where the memory is aligned to that. NaN and infinite voxels are left out. No floating-point atomics: results
// are integers that do not depend on order, or floats added in an order that is written down.
//
// extremes: smallest and largest voxel of each block.
// sums:     for integers of up to 32 bits, exact sums of each block (STORED is an integer): with x = 65536 h + l, those
//           of h, l, h*h, h*l and l*l, none of which leaves 64 bits below 2^31 voxels of a block.
// blocks:   for floats (and 64-bit integers), count, mean and squared deviations of each 4096 voxels, added as a tree: element i
//           and element i + half, half = 2048, 1024, ... 1. voxtract.compute.moments does the same with NumPy.
// digits:   how often each value of 16 bits (8 of bytes) occurs among the voxels' keys, from bit `shift` on, where the
//           bits above are `prefix`. Keys are the voxels as unsigned integers in the order of the numbers. One call
//           gives percentiles of 8 and 16 bits; wider numbers need one more for each 16 bits. Counters of 16 bits lie
//           two to a word in shared memory (128 KiB for 65,536; a grid of several rows splits them where a block has
//           less) and are carried over before they can overflow. Runs of equal voxels, and warps of them, count at once.
//
// STORED: C type; STORED_HALF: unsigned short that holds a float16.
#include "numbers.cuh"

constexpr int THREADS = 256;
constexpr int TAKE = 16 / sizeof(STORED);

__device__ __forceinline__ bool counts(STORED stored) {
#ifdef STORED_HALF
    return (stored & 0x7c00) != 0x7c00;
#else
    return !STORED_IS_FLOAT || static_cast<double>(stored - stored) == 0.0;
#endif
}

__device__ __forceinline__ bool less(STORED a, STORED b) {
#ifdef STORED_HALF
    return from_half(a) < from_half(b);
#else
    return a < b;
#endif
}

// Voxels begin .. begin + TAKE, as far as there are any; `wide`: from an address that 16 divides.
struct Taken {
    STORED voxel[TAKE];
    int count;
};

__device__ __forceinline__ Taken take(const STORED* voxels, long long begin, long long total, int wide) {
    union {
        uint4 all;
        STORED voxel[TAKE];
    } read;
    Taken taken;
    taken.count = static_cast<int>(min(static_cast<long long>(TAKE), max(0ll, total - begin)));
    if (wide && taken.count == TAKE) {
        read.all = *reinterpret_cast<const uint4*>(voxels + begin);
#pragma unroll
        for (int i = 0; i < TAKE; i++) taken.voxel[i] = read.voxel[i];
    } else {
#pragma unroll
        for (int i = 0; i < TAKE; i++)
            if (i < taken.count) taken.voxel[i] = voxels[begin + i];
    }
    return taken;
}

// low and high: one for each block; seen: how many voxels of it counted (0: low and high mean nothing).
extern "C" __global__ void __launch_bounds__(256)
    extremes(const STORED* __restrict__ voxels, long long total, int wide, STORED* low, STORED* high, int* seen) {
    __shared__ STORED lows[THREADS], highs[THREADS];
    __shared__ int any[THREADS];
    STORED least = 0, most = 0;
    int found = 0;
    const long long step = static_cast<long long>(gridDim.x) * THREADS * TAKE;
#pragma unroll 2
    for (long long begin = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * TAKE; begin < total; begin += step) {
        const Taken taken = take(voxels, begin, total, wide);
#pragma unroll
        for (int i = 0; i < TAKE; i++) {
            if (i >= taken.count || !counts(taken.voxel[i])) continue;
            const STORED voxel = taken.voxel[i];
            least = !found || less(voxel, least) ? voxel : least;
            most = !found || less(most, voxel) ? voxel : most;
            found = 1;
        }
    }
    const int me = threadIdx.x;
    lows[me] = least, highs[me] = most, any[me] = found;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (me >= half || !any[me + half]) continue;
        if (!any[me] || less(lows[me + half], lows[me])) lows[me] = lows[me + half];
        if (!any[me] || less(highs[me], highs[me + half])) highs[me] = highs[me + half];
        any[me] = 1;
    }
    if (me == 0) low[blockIdx.x] = lows[0], high[blockIdx.x] = highs[0], seen[blockIdx.x] = any[0];
}

// out: (blocks, 5) sums of h, l, h*h, h*l, l*l.
extern "C" __global__ void __launch_bounds__(256)
    sums(const STORED* __restrict__ voxels, long long total, int wide, long long* out) {
    __shared__ long long part[5][THREADS];
    long long sum[5] = {0, 0, 0, 0, 0};
    const long long step = static_cast<long long>(gridDim.x) * THREADS * TAKE;
#pragma unroll 2
    for (long long begin = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * TAKE; begin < total; begin += step) {
        const Taken taken = take(voxels, begin, total, wide);
#pragma unroll
        for (int i = 0; i < TAKE; i++) {
            if (i >= taken.count) continue;
            const long long voxel = static_cast<long long>(taken.voxel[i]);
            const long long h = sizeof(STORED) > 2 ? voxel >> 16 : 0, l = sizeof(STORED) > 2 ? voxel & 0xffff : voxel;
            sum[0] += h, sum[1] += l, sum[2] += h * h, sum[3] += h * l, sum[4] += l * l;
        }
    }
    const int me = threadIdx.x;
#pragma unroll
    for (int k = 0; k < 5; k++) part[k][me] = sum[k];
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (me < half)
#pragma unroll
            for (int k = 0; k < 5; k++) part[k][me] += part[k][me + half];
    }
    if (me < 5) {
        __syncwarp(0x1f);
        out[blockIdx.x * 5ll + me] = part[me][0];
    }
}

// count, mean, squares: one for each 4096 voxels.
extern "C" __global__ void __launch_bounds__(256, 3)
    blocks(const STORED* __restrict__ voxels, long long total, int* count, double* mean, double* squares) {
    constexpr int EACH = 4096 / THREADS;  // 16
    __shared__ double part[THREADS];
    __shared__ int parts[THREADS];
    const int me = threadIdx.x;
    const long long begin = static_cast<long long>(blockIdx.x) * 4096 + me;
    double value[EACH], sum[EACH];
    int finite = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        value[i] = 0.0;
        if (begin + i * THREADS >= total) continue;
        const STORED stored = voxels[begin + i * THREADS];
        if (!counts(stored)) continue;
        value[i] = widened(stored);
        finite |= 1 << i;
    }
    double middle = 0.0;
    int all = 0;
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const double away = __dsub_rn(value[i], middle);
            sum[i] = pass == 0 ? value[i] : finite >> i & 1 ? __dmul_rn(away, away) : 0.0;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] = __dadd_rn(sum[i], sum[i + 8]);
#pragma unroll
        for (int i = 0; i < 4; i++) sum[i] = __dadd_rn(sum[i], sum[i + 4]);
        part[me] = __dadd_rn(__dadd_rn(sum[0], sum[2]), __dadd_rn(sum[1], sum[3]));
        if (pass == 0) parts[me] = __popc(finite);
        for (int half = THREADS / 2; half; half /= 2) {
            __syncthreads();
            if (me >= half) continue;
            part[me] = __dadd_rn(part[me], part[me + half]);
            if (pass == 0) parts[me] += parts[me + half];
        }
        __syncthreads();
        if (pass == 0) {
            all = parts[0];
            middle = all ? __ddiv_rn(part[0], static_cast<double>(all)) : 0.0;
        } else if (me == 0) {
            count[blockIdx.x] = all, mean[blockIdx.x] = middle, squares[blockIdx.x] = part[0];
        }
        __syncthreads();
    }
}

// The voxel as an unsigned integer, in the order of the numbers.
__device__ __forceinline__ unsigned long long key(STORED stored) {
    constexpr int BITS = 8 * sizeof(STORED);
    constexpr unsigned long long TOP = 1ull << (BITS - 1), ALL = TOP - 1 + TOP;
#ifdef STORED_HALF
    unsigned long long bits = stored;
    return bits & TOP ? ~bits & ALL : bits | TOP;
#else
    if (STORED_IS_FLOAT) {
        unsigned long long bits = sizeof(STORED) == 4
                                      ? __float_as_uint(static_cast<float>(stored))
                                      : static_cast<unsigned long long>(__double_as_longlong(static_cast<double>(stored)));
        return bits & TOP ? ~bits & ALL : bits | TOP;
    }
    const bool has_sign = static_cast<STORED>(-1) < static_cast<STORED>(0);
    return (static_cast<unsigned long long>(stored) & ALL) ^ (has_sign ? TOP : 0);
#endif
}

constexpr int DIGITS = sizeof(STORED) == 1 ? 256 : 65536;
constexpr int MANY = 1024;                       // threads: one block fills a multiprocessor
constexpr int CARRY = 65535 / (MANY * TAKE);     // rounds after which a counter of 16 bits may be full

__device__ __forceinline__ void add(unsigned* counters, unsigned digit, unsigned low, unsigned room, unsigned times) {
    const unsigned at = digit - low;  // wraps to far above where it is below
    if (at < room) atomicAdd(&counters[at / 2], times << (at % 2 * 16));
}

// out: one counter for each digit; blockIdx.y says which part of the digits a block counts.
extern "C" __global__ void __launch_bounds__(1024)
    digits(const STORED* __restrict__ voxels, long long total, int wide, int shift, unsigned long long prefix,
           unsigned long long* out) {
    extern __shared__ unsigned counters[];
    const unsigned room = DIGITS / gridDim.y, low = blockIdx.y * room, me = threadIdx.x;
    for (unsigned i = me; i < room / 2; i += MANY) counters[i] = 0;
    __syncthreads();
    const long long step = static_cast<long long>(gridDim.x) * MANY * TAKE;
    int rounds = 0;
    for (long long start = static_cast<long long>(blockIdx.x) * MANY * TAKE; start < total; start += step) {
        const Taken taken = take(voxels, start + static_cast<long long>(me) * TAKE, total, wide);
        unsigned digit = 0, times = 0;  // a run of equal digits
        bool one = taken.count == TAKE;
#pragma unroll
        for (int i = 0; i < TAKE; i++) {
            const unsigned long long number = i < taken.count ? key(taken.voxel[i]) : 0;
            const unsigned now = static_cast<unsigned>(number >> shift) & (DIGITS - 1);
            const bool wanted = i < taken.count && counts(taken.voxel[i]) &&
                                (8 * sizeof(STORED) == 16 || sizeof(STORED) == 1 || shift + 16 == 8 * sizeof(STORED) ||
                                 number >> (shift + 16) % 64 == prefix);
            one = one && wanted && (i == 0 || now == digit);
            if (!wanted) continue;
            if (times && now != digit) {
                add(counters, digit, low, room, times);
                times = 0;
            }
            digit = now;
            times++;
        }
        const unsigned leader = __shfl_sync(0xffffffff, digit, 0);
        if (__all_sync(0xffffffff, one && digit == leader)) {
            if (me % 32 == 0) add(counters, digit, low, room, 32 * TAKE);
        } else if (times) {
            add(counters, digit, low, room, times);
        }
        if (++rounds < CARRY && start + step < total) continue;
        rounds = 0;
        __syncthreads();
        for (unsigned i = me; i < room / 2; i += MANY) {
            const unsigned two = counters[i];
            if (two & 0xffff) atomicAdd(&out[low + 2 * i], static_cast<unsigned long long>(two & 0xffff));
            if (two >> 16) atomicAdd(&out[low + 2 * i + 1], static_cast<unsigned long long>(two >> 16));
            counters[i] = 0;
        }
        __syncthreads();
    }
}
