// Runs of equal label as bits, what touches, and the union of runs; shared by the kernels of components.cu.
//
// A volume is seen as slices of lines of voxels; a run is a stretch of one positive label in a line. Each 32 voxels of
// a line are a word of two masks: x has the voxels with a positive label, y those where a run starts. Words lie in the
// order slice, line, position, `words` to a line; bits past the end of a line are 0. Runs are numbered in the
// order of their start bits, so that the number of the run at a voxel is a prefix sum and a population count.

// Below 2**32 words, which is below 137 Gvoxel, this is a 32-bit division. Above, bit by bit, slowly: the compiler's
// own 64-bit division is a call, for which registers would be saved in every kernel.
__device__ unsigned long long divide(unsigned long long value, unsigned int by, unsigned int& rest) {
    if (value >> 32 == 0) {
        rest = (unsigned int)value % by;
        return (unsigned int)value / by;
    }
    unsigned long long quotient = 0, left = 0;
#pragma unroll 1
    for (int bit = 63; bit >= 0; bit--) {
        left = left << 1 | (value >> bit & 1);
        if (left < by) continue;
        left -= by;
        quotient |= 1ull << bit;
    }
    rest = (unsigned int)left;
    return quotient;
}

// Root of a run. Roots are the lowest number of their set; parents are never higher than their children.
__device__ unsigned int find_root(unsigned int* parents, unsigned int run) {
    volatile unsigned int* parent = parents;
    unsigned int next = parent[run];
    while (next != run) {
        unsigned int after = parent[next];
        if (after != next) parent[run] = after;  // halves the way for the next one; losing a race here loses nothing
        run = next;
        next = after;
    }
    return run;
}

// Join the sets of two runs. A root that another thread has hung elsewhere meanwhile is followed there
// (Komura, Comput. Phys. Commun. 194, 2015; Playne, Hawick, IEEE TPDS 29(6), 2018).
__device__ void unite(unsigned int* parents, unsigned int a, unsigned int b) {
    for (;;) {
        a = find_root(parents, a);
        b = find_root(parents, b);
        if (a == b) return;
        unsigned int low = min(a, b), high = max(a, b), old = atomicMin(&parents[high], low);
        if (old == high) return;
        a = low;
        b = old;
    }
}

// Where two lines touch, as bits that tell where each pair of touching runs begins to do so.
struct Contacts {
    unsigned int level;  // both runs at this bit
    unsigned int left;   // the run of the other line one bit earlier
    unsigned int right;  // the run of this line one bit earlier
};

// `mine` and `other` are words at the same position of two lines; `*_carry` is 1 where the voxel before bit 0 is
// foreground. Runs that touch only at a corner count where `corners`.
__device__ Contacts contacts(uint2 mine, unsigned int mine_carry, uint2 other, unsigned int other_carry, bool corners) {
    Contacts out = {mine.x & other.x & (mine.y | other.y), 0, 0};
    if (corners) {
        out.left = mine.y & (other.x << 1 | other_carry) & (other.y | ~other.x);
        out.right = other.y & (mine.x << 1 | mine_carry) & (mine.y | ~mine.x);
    }
    return out;
}

// Number of the run at `bit`, which must be foreground; `first` is the number of the first run that starts in the word.
__device__ unsigned int run_at(unsigned int first, unsigned int starts, unsigned int bit) {
    return first + __popc(starts & (0xffffffffu >> (31 - bit))) - 1;
}

// Number of the run at the voxel before `bit`.
__device__ unsigned int run_before(unsigned int first, unsigned int starts, unsigned int bit) {
    return first + __popc(starts & ((1u << bit) - 1)) - 1;
}

// Length of the run that starts at `bit` of word number `word` of its line.
__device__ unsigned int run_length(const uint2* line, unsigned int words, unsigned int word, unsigned int bit) {
    unsigned int start = word * 32 + bit;
    uint2 at = line[word];
    unsigned int ends = (~at.x | at.y) & ~(0xffffffffu >> (31 - bit));
    while (!ends) {
        if (++word == words) return words * 32 - start;
        at = line[word];
        ends = ~at.x | at.y;
    }
    return word * 32 + __ffs(int(ends)) - 1 - start;
}
