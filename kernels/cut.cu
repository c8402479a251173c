// Slice images out of a volume: permute, pad, rescale, normalise, round and cast, each voxel read once, each pixel
// written once.
//
// A pixel is clip((stored - shift) * gain + base, low, high) in float64, rounded once to PIXEL (halves to even): the
// arithmetic of voxtract.compute.normalize.PixelRule, bit for bit. So no fused multiply-add: __dmul_rn, __dadd_rn and
// __dsub_rn are never contracted. With COPY defined, a pixel is the stored number itself.
//
// cut_transposed: the voxels run along another axis (f) than the columns of the image (c), as in every view of a volume
// read from NIfTI. A block moves a tile of 128 bytes of f times 64 columns (128 of single bytes) through shared memory:
// warps read along f and write along c, 16 bytes per thread on both sides where the memory is so aligned. All 16-byte
// stores to the tile are free of bank conflicts; 16 bytes of skew after each group of columns that one thread
// takes keep its reads at two per bank or fewer. Where pixels are written one by one, lines are 132 bytes instead.
// cut_straight: they run along the columns (C order), or along no axis (gaps): rows of pixels, without shared memory.
//
// Sizes of one axis are below 2^31, offsets are 64-bit. Nothing depends on the order of threads or blocks.
//
// ALIGNED: defined where both sides are aligned to 16 bytes; the registers that the other paths take are not spent then.
// STORED, PIXEL: C types; STORED_HALF, PIXEL_HALF: that one is unsigned short and holds a float16.
#include "numbers.cuh"

#ifdef ALIGNED
#define WIDE_IN true
#define WIDE_OUT true
#else
#define WIDE_IN wide_in
#define WIDE_OUT wide_out
#endif

#ifdef PIXEL_HALF
#define PIXEL_IS_FLOAT 1
#else
#define PIXEL_IS_FLOAT (static_cast<PIXEL>(0.5f) != static_cast<PIXEL>(0))
#endif

constexpr int THREADS = 256;
constexpr int LINE = 128;                             // bytes that a tile reads along f
constexpr int RUN = LINE / sizeof(STORED);            // voxels of them
constexpr int COLUMNS = sizeof(PIXEL) == 1 ? 128 : 64;  // that a tile writes; launched so by backend/cuda_cut.py
constexpr int TAKE = 16 / sizeof(STORED);             // voxels in 16 bytes
constexpr int GIVE = 16 / sizeof(PIXEL);              // pixels in 16 bytes
constexpr int ROUNDS = COLUMNS * 8 / THREADS;         // 16-byte reads of each thread, all under way at once
constexpr int STEP = THREADS / RUN;                   // lines read at once where voxels are read one by one ...
constexpr int BATCH = COLUMNS / STEP < 8 ? COLUMNS / STEP : 8;  // ... and such reads of a thread under way at once

struct Rule {
    double shift, gain, base, low, high;
    int keep_infinite;  // low and high are for finite numbers
};

union Sixteen {
    uint4 all;
    PIXEL pixel[GIVE];
};

__device__ __forceinline__ PIXEL rounded(double value) {
#ifdef PIXEL_HALF
    return to_half(value);
#else
    if (PIXEL_IS_FLOAT) return sizeof(PIXEL) == 4 ? static_cast<PIXEL>(to_float(value)) : static_cast<PIXEL>(value);
    // Numbers below 2^32 have been made sure of: they sit in the low word of a float64 near 1.5 * 2^52, rounded.
    return static_cast<PIXEL>(static_cast<unsigned>(__double_as_longlong(__dadd_rn(value, 0x1.8p52))));
#endif
}

__device__ __forceinline__ PIXEL to_pixel(STORED stored, const Rule& rule) {
#ifdef COPY
#if defined(STORED_HALF) && defined(PIXEL_HALF)
    return stored;
#elif defined(STORED_HALF)
    return static_cast<PIXEL>(rounded(from_half(stored)));
#elif defined(PIXEL_HALF)
    return to_half(static_cast<double>(stored));
#else
    if (STORED_IS_FLOAT && sizeof(STORED) == 4 && sizeof(PIXEL) == 8)
        return static_cast<PIXEL>(from_float(static_cast<float>(stored)));
    return static_cast<PIXEL>(stored);
#endif
#else
    double value = widened(stored);
    double result = __dadd_rn(__dmul_rn(__dsub_rn(value, rule.shift), rule.gain), rule.base);
    if (STORED_IS_FLOAT && result != result) {
        if (!PIXEL_IS_FLOAT) result = 0.0;
        else result = value != value ? value : not_a_number(1, 0);  // infinity times 0, as x86-64 has it
    }
    if (result < rule.low) result = rule.keep_infinite && !is_finite(result) ? result : rule.low;
    if (result > rule.high) result = rule.keep_infinite && !is_finite(result) ? result : rule.high;
    return rounded(result);
#endif
}

// Axes: f is the fastest of the volume, c the columns, t the third one. Voxel (f, c, t) lies at
// first_voxel + f + c * voxel_c + t * voxel_t, pixel (f, c, t) at first_pixel + f * pixel_f + c + t * pixel_t. Pixels
// of f go from f_low (below 0 where padded) to before f_high; c counts pixels of a row of `width`, its first voxel is
// pixel c_pad; t likewise. Tiles begin at f_begin, where 16-byte reads are aligned.
extern "C" __global__ void __launch_bounds__(256, 3)
    cut_transposed(const STORED* __restrict__ voxels, PIXEL* __restrict__ pixels, long long first_voxel,
                   long long voxel_c, long long voxel_t, long long first_pixel, long long pixel_f, long long pixel_t,
                   int f_begin, int f_low, int f_high, int f_count, int c_pad, int c_count, int width, int t_pad,
                   int t_count, int f_tiles, int c_tiles, double pad_value, double shift, double gain, double base,
                   double low, double high, int keep_infinite, int wide_in, int wide_out) {
    __shared__ uint4 room[COLUMNS * (LINE + 8) / 16];
    unsigned char* tile = reinterpret_cast<unsigned char*>(room);
    const Rule rule = {shift, gain, base, low, high, keep_infinite};
    const int me = threadIdx.x;
    const int pitch = WIDE_OUT ? LINE : LINE + (sizeof(STORED) == 8 ? 8 : 4), skew = WIDE_OUT ? 16 : 0;
    unsigned number = blockIdx.x;
    const int f_first = f_begin + static_cast<int>(number % f_tiles) * RUN;
    number /= f_tiles;
    const int c_first = static_cast<int>(number % c_tiles) * COLUMNS;
    const int t = static_cast<int>(number / c_tiles);
    const bool t_inside = t >= t_pad && t < t_pad + t_count && c_count > 0;
    const long long from = first_voxel + (t - t_pad) * voxel_t - c_pad * voxel_c;

    if (t_inside && WIDE_IN) {
        uint4 read[ROUNDS];
        const int f = f_first + me % 8 * TAKE;
        const bool whole = f >= 0 && f + TAKE <= f_count;
#pragma unroll
        for (int round = 0; round < ROUNDS; round++) {
            const int c = c_first + me / 8 + round * (THREADS / 8);
            if (whole && c >= c_pad && c < c_pad + c_count)
                read[round] = *reinterpret_cast<const uint4*>(voxels + from + c * voxel_c + f);
        }
#pragma unroll
        for (int round = 0; round < ROUNDS; round++) {
            const int line = me / 8 + round * (THREADS / 8), c = c_first + line;
            unsigned char* to = tile + line * pitch + line / GIVE * skew + me % 8 * 16;
            if (c < c_pad || c >= c_pad + c_count) continue;
            if (whole && WIDE_OUT) {
                *reinterpret_cast<uint4*>(to) = read[round];
            } else if (whole) {
                unsigned* words = reinterpret_cast<unsigned*>(to);
                words[0] = read[round].x, words[1] = read[round].y, words[2] = read[round].z, words[3] = read[round].w;
            } else {
                for (int i = 0; i < TAKE; i++)
                    if (f + i >= 0 && f + i < f_count)
                        reinterpret_cast<STORED*>(to)[i] = voxels[from + c * voxel_c + f + i];
            }
        }
    } else if (t_inside) {
        const int run = me % RUN, f = f_first + run;
        if (f >= 0 && f < f_count) {
#pragma unroll 1
            for (int line = me / RUN; line < COLUMNS; line += BATCH * STEP) {
                STORED read[BATCH];
#pragma unroll
                for (int k = 0; k < BATCH; k++) {  // what lies outside is read from the edge, and not used
                    const int c = max(c_pad, min(c_first + line + k * STEP, c_pad + c_count - 1));
                    read[k] = voxels[from + c * voxel_c + f];
                }
#pragma unroll
                for (int k = 0; k < BATCH; k++) {
                    const int at = line + k * STEP;
                    reinterpret_cast<STORED*>(tile + at * pitch + at / GIVE * skew)[run] = read[k];
                }
            }
        }
    }
    __syncthreads();

    const PIXEL pad = rounded(pad_value);
    const long long to = first_pixel + t * pixel_t;
    if (WIDE_OUT) {
        constexpr int LANES = COLUMNS / GIVE;
#pragma unroll 1
        for (int i = me; i < RUN * LANES; i += THREADS) {
            const int line = i % LANES * GIVE, c = c_first + line, run = i / LANES, f = f_first + run;
            if (f < f_low || f >= f_high || c >= width) continue;
            const unsigned char* stored = tile + line * pitch + line / GIVE * skew;
            const bool f_inside = t_inside && f >= 0 && f < f_count;
            Sixteen out;
            if (f_inside && c >= c_pad && c + GIVE <= c_pad + c_count) {
#pragma unroll
                for (int k = 0; k < GIVE; k++)
                    out.pixel[k] = to_pixel(reinterpret_cast<const STORED*>(stored + k * LINE)[run], rule);
            } else {
#pragma unroll
                for (int k = 0; k < GIVE; k++)
                    out.pixel[k] = f_inside && c + k >= c_pad && c + k < c_pad + c_count
                                       ? to_pixel(reinterpret_cast<const STORED*>(stored + k * LINE)[run], rule)
                                       : pad;
            }
            *reinterpret_cast<uint4*>(pixels + to + f * pixel_f + c) = out.all;
        }
    } else {
#pragma unroll 2
        for (int i = me; i < RUN * COLUMNS; i += THREADS) {
            const int line = i % COLUMNS, c = c_first + line, run = i / COLUMNS, f = f_first + run;
            if (f < f_low || f >= f_high || c >= width) continue;
            const bool inside = t_inside && f >= 0 && f < f_count && c >= c_pad && c < c_pad + c_count;
            pixels[to + f * pixel_f + c] =
                inside ? to_pixel(reinterpret_cast<const STORED*>(tile + line * pitch)[run], rule) : pad;
        }
    }
}

constexpr int BYTES = GIVE * sizeof(STORED);                // read for 16 bytes of pixels
constexpr int TOGETHER = BYTES >= 32 ? 1 : 32 / BYTES;      // of them by one thread at once: 32 bytes under way
constexpr int ALIGNMENT = BYTES < 16 ? BYTES : 16;

struct __align__(ALIGNMENT) Voxels {
    STORED voxel[GIVE];
};

// Voxel (row, column) of slice s lies at first_voxel + s * voxel_s + row * voxel_r + column * voxel_c. Rows of `height`
// images follow each other; a row has `parts` pieces of 16 bytes (wide_out) or one pixel; `total` pieces in all.
extern "C" __global__ void __launch_bounds__(256)
    cut_straight(const STORED* __restrict__ voxels, PIXEL* __restrict__ pixels, long long first_voxel, long long voxel_s,
                 long long voxel_r, long long voxel_c, int height, int r_pad, int r_count, int width, int c_pad,
                 int c_count, int parts, long long total, double pad_value, double shift, double gain, double base,
                 double low, double high, int keep_infinite, int wide_in, int wide_out) {
    const Rule rule = {shift, gain, base, low, high, keep_infinite};
    const PIXEL pad = rounded(pad_value);
    const long long begin = static_cast<long long>(blockIdx.x) * (THREADS * TOGETHER);
    const long long line_begin = begin / parts;
    const unsigned part_begin = static_cast<unsigned>(begin - line_begin * parts);
    Voxels read[TOGETHER];
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        const unsigned piece = part_begin + k * THREADS + threadIdx.x;
        const long long line = line_begin + piece / parts;
        const int row = static_cast<int>(line % height) - r_pad, r_inside = row >= 0 && row < r_count;
        const int column = static_cast<int>(piece % parts) * (WIDE_OUT ? GIVE : 1) - c_pad;
        if (begin + k * THREADS + threadIdx.x >= total || !r_inside || c_count == 0) continue;
        const STORED* from = voxels + first_voxel + line / height * voxel_s + row * voxel_r;
        if (WIDE_IN && WIDE_OUT && column >= 0 && column + GIVE <= c_count) {  // single pixels begin anywhere
            read[k] = *reinterpret_cast<const Voxels*>(from + column);
        } else {
#pragma unroll
            for (int i = 0; i < GIVE; i++) {  // what lies outside is read from the edge, and not used
                const int inside = max(0, min(column + i, c_count - 1));
                if (i == 0 || WIDE_OUT) read[k].voxel[i] = from[inside * voxel_c];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) {
        const unsigned piece = part_begin + k * THREADS + threadIdx.x;
        const long long line = line_begin + piece / parts;
        const int row = static_cast<int>(line % height) - r_pad, r_inside = row >= 0 && row < r_count;
        const int column = static_cast<int>(piece % parts) * (WIDE_OUT ? GIVE : 1) - c_pad;
        if (begin + k * THREADS + threadIdx.x >= total) continue;
        PIXEL* to = pixels + line * width + column + c_pad;
        if (!WIDE_OUT) {
            *to = r_inside && column >= 0 && column < c_count ? to_pixel(read[k].voxel[0], rule) : pad;
            continue;
        }
        Sixteen out;
#pragma unroll
        for (int i = 0; i < GIVE; i++)
            out.pixel[i] =
                r_inside && column + i >= 0 && column + i < c_count ? to_pixel(read[k].voxel[i], rule) : pad;
        *reinterpret_cast<uint4*>(to) = out.all;
    }
}
