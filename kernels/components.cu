// Connected components of a label volume, without a label image: runs as bits, union of runs, sums per component.
//
// Launch order: find_runs, number_runs, join_runs or join_labels, name_components, measure_runs; all with the same
// volume and `state`. Nothing waits for the host: how many runs and components there are stays on the device, in
// `state`; where `run_room` or `row_room` is too small, what is left does nothing and the host reads what it needs.
//
// LABEL is the voxels' type of LABEL_BYTES; 0 and below is background. `voxels` has no gaps; `*_step` are distances in voxels.
// Offsets of voxels and words take 64 bits, numbers of runs 32: at most 2**32 - 2 runs.
//
// The masks follow HA4 (Hennequin, Lacassagne, DASIP 2018); here a lane looks at all voxels of a word, so that no
// vote is needed and lines can lie across the memory. Result rows are made of maxima and sums over zeros; minima are
// kept as maxima of the complement.
#include "runs.cuh"
#include "scan.cuh"

// words of `state`; zeros before the first launch
#define RUNS 0         // how many runs there are
#define COMPONENTS 1   // how many components
#define RUN_TILES 2    // tiles of words taken by number_runs
#define NAME_TILES 3   // tiles of runs taken by name_components
#define HIGH_LABEL 4   // the highest label
#define LOW_LABEL 5    // the complement of the lowest one

// columns of a result row, along the axis of the runs, of the lines and of the slices
#define MAXIMA 7  // ~first, last + 1; ~first, last; ~first, last; ~raster position of the first voxel
#define SUMS 4    // voxels, and the sums of their three coordinates
#define LABEL_COLUMN 11
#define COLUMNS 12

#define THREADS 256
#define TILE_WORDS 4  // of number_runs, per thread
#define RUNS_PER_LANE 8

#define WINDOW (8 * LABEL_BYTES)  // 32-bit words that 32 voxels take

// Voxel `i` of 32 that lie in 32-bit words.
__device__ LABEL voxel_in(const unsigned int* window, unsigned int i) {
#if LABEL_BYTES == 8
    return (LABEL)((unsigned long long)window[2 * i + 1] << 32 | window[2 * i]);
#else
    const unsigned int each = 4 / LABEL_BYTES;
    return (LABEL)(window[i / each] >> i % each * 8 * LABEL_BYTES);
#endif
}

// The other way round; the words must have been 0.
__device__ void put_voxel(unsigned int* window, unsigned int i, LABEL value) {
#if LABEL_BYTES == 8
    window[2 * i] = (unsigned int)value;
    window[2 * i + 1] = (unsigned int)((unsigned long long)value >> 32);
#else
    const unsigned int each = 4 / LABEL_BYTES;
    unsigned int low = (unsigned int)value & (0xffffffffu >> (32 - 8 * LABEL_BYTES));
    window[i / each] |= low << i % each * 8 * LABEL_BYTES;
#endif
}

// 32 voxels from `from` on, which may have any alignment, in words. All must lie inside the volume.
__device__ void load_window(const LABEL* voxels, long long from, unsigned int* window) {
    const unsigned char* bytes = (const unsigned char*)(voxels + from);
    unsigned int odd = (unsigned int)((unsigned long long)bytes & 15);
    if (odd == 0) {
#pragma unroll
        for (unsigned int i = 0; i < WINDOW / 4; i++) {
            uint4 four = __ldcs((const uint4*)bytes + i);
            window[4 * i] = four.x, window[4 * i + 1] = four.y, window[4 * i + 2] = four.z, window[4 * i + 3] = four.w;
        }
        return;
    }
    odd %= 4;
    const unsigned int* aligned = (const unsigned int*)(bytes - odd);
#pragma unroll
    for (unsigned int i = 0; i < WINDOW; i++) window[i] = aligned[i];
    if (odd) {
        unsigned int past = aligned[WINDOW];
#pragma unroll
        for (unsigned int i = 0; i < WINDOW; i++)
            window[i] = __funnelshift_r(window[i], i + 1 < WINDOW ? window[i + 1] : past, odd * 8);
    }
}

__device__ bool window_fits(const LABEL* voxels, long long count, long long from) {
    unsigned long long low = (unsigned long long)(voxels + from) & ~3ull;
    unsigned long long high = ((unsigned long long)(voxels + from + 32) + 3) & ~3ull;
    return low >= (unsigned long long)voxels && high <= (unsigned long long)(voxels + count);
}

// Masks of every word of the volume, and the range of its labels. One thread makes one word.
// Lines along the memory: position_step is 1, threads follow the words. Lines across it (slices == the fastest
// axis): threads follow the slices, so that neighbouring threads read neighbouring voxels.
extern "C" __global__ void __launch_bounds__(THREADS)
find_runs(const LABEL* __restrict__ voxels, long long count, unsigned int slices, unsigned int lines, unsigned int length,
          long long slice_step, long long line_step, long long position_step, uint2* __restrict__ bits,
          unsigned long long* __restrict__ state) {
    unsigned int words = (length + 31) / 32;
    unsigned long long thread = (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
    if (thread >= (unsigned long long)slices * lines * words) return;
    unsigned int slice, line, word;
    bool across = position_step != 1;
    if (across)
        line = (unsigned int)divide(divide(thread, slices, slice), words, word);
    else
        slice = (unsigned int)divide(divide(thread, words, word), lines, line);
    unsigned int filled = min(32u, length - word * 32);
    long long from = slice * slice_step + line * line_step + word * 32 * position_step;

    unsigned int window[WINDOW], any = 0;
    if (!across && window_fits(voxels, count, from)) {
        load_window(voxels, from, window);
    } else {
#pragma unroll
        for (unsigned int i = 0; i < WINDOW; i++) window[i] = 0;
#pragma unroll
        for (unsigned int i = 0; i < 32; i++)
            if (i < filled) put_voxel(window, i, voxels[from + i * position_step]);
    }
#pragma unroll
    for (unsigned int i = 0; i < WINDOW; i++) any |= window[i];

    uint2 masks = make_uint2(0, 0);
    if (any) {
        LABEL before = word ? voxels[from - position_step] : (LABEL)0, high = 0, low = 0;
#pragma unroll
        for (unsigned int i = 0; i < 32; i++) {
            LABEL value = voxel_in(window, i);
            if (value > 0 && i < filled) {
                masks.x |= 1u << i;
                if (value != before) masks.y |= 1u << i;
                high = max(high, value);
                low = low == 0 ? value : min(low, value);
            }
            before = value;
        }
        volatile unsigned long long* known = state;
        if (high > 0 && (unsigned long long)high > known[HIGH_LABEL])
            atomicMax(&state[HIGH_LABEL], (unsigned long long)high);
        if (high > 0 && ~(unsigned long long)low > known[LOW_LABEL])
            atomicMax(&state[LOW_LABEL], ~(unsigned long long)low);
    }
    bits[across ? ((unsigned long long)slice * lines + line) * words + word : thread] = masks;
}

// Sum of the runs before each word, and what is known of each run. Tiles of words are taken in rising order.
extern "C" __global__ void __launch_bounds__(THREADS)
number_runs(const LABEL* __restrict__ voxels, unsigned int slices, unsigned int lines, unsigned int length,
            long long slice_step, long long line_step, long long position_step, const uint2* __restrict__ bits,
            unsigned int* __restrict__ first, unsigned int* __restrict__ parents,
            unsigned long long* __restrict__ places, LABEL* __restrict__ labels, unsigned long long run_room,
            unsigned long long* state, unsigned long long* tiles) {
    __shared__ unsigned int sums[33];
    __shared__ unsigned long long shared_tile, shared_before;
    unsigned int words = (length + 31) / 32;
    unsigned long long count = (unsigned long long)slices * lines * words;
    unsigned long long tile_count = (count + THREADS * TILE_WORDS - 1) / (THREADS * TILE_WORDS);
    for (;;) {
        if (threadIdx.x == 0) shared_tile = atomicAdd(&state[RUN_TILES], 1ull);
        __syncthreads();
        unsigned long long tile = shared_tile;
        if (tile >= tile_count) return;
        unsigned long long at = (tile * THREADS + threadIdx.x) * TILE_WORDS;
        unsigned int starts[TILE_WORDS], mine = 0, total;
#pragma unroll
        for (int i = 0; i < TILE_WORDS; i++) {
            starts[i] = at + i < count ? bits[at + i].y : 0;
            mine += __popc(starts[i]);
        }
        unsigned int before_me = scan_block(mine, sums, total);
        if (threadIdx.x < 32) {
            unsigned long long before = look_back(tiles, tile, total);
            if (threadIdx.x == 0) {
                shared_before = before;
                if (tile == tile_count - 1) state[RUNS] = before + total;
            }
        }
        __syncthreads();
        unsigned long long run = shared_before + before_me;
#pragma unroll
        for (int i = 0; i < TILE_WORDS; i++) {
            if (at + i >= count) break;
            first[at + i] = (unsigned int)run;
            unsigned int slice, line, word;
            if (starts[i]) slice = (unsigned int)divide(divide(at + i, words, word), lines, line);
            for (unsigned int left = starts[i]; left; left &= left - 1, run++) {
                if (run >= run_room) continue;
                unsigned int bit = __ffs(int(left)) - 1;
                parents[run] = (unsigned int)run;
                places[run] = (at + i) * 32 + bit;
                labels[run] = voxels[slice * slice_step + line * line_step + (word * 32 + bit) * position_step];
            }
        }
    }
}

// Join all runs that touch: those of neighbouring lines, and where `volume`, of neighbouring slices.
// `connectivity` counts the axes along which neighbours may differ.
extern "C" __global__ void __launch_bounds__(THREADS)
join_runs(unsigned int slices, unsigned int lines, unsigned int length, const uint2* __restrict__ bits,
          const unsigned int* __restrict__ first, unsigned int* parents, const LABEL* __restrict__ labels,
          int connectivity, int volume, unsigned long long run_room, const unsigned long long* __restrict__ state) {
    if (state[RUNS] > run_room) return;
    unsigned int words = (length + 31) / 32;
    unsigned long long at = (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (unsigned long long)slices * lines * words) return;
    uint2 mine = bits[at];
    unsigned int word, line;
    unsigned long long slice = divide(divide(at, words, word), lines, line);
    unsigned int carry = word > 0 ? bits[at - 1].x >> 31 : 0, here_first = first[at];
    if (!(mine.x | carry)) return;
    bool same = state[HIGH_LABEL] == ~state[LOW_LABEL];
    int most = !volume || slice == 0 ? 1 : connectivity == 1 ? 2 : 4;
    for (int neighbour = 0; neighbour < most; neighbour++) {  // the line before; in the slice before: this one, both sides
        int line_change = neighbour == 3 ? 1 : neighbour == 1 ? 0 : -1;
        if (line_change < 0 ? line == 0 : line + line_change >= lines) continue;
        unsigned long long there = at + (long long)line_change * words;
        if (neighbour) there -= (unsigned long long)lines * words;
        uint2 other = bits[there];
        unsigned int other_carry = word > 0 ? bits[there - 1].x >> 31 : 0;
        if (!(other.x | other_carry)) continue;
        Contacts found = contacts(mine, carry, other, other_carry, connectivity > 1 + (neighbour > 1));
        unsigned int there_first = first[there];
        for (int kind = 0; kind < 3; kind++) {
            unsigned int left = kind == 0 ? found.level : kind == 1 ? found.left : found.right;
            for (; left; left &= left - 1) {
                unsigned int bit = __ffs(int(left)) - 1;
                unsigned int a = kind == 2 ? run_before(here_first, mine.y, bit) : run_at(here_first, mine.y, bit);
                unsigned int b = kind == 1 ? run_before(there_first, other.y, bit) : run_at(there_first, other.y, bit);
                if (same || labels[a] == labels[b]) unite(parents, a, b);
            }
        }
    }
}

// Join all runs of one label, or where `by_slice`, of one label in one slice. `slots` is a hash table of run numbers
// + 1 with open addressing, zeros before; its size is a power of two above `run_room`.
extern "C" __global__ void __launch_bounds__(THREADS)
join_labels(unsigned long long slice_words, unsigned int* parents, const unsigned long long* __restrict__ places,
            const LABEL* __restrict__ labels, int by_slice, unsigned int* slots, unsigned long long slot_mask,
            unsigned long long run_room, const unsigned long long* __restrict__ state) {
    if (state[RUNS] > run_room) return;
    for (unsigned long long run = (unsigned long long)blockIdx.x * THREADS + threadIdx.x; run < state[RUNS];
         run += (unsigned long long)gridDim.x * THREADS) {
        LABEL label = labels[run];
        unsigned long long slice = by_slice ? places[run] / 32 / slice_words : 0;
        unsigned long long hash = ((unsigned long long)label ^ slice << 32) * 0x9E3779B97F4A7C15ull;
        for (hash ^= hash >> 29;; hash++) {
            unsigned int other = atomicCAS(&slots[hash & slot_mask], 0u, (unsigned int)run + 1);
            if (other == 0) break;
            other--;
            if (labels[other] != label || (by_slice && places[other] / 32 / slice_words != slice)) continue;
            unite(parents, other, (unsigned int)run);
            break;
        }
    }
}

// Root of every run, numbers for the roots in rising order.
extern "C" __global__ void __launch_bounds__(THREADS)
name_components(unsigned int* parents, unsigned int* __restrict__ numbers, unsigned long long run_room,
                unsigned long long* state, unsigned long long* tiles) {
    __shared__ unsigned int sums[33];
    __shared__ unsigned long long shared_tile, shared_before;
    unsigned long long runs = state[RUNS], tile_count = (runs + THREADS * TILE_WORDS - 1) / (THREADS * TILE_WORDS);
    if (runs > run_room) return;
    for (;;) {
        if (threadIdx.x == 0) shared_tile = atomicAdd(&state[NAME_TILES], 1ull);
        __syncthreads();
        unsigned long long tile = shared_tile;
        if (tile >= tile_count) return;
        unsigned long long at = (tile * THREADS + threadIdx.x) * TILE_WORDS;
        bool is_root[TILE_WORDS];
        unsigned int mine = 0, total;
#pragma unroll
        for (int i = 0; i < TILE_WORDS; i++) {
            is_root[i] = false;
            if (at + i >= runs) continue;
            unsigned int run = (unsigned int)(at + i), root = find_root(parents, run);
            is_root[i] = root == run;
            parents[run] = root;
            mine += is_root[i];
        }
        unsigned int before_me = scan_block(mine, sums, total);
        if (threadIdx.x < 32) {
            unsigned long long before = look_back(tiles, tile, total);
            if (threadIdx.x == 0) {
                shared_before = before;
                if (tile == tile_count - 1) state[COMPONENTS] = before + total;
            }
        }
        __syncthreads();
        unsigned long long number = shared_before + before_me;
#pragma unroll
        for (int i = 0; i < TILE_WORDS; i++) {
            if (is_root[i]) numbers[at + i] = (unsigned int)number++;
        }
    }
}

// Put values into the row of a component.
__device__ void add_to_row(unsigned long long* row, const unsigned long long* values) {
#pragma unroll
    for (int i = 0; i < MAXIMA; i++) atomicMax(&row[i], values[i]);
#pragma unroll
    for (int i = MAXIMA; i < MAXIMA + SUMS; i++) atomicAdd(&row[i], values[i]);
}

// Add every run to the row of its component, which is zeros before. A lane looks at RUNS_PER_LANE runs; those of the component that the
// warp's first run has are added up in registers, as one component may have all runs.
// `*_weight` are what a step along an axis adds to the raster position.
extern "C" __global__ void __launch_bounds__(THREADS)
measure_runs(unsigned int lines, unsigned int length, long long slice_weight, long long line_weight,
             long long position_weight, const uint2* __restrict__ bits, const unsigned int* __restrict__ parents,
             const unsigned long long* __restrict__ places, const LABEL* __restrict__ labels,
             const unsigned int* __restrict__ numbers, unsigned long long* rows, unsigned long long run_room,
             unsigned long long row_room, const unsigned long long* __restrict__ state) {
    unsigned long long runs = state[RUNS];
    if (runs > run_room || state[COMPONENTS] > row_room) return;
    unsigned int words = (length + 31) / 32, lane = threadIdx.x % 32;
    unsigned long long piece = 32 * RUNS_PER_LANE;
    unsigned long long begin = ((unsigned long long)blockIdx.x * (THREADS / 32) + threadIdx.x / 32) * piece;
    for (; begin < runs; begin += (unsigned long long)gridDim.x * (THREADS / 32) * piece) {
        unsigned int main = numbers[parents[begin]];
        unsigned long long sums[MAXIMA + SUMS] = {};
        for (int turn = 0; turn < RUNS_PER_LANE; turn++) {
            unsigned long long run = begin + turn * 32 + lane;
            if (run >= runs) break;
            unsigned int root = parents[run], component = numbers[root], word, line;
            unsigned long long at = places[run] / 32, row = divide(at, words, word), slice = divide(row, lines, line);
            unsigned int bit = (unsigned int)(places[run] % 32);
            unsigned long long start = word * 32 + bit, size = run_length(bits + row * words, words, word, bit);
            unsigned long long last = start + size - 1;
            unsigned long long values[MAXIMA + SUMS] = {
                ~start, last + 1, ~(unsigned long long)line, line, ~slice, slice,
                ~(slice * slice_weight + line * line_weight + start * position_weight),
                size, (start + last) * size / 2, line * size, slice * size};
            if (root == run) rows[component * (unsigned long long)COLUMNS + LABEL_COLUMN] = (unsigned long long)labels[run];
            if (component == main) {
#pragma unroll
                for (int i = 0; i < MAXIMA + SUMS; i++) sums[i] = i < MAXIMA ? max(sums[i], values[i]) : sums[i] + values[i];
            } else {
                add_to_row(rows + component * (unsigned long long)COLUMNS, values);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < MAXIMA + SUMS; i++) {
            for (int step = 16; step; step /= 2) {
                unsigned long long other = __shfl_xor_sync(0xffffffffu, sums[i], step);
                sums[i] = i < MAXIMA ? max(sums[i], other) : sums[i] + other;
            }
        }
        if (lane == 0) add_to_row(rows + main * (unsigned long long)COLUMNS, sums);
    }
}
