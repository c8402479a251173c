// Sums over a block, and over all blocks of a launch in one pass (decoupled look-back: Merrill, Garland, NVR-2016-002).

// Sum of `value` over the lanes of the warp up to and with this one.
__device__ unsigned int scan_warp(unsigned int value) {
    for (unsigned int step = 1; step < 32; step *= 2) {
        unsigned int other = __shfl_up_sync(0xffffffffu, value, step);
        if (threadIdx.x % 32 >= step) value += other;
    }
    return value;
}

// Sum of `value` over the threads of the block before this one; `total` is the sum over all. Blocks of whole warps.
// `sums` is 33 words of shared memory; the next use of it needs no barrier of its own.
__device__ unsigned int scan_block(unsigned int value, unsigned int* sums, unsigned int& total) {
    unsigned int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    unsigned int sum = scan_warp(value);
    __syncthreads();
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        unsigned int mine = lane < warps ? sums[lane] : 0, all = scan_warp(mine);
        if (lane < warps) sums[lane] = all - mine;
        if (lane == 31) sums[32] = all;
    }
    __syncthreads();
    total = sums[32];
    return sums[warp] + sum - value;
}

// Sum of the values of all threads of the warps before this one; `total` is that of all. For `value`s per lane.
__device__ unsigned int scan_warps(unsigned int value, unsigned int* sums, unsigned int& total) {
    unsigned int mine = __shfl_sync(0xffffffffu, scan_warp(value), 31);
    return __shfl_sync(0xffffffffu, scan_block(threadIdx.x % 32 ? 0 : mine, sums, total), 0);
}

// A tile's state: nothing yet (0), its own sum, or the sum up to and with it; the sums take the lower 62 bits.
#define OWN_SUM (1ull << 62)
#define FULL_SUM (2ull << 62)

// Sum of `total` over all tiles before `tile`, for a whole warp. Tiles must be taken in rising order by blocks that
// run, `states` be zero before the first. No tile waits for a later one, so this ends.
__device__ unsigned long long look_back(unsigned long long* states, unsigned long long tile, unsigned int total) {
    unsigned int lane = threadIdx.x % 32;
    if (lane == 0 && tile > 0) atomicExch(&states[tile], OWN_SUM | total);
    unsigned long long before = 0;
    for (unsigned long long end = tile; end > 0;) {  // tiles from `end` on are in `before`
        unsigned long long state = FULL_SUM;         // as if the tiles before the first were an empty one
        if (end > lane) {
            volatile unsigned long long* other = &states[end - 1 - lane];
            while ((state = *other) == 0) __nanosleep(20);
        }
        unsigned int full = __ballot_sync(0xffffffffu, (state & FULL_SUM) != 0);
        unsigned int used = full ? __ffs(int(full)) : 32;  // tiles up to the nearest one that knows the full sum
        unsigned long long part = lane < used ? state & (OWN_SUM - 1) : 0;
        for (int step = 16; step; step /= 2) part += __shfl_xor_sync(0xffffffffu, part, step);
        before += part;
        end = full ? 0 : end - 32;
    }
    if (lane == 0) atomicExch(&states[tile], FULL_SUM | (before + total));
    return before;
}
