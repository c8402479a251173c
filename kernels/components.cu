// Connected components of a label volume, without a label image: runs as bits, union of runs, sums per component.
//
// Launch order: find_runs, slice_components for the components of each slice; or find_runs, number_runs, join_runs or
// join_labels, name_components, measure_runs for those of the volume, for whole labels, and for slices so few and large
// that a block for each would leave the device idle. All get the same volume and `state`. Nothing waits for the host:
// how many runs and components there are stays on the device, in `state`; where `run_room` or `row_room` is too small,
// what is left does nothing, and the host reads what is needed.
//
// LABEL is the voxels' type of LABEL_BYTES; 0 and below is background. `voxels` has no gaps; `*_step` are distances in
// voxels.
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
#define LABEL_BITS 4   // bits that any label has
#define LACKED_BITS 5  // bits that any label lacks

// columns of a result row, along the axis of the runs, of the lines and of the slices
#define MAXIMA 7  // ~first, last + 1; ~first, last; ~first, last; ~raster position of the first voxel
#define SUMS 4    // voxels, and the sums of their three coordinates
#define KEY_COLUMN 6
#define LABEL_COLUMN 11
#define COLUMNS 12

#define THREADS 256
#define TILE_WORDS 4  // of number_runs, per thread
#define RUNS_PER_LANE 8

#define WINDOW (8 * LABEL_BYTES)  // 32-bit words that 32 voxels take

#if LABEL_BYTES < 4
#define EACH (4 / LABEL_BYTES)  // voxels in a 32-bit word; what follows looks at all of them at once
#define TOP_BITS (LABEL_BYTES == 1 ? 0x80808080u : 0x80008000u)

// The top bit of each voxel that is not 0, and of each that is foreground.
__device__ unsigned int not_zero(unsigned int voxels) {
    return (((voxels & ~TOP_BITS) + ~TOP_BITS) | voxels) & TOP_BITS;
}
__device__ unsigned int positive(unsigned int voxels) {
    return (LABEL)-1 < 0 ? not_zero(voxels) & ~voxels : not_zero(voxels);
}

// Top bits side by side. The factor moves the four to bits 28 .. 31, and nothing else there.
__device__ unsigned int squeeze(unsigned int top) {
    return LABEL_BYTES == 1 ? (top >> 7) * 0x10204080u >> 28 : (top >> 15 | top >> 30) & 3;
}
#endif

// Masks of 32 voxels; `before` is the one before them in the line, 0 at its start. `any_bits` and `all_bits` take in
// every label: they end up equal where there is but one.
__device__ uint2 masks_of(const unsigned int* window, LABEL before, unsigned long long& any_bits,
                          unsigned long long& all_bits) {
    unsigned int filled = 0, changed = 0;
#if LABEL_BYTES < 4
    const unsigned int full = LABEL_BYTES == 1 ? 0xff : 0xffff;  // times a voxel's lowest bit: all its bits
    unsigned int last = (unsigned int)before << (32 - 8 * LABEL_BYTES), any = 0, all = 0xffffffffu;
#pragma unroll
    for (unsigned int i = 0; i < WINDOW; i++) {
        unsigned int voxels = window[i], labels = positive(voxels);
        unsigned int covered = (labels >> (8 * LABEL_BYTES - 1)) * full;
        filled |= squeeze(labels) << i * EACH;
        changed |= squeeze(not_zero(voxels ^ __funnelshift_l(last, voxels, 8 * LABEL_BYTES))) << i * EACH;
        any |= voxels & covered;
        all &= voxels | ~covered;
        last = voxels;
    }
    for (unsigned int shift = 16; shift >= 8 * LABEL_BYTES; shift /= 2) {
        any |= any >> shift;
        all &= all >> shift;
    }
    any_bits = any & full;
    all_bits = all & full;
#else
    any_bits = 0;
    all_bits = ~0ull;
#pragma unroll
    for (unsigned int i = 0; i < 32; i++) {
#if LABEL_BYTES == 8
        LABEL value = (LABEL)((unsigned long long)window[2 * i + 1] << 32 | window[2 * i]);
#else
        LABEL value = (LABEL)window[i];
#endif
        filled |= (unsigned int)(value > 0) << i;
        changed |= (unsigned int)(value != before) << i;
        any_bits |= value > 0 ? (unsigned long long)value : 0;
        all_bits &= value > 0 ? (unsigned long long)value : ~0ull;
        before = value;
    }
#endif
    return make_uint2(filled, filled & changed);
}

// Set the voxels from `filled` on, of 32, to 0.
__device__ void clear_from(unsigned int* window, unsigned int filled) {
    unsigned int bits = filled * 8 * LABEL_BYTES;
#pragma unroll
    for (unsigned int i = 0; i < WINDOW; i++)
        if (bits < 32 * i + 32) window[i] &= bits <= 32 * i ? 0 : (1u << bits % 32) - 1;
}

// Put a voxel into its place of 32; the words must have been 0.
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

// Masks of every word of the volume, and whether it has more than one label. One thread makes one word.
// Lines along the memory: position_step is 1, threads follow the words. Lines across it (slices == the fastest
// axis): threads follow the slices, so that neighbouring threads read neighbouring voxels.
extern "C" __global__ void __launch_bounds__(THREADS)
find_runs(const LABEL* __restrict__ voxels, unsigned int slices, unsigned int lines, unsigned int length,
          long long slice_step, long long line_step, long long position_step, long long count, uint2* __restrict__ bits,
          unsigned long long* state) {
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
        if (filled < 32) clear_from(window, filled);
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
        unsigned long long any_bits, all_bits;
        masks = masks_of(window, word ? voxels[from - position_step] : (LABEL)0, any_bits, all_bits);
        volatile unsigned long long* known = state;  // mostly nothing new: reading is cheaper than an atomic
        if (masks.x && any_bits & ~known[LABEL_BITS]) atomicOr(&state[LABEL_BITS], any_bits);
        if (masks.x && ~all_bits & ~known[LACKED_BITS]) atomicOr(&state[LACKED_BITS], ~all_bits);
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

// A word of a line, and what is needed to find runs and voxels in it.
struct Word {
    uint2 masks;
    unsigned int carry;      // 1 where the voxel before bit 0 is foreground
    unsigned int first_run;  // number of the first run that starts in it
    const LABEL* voxels;     // of bit 0
};

// Join the runs of two words at the same position of two lines where they touch with equal labels; `same` says that
// there is but one label.
__device__ __forceinline__ void join_words(unsigned int* parents, const Word& mine, const Word& other,
                                           long long position_step, bool same, bool corners) {
    Contacts found = contacts(mine.masks, mine.carry, other.masks, other.carry, corners);
#pragma unroll 1
    for (unsigned int kind = 0; kind < 3; kind++) {
        unsigned int left = kind == 0 ? found.level : kind == 1 ? found.left : found.right;
        for (; left; left &= left - 1) {
            unsigned int bit = __ffs(int(left)) - 1;
            long long a_bit = (long long)bit - (kind == 2), b_bit = (long long)bit - (kind == 1);
            if (!same && mine.voxels[a_bit * position_step] != other.voxels[b_bit * position_step]) continue;
            unsigned int a = kind == 2 ? run_before(mine.first_run, mine.masks.y, bit)
                                       : run_at(mine.first_run, mine.masks.y, bit);
            unsigned int b = kind == 1 ? run_before(other.first_run, other.masks.y, bit)
                                       : run_at(other.first_run, other.masks.y, bit);
            unite(parents, a, b);
        }
    }
}

// Join all runs that touch: those of neighbouring lines, and where `volume`, of neighbouring slices.
// `connectivity` counts the axes along which neighbours may differ.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
join_runs(const LABEL* __restrict__ voxels, unsigned int slices, unsigned int lines, unsigned int length,
          long long slice_step, long long line_step, long long position_step, const uint2* __restrict__ bits,
          const unsigned int* __restrict__ first, unsigned int* parents, int connectivity, int volume,
          unsigned long long run_room, const unsigned long long* __restrict__ state) {
    if (state[RUNS] > run_room) return;
    unsigned int words = (length + 31) / 32;
    unsigned long long at = (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (unsigned long long)slices * lines * words) return;
    unsigned int word, line;
    unsigned long long slice = divide(divide(at, words, word), lines, line);
    Word mine = {bits[at], word > 0 ? bits[at - 1].x >> 31 : 0, first[at], 0};
    if (!(mine.masks.x | mine.carry)) return;
    mine.voxels = voxels + slice * slice_step + line * line_step + word * 32 * position_step;
    bool same = !(state[LABEL_BITS] & state[LACKED_BITS]);
    int most = !volume || slice == 0 ? 1 : connectivity == 1 ? 2 : 4;
    for (int neighbour = 0; neighbour < most; neighbour++) {  // the line before; in the slice before: it and its two
        int line_change = neighbour == 3 ? 1 : neighbour == 1 ? 0 : -1;
        if (line_change < 0 ? line == 0 : line + line_change >= lines) continue;
        unsigned long long there = at + (long long)line_change * words;
        if (neighbour) there -= (unsigned long long)lines * words;
        Word other = {bits[there], word > 0 ? bits[there - 1].x >> 31 : 0, first[there], 0};
        if (!(other.masks.x | other.carry)) continue;
        other.voxels = mine.voxels + line_change * line_step - (neighbour ? slice_step : 0);
        join_words(parents, mine, other, position_step, same, connectivity > 1 + (neighbour > 1));
    }
}

// Join all runs of one label, or where `by_slice`, of one label in one slice. `slots` is a hash table of run numbers
// + 1 with open addressing, zeros before; its size is a power of two above `run_room`.
extern "C" __global__ void __launch_bounds__(THREADS)
join_labels(unsigned int slice_words, unsigned int* parents, const unsigned long long* __restrict__ places,
            const LABEL* __restrict__ labels, int by_slice, unsigned int* slots, unsigned long long slot_mask,
            unsigned long long run_room, const unsigned long long* __restrict__ state) {
    if (state[RUNS] > run_room) return;
    for (unsigned long long run = (unsigned long long)blockIdx.x * THREADS + threadIdx.x; run < state[RUNS];
         run += (unsigned long long)gridDim.x * THREADS) {
        LABEL label = labels[run];
        unsigned int rest;
        unsigned long long slice = by_slice ? divide(places[run] / 32, slice_words, rest) : 0;
        unsigned long long hash = ((unsigned long long)label ^ slice << 32) * 0x9E3779B97F4A7C15ull;
        for (hash ^= hash >> 29;; hash++) {
            unsigned int other = atomicCAS(&slots[hash & slot_mask], 0u, (unsigned int)run + 1);
            if (other == 0) break;
            other--;
            if (labels[other] != label) continue;
            if (by_slice && divide(places[other] / 32, slice_words, rest) != slice) continue;
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

// What one thread of slice_components knows of one component. The slice, the first line and the raster position are
// put into the row by the component's first run; the sum of slice indices follows from the count.
struct Part {
    unsigned int start, stop, last_line, count;
    unsigned long long position_sum, line_sum;
};

__device__ __forceinline__ void add_part(unsigned long long* row, const Part& part) {
    atomicMax(&row[0], ~(unsigned long long)part.start);
    atomicMax(&row[1], (unsigned long long)part.stop);
    atomicMax(&row[3], (unsigned long long)part.last_line);
    atomicAdd(&row[7], (unsigned long long)part.count);
    atomicAdd(&row[8], part.position_sum);
    atomicAdd(&row[9], part.line_sum);
}

// Add every run to the row of its component, which is zeros before. A lane looks at RUNS_PER_LANE runs; those of the
// component that the warp's first run has are added up in registers, as one component may have all runs.
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
            unsigned long long* my_row = rows + component * (unsigned long long)COLUMNS;
            if (root == run) my_row[LABEL_COLUMN] = (unsigned long long)labels[run];
            if (component == main) {
#pragma unroll
                for (int i = 0; i < MAXIMA + SUMS; i++)
                    sums[i] = i < MAXIMA ? max(sums[i], values[i]) : sums[i] + values[i];
            } else {
                add_to_row(my_row, values);
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

#define SLICE_THREADS 384
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define SLICE_BLOCKS 2  // on a multiprocessor at once
#else
#define SLICE_BLOCKS 3
#endif
#define SHARED_RUNS 3072     // runs of a slice that are joined in shared memory: with three words each, 36 kB
#define LISTED 2048          // words with foreground that are listed, so that the others are looked at once only

// The words from `begin` to `end` that a warp of a block looks at, of `count` in all.
__device__ void warp_part(unsigned int count, unsigned int& begin, unsigned int& end) {
    unsigned int each = ((count + SLICE_THREADS - 1) / SLICE_THREADS) * 32;
    begin = min(count, threadIdx.x / 32 * each);
    end = min(count, begin + each);
}

// Rank of each component of a slice by its key, in place of the key; all keys differ. Few of them are compared each
// with each, many become marks whose prefix sums are the ranks. `marks` has a word for 32 keys.
__device__ void rank_keys(unsigned int* keys, unsigned int components, unsigned int most_keys, uint2* marks,
                          unsigned int* sums, unsigned long long* rows, unsigned long long slice_key) {
    if (components <= SLICE_THREADS) {
        unsigned int rank = 0, key = threadIdx.x < components ? keys[threadIdx.x] : 0;
        if (threadIdx.x < components)
            for (unsigned int i = 0; i < components; i++) rank += keys[i] < key;
        __syncthreads();
        if (threadIdx.x < components) {
            keys[threadIdx.x] = rank;
            rows[(unsigned long long)rank * COLUMNS + KEY_COLUMN] = ~(slice_key + key);
        }
        return;
    }
    unsigned int count = (most_keys - 1) / 32 + 1, begin, end, before, total;
    for (unsigned int i = threadIdx.x; i < count; i += SLICE_THREADS) marks[i].x = 0;
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < components; i += SLICE_THREADS)
        atomicOr(&marks[keys[i] / 32].x, 1u << keys[i] % 32);
    __syncthreads();
    warp_part(count, begin, end);
    unsigned int mine = 0;
    for (unsigned int i = begin + threadIdx.x % 32; i < end; i += 32) mine += __popc(marks[i].x);
    before = scan_warps(mine, sums, total);
    for (unsigned int row = begin; row < end; row += 32) {
        unsigned int i = row + threadIdx.x % 32, set = i < end ? __popc(marks[i].x) : 0, with_me = scan_warp(set);
        if (i < end) marks[i].y = before + with_me - set;
        before += __shfl_sync(0xffffffffu, with_me, 31);
    }
    __syncthreads();
    for (unsigned int i = threadIdx.x; i < components; i += SLICE_THREADS) {
        unsigned int key = keys[i];
        uint2 mark = marks[key / 32];
        unsigned int rank = mark.y + __popc(mark.x & ((1u << key % 32) - 1));
        keys[i] = rank;
        rows[(unsigned long long)rank * COLUMNS + KEY_COLUMN] = ~(slice_key + key);
    }
}

// All components of each slice, one block for a slice, rows in raster order. Slices of less than 2**32 voxels.
// What is known of runs lies in shared memory, or where there are too many of them in a part of `spill`, which has
// room for three words for each of `run_room` runs. `marks` has room for a word for each of `bits`, and is not read
// before it is written. state[RUNS] counts only the runs that need `spill`.
extern "C" __global__ void __launch_bounds__(SLICE_THREADS, SLICE_BLOCKS)
slice_components(const LABEL* __restrict__ voxels, unsigned int slices, unsigned int lines, unsigned int length,
                 long long slice_step, long long line_step, long long position_step, long long slice_weight,
                 long long line_weight, long long position_weight, const uint2* __restrict__ bits, unsigned int* first,
                 uint2* marks, unsigned int* spill, unsigned long long run_room, int connectivity,
                 unsigned long long* rows, unsigned long long row_room, unsigned long long* state,
                 unsigned long long* tiles) {
    __shared__ unsigned int sums[33], shared_runs[3 * SHARED_RUNS], list[LISTED], listed;
    __shared__ unsigned long long shared_place;
    unsigned int lane = threadIdx.x % 32, words = (length + 31) / 32, count = lines * words;
    if (threadIdx.x == 0) {
        shared_place = atomicAdd(&state[RUN_TILES], 1ull);
        listed = 0;
    }
    __syncthreads();
    unsigned long long slice = shared_place;
    bits += slice * count;
    first += slice * count;
    voxels += slice * slice_step;

    // How many runs, and where what is known of them lies
    unsigned int begin, end, mine = 0, runs;
    warp_part(count, begin, end);
#pragma unroll 8
    for (unsigned int i = begin + lane; i < end; i += 32) mine += __popc(bits[i].y);
    unsigned int run = scan_warps(mine, sums, runs);
    unsigned int* parents = shared_runs;
    unsigned int room = SHARED_RUNS;
    if (runs > SHARED_RUNS) {
        if (threadIdx.x == 0) shared_place = atomicAdd(&state[RUNS], (unsigned long long)runs);
        __syncthreads();
        parents = spill + 3 * shared_place;
        room = runs;
        if (shared_place + runs > run_room) runs = 0;
    }
    unsigned int *numbers = parents + room, *keys = numbers + room;

    // Numbers of the runs before each word; which words have foreground, or a run that ends just before them
    if (runs) {
        unsigned int carry = begin > 0 && begin < end ? bits[begin - 1].x >> 31 : 0;
#pragma unroll 4
        for (unsigned int row = begin; row < end; row += 32) {
            unsigned int i = row + lane;
            uint2 masks = i < end ? bits[i] : make_uint2(0, 0);
            if (!__ballot_sync(0xffffffffu, masks.x || (lane == 0 && carry))) continue;
            unsigned int starts = __popc(masks.y), with_me = scan_warp(starts), ends = masks.x >> 31;
            unsigned int ends_before = __shfl_up_sync(0xffffffffu, ends, 1);
            bool used = i < end && (masks.x || (lane ? ends_before : carry));
            unsigned int all_used = __ballot_sync(0xffffffffu, used), place = 0;
            if (lane == 0) place = atomicAdd(&listed, __popc(all_used));
            place = __shfl_sync(0xffffffffu, place, 0) + __popc(all_used & ((1u << lane) - 1));
            if (used) first[i] = run + with_me - starts;
            if (used && place < LISTED) list[place] = i;
            run += __shfl_sync(0xffffffffu, with_me, 31);
            carry = __shfl_sync(0xffffffffu, ends, 31);
        }
        for (unsigned int i = threadIdx.x; i < runs; i += SLICE_THREADS) parents[i] = i;
    }
    __syncthreads();
    bool by_list = listed <= LISTED;
    unsigned int to_look_at = by_list ? listed : count;

    // Join the runs of neighbouring lines
    if (runs) {
        bool same = !(state[LABEL_BITS] & state[LACKED_BITS]);
        for (unsigned int turn = threadIdx.x; turn < to_look_at; turn += SLICE_THREADS) {
            unsigned int i = by_list ? list[turn] : turn;
            if (i < words) continue;
            unsigned int there = i - words;
            Word here = {bits[i], bits[i - 1].x >> 31, 0, 0};
            Word other = {bits[there], there > 0 ? bits[there - 1].x >> 31 : 0, 0, 0};
            if (!(here.masks.x | here.carry) || !(other.masks.x | other.carry)) continue;
            unsigned int line = i / words, word = i - line * words;
            if (word == 0) here.carry = other.carry = 0;
            here.first_run = first[i];
            other.first_run = first[there];
            here.voxels = voxels + line * line_step + word * 32 * position_step;
            other.voxels = here.voxels - line_step;
            join_words(parents, here, other, position_step, same, connectivity > 1);
        }
    }
    __syncthreads();

    // Roots, and numbers for them in rising order
    unsigned int components;
    warp_part(runs, begin, end);
    mine = 0;
    for (unsigned int i = begin + lane; i < end; i += 32) {
        unsigned int root = find_root(parents, i);
        parents[i] = root;
        mine += root == i;
    }
    unsigned int number = scan_warps(mine, sums, components);
    for (unsigned int row = begin; row < end; row += 32) {
        unsigned int i = row + lane, is_root = i < end && parents[i] == i, with_me = scan_warp(is_root);
        if (is_root) numbers[i] = number + with_me - 1;
        number += __shfl_sync(0xffffffffu, with_me, 31);
    }
    if (threadIdx.x < 32) {
        unsigned long long before = look_back(tiles, slice, components);
        if (threadIdx.x == 0) {
            shared_place = before;
            if (slice == slices - 1) state[COMPONENTS] = before + components;
        }
    }
    __syncthreads();
    if (components == 0 || shared_place + components > row_room) return;
    rows += shared_place * COLUMNS;

    // Places of their rows; runs come in raster order unless lines lie along the rows of the slice
    bool turned = line_weight < position_weight;
    if (turned) {
        for (unsigned int i = threadIdx.x; i < components; i += SLICE_THREADS) keys[i] = 0xffffffffu;
        __syncthreads();
        for (unsigned int turn = threadIdx.x; turn < to_look_at; turn += SLICE_THREADS) {
            unsigned int i = by_list ? list[turn] : turn, left = bits[i].y;
            if (!left) continue;
            unsigned int at = first[i], line = i / words, word = i - line * words;
            for (; left; left &= left - 1, at++) {
                unsigned int start = word * 32 + __ffs(int(left)) - 1;
                atomicMin(&keys[numbers[parents[at]]], (unsigned int)(line * line_weight + start * position_weight));
            }
        }
        __syncthreads();
        rank_keys(keys, components, lines * length, marks + slice * count, sums, rows, slice * slice_weight);
        __syncthreads();
    }

    // Sums; a thread adds up what it has of one component before it puts it into the row
    unsigned long long* row = 0;
    Part part = {};
    for (unsigned int turn = threadIdx.x; turn < to_look_at; turn += SLICE_THREADS) {
        unsigned int i = by_list ? list[turn] : turn, left = bits[i].y;
        if (!left) continue;
        unsigned int at = first[i], line = i / words, word = i - line * words;
        for (; left; left &= left - 1, at++) {
            unsigned int bit = __ffs(int(left)) - 1, root = parents[at], place = numbers[root];
            if (turned) place = keys[place];
            unsigned long long* my_row = rows + (unsigned long long)place * COLUMNS;
            unsigned int start = word * 32 + bit, size = run_length(bits + line * words, words, word, bit);
            if (my_row != row) {
                if (row) add_part(row, part);
                row = my_row;
                part = {start, 0, 0, 0, 0, 0};
            }
            part.start = min(part.start, start);
            part.stop = max(part.stop, start + size);
            part.last_line = max(part.last_line, line);
            part.count += size;
            part.position_sum += (2ull * start + size - 1) * size / 2;
            part.line_sum += (unsigned long long)line * size;
            if (root != at) continue;
            row[2] = ~(unsigned long long)line;  // the root is the component's first run, so in its first line
            row[4] = ~slice;
            row[5] = slice;
            row[LABEL_COLUMN] = (unsigned long long)voxels[line * line_step + (long long)start * position_step];
            if (!turned) row[KEY_COLUMN] = ~(slice * slice_weight + line * line_weight + start * position_weight);
        }
    }
    if (row) add_part(row, part);
}
