// Stored numbers as float64 and back, bit for bit as NumPy on x86-64 does it: also NaN keeps its sign and payload, which
// a device would replace. float16 travels as its 16 bits, since no header of the toolkit is needed for that.
//
// STORED: C type of a stored number; with STORED_HALF defined, STORED is unsigned short and holds a float16.

#ifdef STORED_HALF
#define STORED_IS_FLOAT 1
#else
#define STORED_IS_FLOAT (static_cast<STORED>(0.5f) != static_cast<STORED>(0))
#endif

__device__ __forceinline__ double not_a_number(unsigned long long sign, unsigned long long payload) {
    return __longlong_as_double(static_cast<long long>(sign << 63 | 0x7ffull << 52 | 1ull << 51 | payload));
}

__device__ __forceinline__ double from_half(unsigned short half) {
    unsigned long long sign = half >> 15, exponent = half >> 10 & 31, rest = half & 1023;
    if (exponent == 31) {
        if (rest) return not_a_number(sign, rest << 42);
        return __longlong_as_double(static_cast<long long>(sign << 63 | 0x7ffull << 52));
    }
    if (exponent == 0) {
        double tiny = static_cast<double>(rest) * 0x1p-24;
        return sign ? -tiny : tiny;
    }
    return __longlong_as_double(static_cast<long long>(sign << 63 | (exponent + 1008) << 52 | rest << 42));
}

// Rounds to the nearest float16, halves to even; what is too large becomes infinite.
__device__ __forceinline__ unsigned short to_half(double value) {
    unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(value));
    unsigned short sign = static_cast<unsigned short>(bits >> 48 & 0x8000);
    bits &= ~(1ull << 63);
    double size = __longlong_as_double(static_cast<long long>(bits));
    if (value != value) return static_cast<unsigned short>(sign | 0x7e00 | (bits >> 42 & 0x1ff));
    if (size >= 65520.0) return static_cast<unsigned short>(sign | 0x7c00);
    // Below 2^-14 all float16 lie 2^-24 apart, as float64 do at 2^28: adding that rounds.
    if (size < 0x1p-14) return static_cast<unsigned short>(sign | (__double_as_longlong(__dadd_rn(size, 0x1p28)) & 0x7ff));
    bits += (1ull << 41) - 1 + (bits >> 42 & 1);
    return static_cast<unsigned short>(sign | ((bits >> 42) - (1008ull << 10)));
}

__device__ __forceinline__ double from_float(float value) {
    if (value == value) return value;
    unsigned bits = __float_as_uint(value);
    return not_a_number(bits >> 31, static_cast<unsigned long long>(bits & 0x3fffff) << 29);
}

__device__ __forceinline__ float to_float(double value) {
    if (value == value) return static_cast<float>(value);
    unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(value));
    return __uint_as_float(static_cast<unsigned>(bits >> 32 & 0x80000000) | 0x7fc00000u |
                           static_cast<unsigned>(bits >> 29 & 0x3fffff));
}

// Integers of up to 32 bits sit in the low word of a float64 near 2^52; taking 2^52 off is exact, and four times as fast
// as the conversion that a multiprocessor does 16 of per clock.
__device__ __forceinline__ double from_signed(int value) {
    unsigned long long bits = 0x433ull << 52 | (static_cast<unsigned>(value) ^ 0x80000000u);
    return __dsub_rn(__longlong_as_double(static_cast<long long>(bits)), 0x1p52 + 0x1p31);
}

__device__ __forceinline__ double from_unsigned(unsigned value) {
    return __dsub_rn(__longlong_as_double(static_cast<long long>(0x433ull << 52 | value)), 0x1p52);
}

__device__ __forceinline__ double widened(STORED stored) {
#ifdef STORED_HALF
    return from_half(stored);
#else
    if (STORED_IS_FLOAT) return sizeof(STORED) == 4 ? from_float(static_cast<float>(stored)) : static_cast<double>(stored);
    if (sizeof(STORED) == 8) return static_cast<double>(stored);
    bool has_sign = static_cast<STORED>(-1) < static_cast<STORED>(0);
    return has_sign ? from_signed(static_cast<int>(stored)) : from_unsigned(static_cast<unsigned>(stored));
#endif
}

__device__ __forceinline__ bool is_finite(double value) { return value - value == 0.0; }
