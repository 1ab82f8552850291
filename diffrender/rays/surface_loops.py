"""The loops over a face's pixels, in C++ for `surface_kernel`: eight columns side by side on the CPU, one on CUDA.

A face of a fine mesh covers a few pixels, in rows of two or three: tried one after the other, whether each is covered
is a branch that no processor foresees. Eight at once have none: all get a depth, and those that are not covered 0.
"""

# V: a number of each column; L: a whole number of each.
VIEW = """
    // columns, row step, column step, row, column, distance; a ray's direction where its depth is 1 is (x, y, 1)
    const int columns = (int)detector.data[0];
    const double dx = detector.data[2] / detector.data[5], dy = detector.data[1] / detector.data[5];
    const double x_first = (0.5 - detector.data[4]) * dx, y_first = (0.5 - detector.data[3]) * dy;
"""
TYPES = """
#if defined(__CUDA_ARCH__)
    enum { B = 1, MOST = 1 };
    typedef double V;
    typedef wp::int64 L;
    const V ramp = 0;
    const L count = 0;
    #define NUMBERS(v) (double)(v)
    #define WHOLE(v) (wp::int64)(v)
    #define SOME_COVERED(v) ((v) >= 0)
    #define KEPT(v, outside) (v)
    #define ROOT(v) sqrt(v)
    #define ADDED(v) v
#else
    #pragma clang fp contract(on)
    enum { B = 8, MOST = 64 };
    typedef double V __attribute__((ext_vector_type(8)));
    typedef wp::int64 L __attribute__((ext_vector_type(8)));
    typedef int I __attribute__((ext_vector_type(8)));
    const V ramp = {0, 1, 2, 3, 4, 5, 6, 7};
    const L count = {0, 1, 2, 3, 4, 5, 6, 7};
    #define NUMBERS(v) __builtin_convertvector(v, V)
    #define WHOLE(v) __builtin_convertvector(v, L)
    #define SOME_COVERED(v) (__builtin_reduce_and(v) >= 0)
    #define KEPT(v, outside) ((v) & ((outside) >= 0))
    #define ROOT(v) __builtin_elementwise_sqrt(v)
    typedef bool Q __attribute__((ext_vector_type(8)));
    #define MASK(v) __builtin_bit_cast(unsigned char, __builtin_convertvector((v) >= 0, Q))
    #define ADDED(v) (((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])))
#endif
"""
UNDEFINED = """
#undef NUMBERS
#undef WHOLE
#undef SOME_COVERED
#undef KEPT
#undef ROOT
#undef MASK
#undef REAL
#undef ADDED
#undef EDGE
"""

# A face in the rows first to last: its pixels, its edge functions, its plane. `left` is a face that has no pixel.
FACE = """
    #define EDGE(n, u, v) \\
        wp::int64 du##n = (wp::int64)v[0] - u[0], dv##n = (wp::int64)v[1] - u[1]; \\
        du##n = sign < 0 ? -du##n : du##n; dv##n = sign < 0 ? -dv##n : dv##n; \\
        wp::int64 edge##n = du##n * (((wp::int64)top << bits) - u[1]) \\
            - dv##n * (((wp::int64)left << bits) - u[0]) - (dv##n < 0 || (dv##n == 0 && du##n > 0) ? 0 : 1); \\
        const wp::int64 right##n = -(dv##n << bits), down##n = du##n << bits;
    const double* const vertices = (const double*)points.data;
    const int* const at = (const int*)places.data;
    const int unit = (1 << bits) - 1;
    for (int f = face; f < stop; ++f) {
        const wp::int64* const corners = faces.data + 3 * (wp::int64)f;
        const int i0 = (int)corners[0], i1 = (int)corners[1], i2 = (int)corners[2];
        const int *p0 = at + 2 * i0, *p1 = at + 2 * i1, *p2 = at + 2 * i2;
        int top = p0[1] < p1[1] ? p0[1] : p1[1], bottom = p0[1] < p1[1] ? p1[1] : p0[1];
        top = ((top < p2[1] ? top : p2[1]) + unit) >> bits;
        bottom = (bottom < p2[1] ? p2[1] : bottom) >> bits;
        int left = p0[0] < p1[0] ? p0[0] : p1[0], right = p0[0] < p1[0] ? p1[0] : p0[0];
        left = ((left < p2[0] ? left : p2[0]) + unit) >> bits;
        right = (right < p2[0] ? p2[0] : right) >> bits;
        top = top < first ? first : top;
        bottom = bottom > last ? last : bottom;
        left = left < 0 ? 0 : left;
        right = right > columns - 1 ? columns - 1 : right;
        if (left > right || top > bottom) continue;
        const wp::int64 area = ((wp::int64)p1[0] - p0[0]) * ((wp::int64)p2[1] - p0[1])
            - ((wp::int64)p1[1] - p0[1]) * ((wp::int64)p2[0] - p0[0]);
        if (area == 0) continue;
        // 1 where its corners run clockwise on the image (rows downwards), so that rays leave
        const int sign = area < 0 ? -1 : 1;
        // Edge functions at (top, left), each opposite its corner, run so that the inside is where they are above zero;
        // less 1 where the edge is not its own.
        EDGE(0, p1, p2)
        EDGE(1, p2, p0)
        EDGE(2, p0, p1)
        const double *a = vertices + 3 * i0, *b = vertices + 3 * i1, *c = vertices + 3 * i2;
        const double bx = b[0] - a[0], by = b[1] - a[1], bz = b[2] - a[2];
        const double cx = c[0] - a[0], cy = c[1] - a[1], cz = c[2] - a[2];
        const double nx = by * cz - bz * cy, ny = bz * cx - bx * cz, nz = bx * cy - by * cx;
"""
DEPTH = """
        const double offset = nx * a[0] + ny * a[1] + nz * a[2];
        const double closer = a[2] < b[2] ? a[2] : b[2], farther = a[2] < b[2] ? b[2] : a[2];
        const double near = closer < c[2] ? closer : c[2], far = farther < c[2] ? c[2] : farther;
"""
# What a gradient needs of a face: none comes from one without area, which rounding on the image gave some.
LEVER = """
        const double size = sqrt(nx * nx + ny * ny + nz * nz);
        const double least = {grazing} * size;
        const double inverse0 = 1 / a[2], inverse1 = 1 / b[2], inverse2 = 1 / c[2];
"""
ROWS = """
        for (int row = top; row <= bottom; ++row) {
            const double y = y_first + row * dy;
            const double level = ny * y + nz;
            L e0 = edge0 + count * right0, e1 = edge1 + count * right1, e2 = edge2 + count * right2;
            for (int column = left; column <= right; column += B) {
                const L outside = e0 | e1 | e2 | ((wp::int64)(right - column) - count);
                if (SOME_COVERED(outside)) {
                    const int n = row * columns + column;
                    const int lanes = columns - column < B ? columns - column : B;  // that lie in this row
                    const V x = x_first + ((double)column + ramp) * dx;
                    const V slope = nx * x + level;
"""
END = """
                }
                e0 += right0 * B;
                e1 += right1 * B;
                e2 += right2 * B;
            }
            edge0 += down0;
            edge1 += down1;
            edge2 += down2;
        }
"""
# A crossing lies in its face, so between its corners: this holds rounding down where a face is on edge.
ADD = """
                    const V crossing = offset / slope;
                    V z = crossing > near ? crossing : (V)(near);
                    z = z < far ? z : (V)(far);
                    L amount = WHOLE(z * {unit} + 0.5);
                    amount = KEPT(sign < 0 ? -amount : amount, outside);
#if defined(__CUDA_ARCH__)
                    wp::atomic_add(depths.data + n, amount);
                    wp::atomic_add(signs.data + n, sign);
#else
                    const I turn = __builtin_convertvector((outside >= 0) & (wp::int64)-sign, I) * -1;
                    if (lanes == B) {{
                        L sum;
                        I turns;
                        __builtin_memcpy(&sum, depths.data + n, sizeof(L));
                        __builtin_memcpy(&turns, signs.data + n, sizeof(I));
                        sum += amount;
                        turns += turn;
                        __builtin_memcpy(depths.data + n, &sum, sizeof(L));
                        __builtin_memcpy(signs.data + n, &turns, sizeof(I));
                    }} else for (int m = 0; m < lanes; ++m) {{
                        depths.data[n + m] += amount[m];
                        signs.data[n + m] += turn[m];
                    }}
#endif
"""
# w / |n . d| for each corner, held where the ray grazes the face. The weights w are the corners' shares on the image
# over their depths, made to add up to 1; a face of hardly more than a point has none.
PULL = """
                    V w0 = NUMBERS(e0) * inverse0, w1 = NUMBERS(e1) * inverse1, w2 = NUMBERS(e2) * inverse2;
                    const V total = w0 + w1 + w2;
                    const V alike = total > 0 ? (V)(0) : (V)(1);
                    w0 += alike;
                    w1 += alike;
                    w2 += alike;
                    const V length = ROOT(x * x + (y * y + 1));
                    const V held = length * least, steep = slope < 0 ? -slope : slope;
                    const V lever = length / (steep > held ? steep : held);
                    const V pull = lever / (total > 0 ? total : (V)(3));
"""
SUM = """
                    V weight;
#if !defined(__CUDA_ARCH__)
                    weight = 0;
                    if (lanes == B) __builtin_memcpy(&weight, g.data + n, sizeof(V));
                    else for (int m = 0; m < lanes; ++m) weight[m] = g.data[n + m];
#else
                    weight = g.data[n];
#endif
                    weight = outside >= 0 ? weight * pull : (V)(0);
                    sum0 += weight * w0;
                    sum1 += weight * w1;
                    sum2 += weight * w2;
"""
# A covered pixel waits until `MOST` have come, or the face is done: then how its corners move is worked out once.
KEEP = """
                    const V kept[3] = {pull * w0, pull * w1, pull * w2};
#if defined(__CUDA_ARCH__)
                    for (int k = 0; k < 3; ++k) hits[k][0] = kept[k];
                    pixels[found++] = n;
                    flush();
#else
                    unsigned covered = MASK(outside);
                    while (covered) {
                        const int m = __builtin_ctz(covered);
                        covered &= covered - 1;
                        for (int k = 0; k < 3; ++k) hits[k][found] = ((const double*)&kept[k])[m];
                        pixels[found++] = n + m;
                        if (found == MOST) flush();
                    }
#endif
"""
FLUSH = """
        int found = 0, pixels[MOST];
        double hits[3][MOST];
#if !defined(__CUDA_ARCH__)
        typedef {real} R __attribute__((ext_vector_type(8)));
        #define REAL(v) __builtin_convertvector(v, R)
#endif
        const auto flush = [&]() {{
            {real}* const image = jacobian.data;
            const wp::int64 wide = 6 + modes;
            const double normal[3] = {{nx, ny, nz}};
#if !defined(__CUDA_ARCH__)
            V moves[4] = {{0, 0, 0, 0}}, rate;
            for (int i = 0; i < 3; ++i) for (int j = 0; j < 4; ++j) {{
                __builtin_memcpy(&rate, rates.data + 8 * (4 * i + j), sizeof(V));
                moves[j] += normal[i] * rate;
            }}
            const R pa = REAL(a[0] * moves[0] + a[1] * moves[1] + a[2] * moves[2] + moves[3]);
            const R pb = REAL(b[0] * moves[0] + b[1] * moves[1] + b[2] * moves[2] + moves[3]);
            const R pc = REAL(c[0] * moves[0] + c[1] * moves[1] + c[2] * moves[2] + moves[3]);
            for (int h = 0; h < found; ++h) {{
                const R sum = pa * ({real})hits[0][h] + pb * ({real})hits[1][h] + pc * ({real})hits[2][h];
                {real}* const into = image + pixels[h] * wide;
                if (modes >= 2) {{  // the last two numbers are zero, and the pixel's own
                    R all;
                    __builtin_memcpy(&all, into, sizeof(R));
                    all += sum;
                    __builtin_memcpy(into, &all, sizeof(R));
                }} else for (int k = 0; k < 6; ++k) into[k] += sum[k];
            }}
#else
            for (int k = 0; k < 6; ++k) {{
                double moves[4] = {{0, 0, 0, 0}};
                for (int i = 0; i < 3; ++i)
                    for (int j = 0; j < 4; ++j) moves[j] += normal[i] * rates.data[8 * (4 * i + j) + k];
                const double pa = a[0] * moves[0] + a[1] * moves[1] + a[2] * moves[2] + moves[3];
                const double pb = b[0] * moves[0] + b[1] * moves[1] + b[2] * moves[2] + moves[3];
                const double pc = c[0] * moves[0] + c[1] * moves[1] + c[2] * moves[2] + moves[3];
                for (int h = 0; h < found; ++h)
                    wp::atomic_add(
                        image + pixels[h] * wide + k, ({real})(pa * hits[0][h] + pb * hits[1][h] + pc * hits[2][h])
                    );
            }}
#endif
            const {real} *ra = basis.data + 3 * (wp::int64)modes * i0, *rb = basis.data + 3 * (wp::int64)modes * i1;
            const {real}* rc = basis.data + 3 * (wp::int64)modes * i2;
            const {real} ux = ({real})(into_body.data[0] * nx + into_body.data[1] * ny + into_body.data[2] * nz);
            const {real} uy = ({real})(into_body.data[3] * nx + into_body.data[4] * ny + into_body.data[5] * nz);
            const {real} uz = ({real})(into_body.data[6] * nx + into_body.data[7] * ny + into_body.data[8] * nz);
            int k = 0;
#if !defined(__CUDA_ARCH__)
            #define MODES(M) \\
                for (; k + M <= modes; k += M) {{ \\
                    typedef {real} W __attribute__((ext_vector_type(M))); \\
                    W r[9]; \\
                    for (int i = 0; i < 3; ++i) {{ \\
                        __builtin_memcpy(r + i, ra + i * modes + k, sizeof(W)); \\
                        __builtin_memcpy(r + 3 + i, rb + i * modes + k, sizeof(W)); \\
                        __builtin_memcpy(r + 6 + i, rc + i * modes + k, sizeof(W)); \\
                    }} \\
                    const W da = ux * r[0] + uy * r[1] + uz * r[2], db = ux * r[3] + uy * r[4] + uz * r[5]; \\
                    const W dc = ux * r[6] + uy * r[7] + uz * r[8]; \\
                    for (int h = 0; h < found; ++h) {{ \\
                        W sum; \\
                        {real}* const into = image + pixels[h] * wide + 6 + k; \\
                        __builtin_memcpy(&sum, into, sizeof(W)); \\
                        sum += da * ({real})hits[0][h] + db * ({real})hits[1][h] + dc * ({real})hits[2][h]; \\
                        __builtin_memcpy(into, &sum, sizeof(W)); \\
                    }} \\
                }}
            MODES(16)
            MODES(4)
            #undef MODES
#endif
            for (; k < modes; ++k) {{
                const {real} da = ux * ra[k] + uy * ra[modes + k] + uz * ra[2 * modes + k];
                const {real} db = ux * rb[k] + uy * rb[modes + k] + uz * rb[2 * modes + k];
                const {real} dc = ux * rc[k] + uy * rc[modes + k] + uz * rc[2 * modes + k];
                for (int h = 0; h < found; ++h) {{
                    const {real} sum = da * ({real})hits[0][h] + db * ({real})hits[1][h] + dc * ({real})hits[2][h];
                    wp::atomic_add(image + pixels[h] * wide + 6 + k, sum);
                }}
            }}
            found = 0;
        }};
"""
FINISHED = """
    const double y = y_first + row * dy;
    const double level = y * y + 1;
    int found = 0;
    for (int column = part; column < columns; column += parts) {{
        const int n = row * columns + column;
        const double x = x_first + column * dx;
        lengths.data[n] = ({real})(sqrt(x * x + level) * unit * (double)depths.data[n]);
        unbalanced.data[n] = signs.data[n] != winding;
        found += signs.data[n] != winding;
    }}
    if (found) wp::atomic_add(count.data, found);
"""


def splat(depth_bits: int) -> str:
    """Depths and signs of the faces from `face` to `stop`, in the rows `first` to `last`."""
    return TYPES + VIEW + FACE + DEPTH + ROWS + ADD.format(unit=float(1 << depth_bits)) + END + "    }" + UNDEFINED


def splat_rates(depth_bits: int, grazing: float, real: str) -> str:
    """As `splat`, and how the lengths move with the pose and with the modes of a shape."""
    face = FACE + DEPTH + LEVER.format(grazing=grazing) + FLUSH.format(real=real)
    add = ADD.format(unit=float(1 << depth_bits))
    rates = "                    if (size > 0) {" + PULL + KEEP + "                    }"
    return TYPES + VIEW + face + ROWS + add + rates + END + "        if (found) flush();\n    }" + UNDEFINED


def corners(grazing: float) -> str:
    """For every face, the sums over its pixels of the gradient that each corner gets along the normal."""
    before = (
        LEVER.format(grazing=grazing) + "        if (size == 0) continue;\n        V sum0 = 0, sum1 = 0, sum2 = 0;\n"
    )
    after = """
        double* const out = (double*)sums.data + 3 * (wp::int64)f;
        wp::atomic_add(out, ADDED(sum0));
        wp::atomic_add(out + 1, ADDED(sum1));
        wp::atomic_add(out + 2, ADDED(sum2));
    }
"""
    return TYPES + VIEW + FACE + before + ROWS + PULL + SUM + END + after + UNDEFINED


def finish(real: str) -> str:
    """Lengths of a row's rays, and which of them do not balance."""
    return VIEW + FINISHED.format(real=real)
