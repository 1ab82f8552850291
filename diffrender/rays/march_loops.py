"""The loops over a ray's samples, in C++ for `march_kernel`: eight samples side by side on the CPU, one on CUDA.

Eight consecutive samples of a ray find their cells, their weights and their opacities as vectors of eight; a voxel's
channels are a vector of their own, so the eight voxels of a sample mix in eight instructions. Warp's expressions of
vectors come out in halves and scalars, at a third of the speed.
"""

LANES = {
    "values": 8,
    "table1": 16,
    "table2": 16,
    "changed": 8,
}  # tables have the longer chain from a sample's place to its opacity
NAMES = {"float16": "wp::half", "int16": "wp::int16", "float32": "wp::float32", "float64": "wp::float64"}

# V: a number of each sample; I: an integer of each; C: the channels of a voxel.
TYPES = """
#if defined(__CUDA_ARCH__)
    enum {{ B = 1 }};
    typedef {real} V;
    typedef int I;
    struct C {{
        {real} v[{width}];
        CUDA_CALLABLE {real}& operator[](int n) {{ return v[n]; }}
        CUDA_CALLABLE {real} operator[](int n) const {{ return v[n]; }}
        CUDA_CALLABLE C operator*({real} w) const {{ C b(*this); for ({real}& x : b.v) x *= w; return b; }}
        CUDA_CALLABLE C operator+(C b) const {{ for (int n = 0; n < {width}; ++n) b.v[n] += v[n]; return b; }}
        CUDA_CALLABLE C operator-(C b) const {{ for (int n = 0; n < {width}; ++n) b.v[n] = v[n] - b.v[n]; return b; }}
    }};
    const V ramp = 0;
    #define LANE(v, n) v
    #define INTEGER(v) (int)(v)
    #define REAL(v) ({real})(v)
    #define LEAST(a, b) ((a) < (b) ? (a) : (b))
    #define MOST(a, b) ((a) < (b) ? (b) : (a))
    #define BITS(v) __int_as_float(v)
    #define COPY memcpy
    #define ROLLED
#else
    #pragma clang fp contract(on)
    enum {{ B = {lanes} }};
    typedef {real} V __attribute__((ext_vector_type({lanes})));
    typedef int I __attribute__((ext_vector_type({lanes})));
    typedef {real} C __attribute__((ext_vector_type({width})));
    typedef {real} D __attribute__((ext_vector_type(2 * {width})));
    const V ramp = {{{ramp}}};
    #define LANE(v, n) v[n]
    #define INTEGER(v) __builtin_convertvector(v, I)
    #define REAL(v) __builtin_convertvector(v, V)
    #define LEAST(a, b) __builtin_elementwise_min(a, b)
    #define MOST(a, b) __builtin_elementwise_max(a, b)
    #define BITS(v) __builtin_bit_cast(V, v)
    #define COPY __builtin_memcpy
    #define ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")
#endif
    #define LOAD(into, from) COPY(&into, from, {width} * sizeof({real}));
"""
UNDEFINED = """
#undef LANE
#undef INTEGER
#undef REAL
#undef LEAST
#undef MOST
#undef BITS
#undef COPY
#undef ROLLED
#undef LOAD
#undef STORE
#undef ADD
#undef ADD_TO
#undef ADD_KAPPA
#undef READ
"""

SETUP = """
    const int nx = ground.shape[2], ny = ground.shape[1], nz = ground.shape[0];
    const int by_x = nx > 1 ? 1 : 0, by_y = ny > 1 ? nx : 0, by_z = nz > 1 ? nx * ny : 0;
    // just short of the last voxels, so that the lower corner of a cell is never one of them
    const {real} high_x = (nx - 1) * ({real})(1 - {epsilon}), high_y = (ny - 1) * ({real})(1 - {epsilon});
    const {real} high_z = (nz - 1) * ({real})(1 - {epsilon});
    const {real} zero = 0, one = 1;
"""

# The cells of samples i to i + B - 1, and where in them they lie.
CELLS = """
        const V t = ramp + ({real})i;
        const V px = LEAST(MOST(first[0] + t * step[0], (V)(zero)), (V)(high_x));
        const V py = LEAST(MOST(first[1] + t * step[1], (V)(zero)), (V)(high_y));
        const V pz = LEAST(MOST(first[2] + t * step[2], (V)(zero)), (V)(high_z));
        const I ix = INTEGER(px), iy = INTEGER(py), iz = INTEGER(pz);
        const V fx = px - REAL(ix), fy = py - REAL(iy), fz = pz - REAL(iz);
        const I cell = ix + iy * by_y + iz * by_z;
        int cells[B];
        COPY(cells, &cell, sizeof(cells));
"""
WEIGHTS = """
        const V gx = one - fx, gy = one - fy, gz = one - fz;
        const V near = gy * gz, far = gy * fz, below = fy * gz, above = fy * fz;
        const V shares[8] = {{
            gx * near, fx * near, gx * below, fx * below, gx * far, fx * far, gx * above, fx * above
        }};
        const V yz[4] = {{near, below, far, above}}, sides[2] = {{gx, fx}};
        const {real} (*beside)[B] = (const {real} (*)[B])yz, (*ends)[B] = (const {real} (*)[B])sides;
        // LANE of a vector in memory is a broadcast, in a register it is a permutation
        const {real} (*share)[B] = (const {real} (*)[B])shares;
"""

# Colours and extinction of the samples of a batch: `colours`, `kappas`; or `changes` of them.
MIXED = """
        {{
            const wp::int64 size = ground.voxels.strides[0];
            const wp::int64 dx = by_x * size, dy = by_y * size, dz = by_z * size;
{pairs}
            ROLLED for (int n = 0; n < B; ++n) {{
                const char* at = (const char*)ground.voxels.data + cells[n] * size;
                C v0, v1, v2, v3, v4, v5, v6, v7;
                READ(v0, at) READ(v1, at + dx) READ(v2, at + dy) READ(v3, at + dy + dx)
                at += dz;
                READ(v4, at) READ(v5, at + dx) READ(v6, at + dy) READ(v7, at + dy + dx)
                {into}[n] = v0 * share[0][n] + v1 * share[1][n] + v2 * share[2][n] + v3 * share[3][n]
                    + v4 * share[4][n] + v5 * share[5][n] + v6 * share[6][n] + v7 * share[7][n];
            }}
        }}
"""
# Where voxels are narrow and lie side by side, two neighbours in i are one vector.
NEIGHBOURS = """
#if !defined(__CUDA_ARCH__)
            if (dx == {width} * sizeof({real})) {{
                ROLLED for (int n = 0; n < B; ++n) {{
                    const char* at = (const char*)ground.voxels.data + cells[n] * size;
                    D v0, v1, v2, v3;
                    COPY(&v0, at, sizeof(D)); COPY(&v1, at + dy, sizeof(D));
                    COPY(&v2, at + dz, sizeof(D)); COPY(&v3, at + dz + dy, sizeof(D));
                    v0 = v0 * beside[0][n] + v1 * beside[1][n] + v2 * beside[2][n] + v3 * beside[3][n];
                    {into}[n] = v0.lo * ends[0][n] + v0.hi * ends[1][n];
                }}
            }} else
#endif
"""
READ = {
    True: "    #define READ(into, from) LOAD(into, from)\n",
    False: "    #define READ(into, from) "
    "for (int r = 0; r < {width}; ++r) into[r] = ({real})((const {lying}*)(from))[r];\n",
}
ABSORBED = """
        {{
            const wp::int64 size = ground.kappas.strides[0];
            const wp::int64 dx = by_x * size, dy = by_y * size, dz = by_z * size;
            #define KAPPA(from) (({real})*(const {value}*)(from))
            ROLLED for (int n = 0; n < B; ++n) {{
                const char* at = (const char*)ground.kappas.data + cells[n] * size;
                const char* up = at + dz;
                kappas[n] = KAPPA(at) * share[0][n] + KAPPA(at + dx) * share[1][n] + KAPPA(at + dy) * share[2][n]
                    + KAPPA(at + dy + dx) * share[3][n] + KAPPA(up) * share[4][n] + KAPPA(up + dx) * share[5][n]
                    + KAPPA(up + dy) * share[6][n] + KAPPA(up + dy + dx) * share[7][n];
            }}
            #undef KAPPA
        }}
"""
JOINED = """
        {{
            V kappa;
            for (int n = 0; n < B; ++n) LANE(kappa, n) = colours[n][{width} - 1];
            COPY(kappas, &kappa, sizeof(kappas));
        }}
"""
# A number at each sample. Where neighbours in i lie side by side they come in pairs: sixteen loads become eight.
NUMBER = """
        V {name};
        {{
            V e0, e1, e2, e3, e4, e5, e6, e7;
            const wp::int64 s = ground.stride, dx = by_x * s, dy = by_y * s, dz = by_z * s;
            const {value}* numbers = ground.numbers.data + {offset};
{pairs}
            {{
                {real} v[8][B];
                for (int n = 0; n < B; ++n) {{
                    const {value}* at = numbers + cells[n] * s;
                    v[0][n] = ({real})at[0];
                    v[1][n] = ({real})at[dx];
                    v[2][n] = ({real})at[dy];
                    v[3][n] = ({real})at[dy + dx];
                    at += dz;
                    v[4][n] = ({real})at[0];
                    v[5][n] = ({real})at[dx];
                    v[6][n] = ({real})at[dy];
                    v[7][n] = ({real})at[dy + dx];
                }}
                COPY(&e0, v[0], sizeof(V)); COPY(&e1, v[1], sizeof(V)); COPY(&e2, v[2], sizeof(V));
                COPY(&e3, v[3], sizeof(V)); COPY(&e4, v[4], sizeof(V)); COPY(&e5, v[5], sizeof(V));
                COPY(&e6, v[6], sizeof(V)); COPY(&e7, v[7], sizeof(V));
            }}
            const V a = e0 + fx * (e1 - e0), b = e2 + fx * (e3 - e2);
            const V c = e4 + fx * (e5 - e4), d = e6 + fx * (e7 - e6);
            const V low = a + fy * (b - a), top = c + fy * (d - c);
            {name} = low + fz * (top - low);
        }}
"""
PAIRS = """
#if !defined(__CUDA_ARCH__)
            typedef {value} P __attribute__((ext_vector_type(2)));
            #define PAIR(n) P q##n; COPY(&q##n, row + cells[n], sizeof(P));
            #define ROW(at, left, right) {{ \\
                const {value}* row = at; \\
                {load} \\
                const auto both = {joined}; \\
                left = REAL(__builtin_shufflevector(both, both, {even})); \\
                right = REAL(__builtin_shufflevector(both, both, {odd})); }}
            if (dx == 1) {{
                ROW(numbers, e0, e1) ROW(numbers + dy, e2, e3) ROW(numbers + dz, e4, e5) ROW(numbers + dz + dy, e6, e7)
            }} else
            #undef PAIR
            #undef ROW
#endif
"""
ENTRY = """
        const V at_{axis} = ({name} - ground.origin[{axis}]) * ground.scale[{axis}];
        const {real} last_{axis} = (ground.bins[{axis}] - 1) * ({real})(1 - {epsilon});
        const V in_{axis} = LEAST(MOST(at_{axis}, (V)(zero)), (V)(last_{axis}));
        const I bin_{axis} = INTEGER(in_{axis});
        const V part_{axis} = in_{axis} - REAL(bin_{axis});
        {real} parts_{axis}[B];
        COPY(parts_{axis}, &part_{axis}, sizeof(parts_{axis}));
"""
CLASSIFIED = {
    "table1": """
        int bins[B];
        COPY(bins, &bin_0, sizeof(bins));
        ROLLED for (int n = 0; n < B; ++n) {{
            const char* entry = (const char*)(ground.entries.data + bins[n]);
            C e0, e1;
            LOAD(e0, entry) LOAD(e1, entry + sizeof(*ground.entries.data))
            colours[n] = e0 + (e1 - e0) * parts_0[n];
        }}
""",
    "table2": """
        const int row = ground.bins[1];
        const I bin = bin_0 * row + bin_1;
        int bins[B];
        COPY(bins, &bin, sizeof(bins));
        ROLLED for (int n = 0; n < B; ++n) {{
            const char* entry = (const char*)(ground.entries.data + bins[n]);
            const wp::int64 size = sizeof(*ground.entries.data);
            C e0, e1, e2, e3;
            LOAD(e0, entry) LOAD(e1, entry + size) LOAD(e2, entry + row * size) LOAD(e3, entry + row * size + size)
            e0 = e0 + (e1 - e0) * parts_1[n];
            e2 = e2 + (e3 - e2) * parts_1[n];
            colours[n] = e0 + (e2 - e0) * parts_0[n];
        }}
""",
}

# What a change makes of a table's colours and extinction.
CHANGED = """
        {real} kappas[B], gains[B], untouched[B];
        ROLLED for (int n = 0; n < B; ++n) {{
            untouched[n] = colours[n][{width} - 1];
            gains[n] = changes[n][{width} - 1];
            kappas[n] = untouched[n] * gains[n];
            colours[n] = colours[n] + changes[n];
        }}
"""

# 1 - exp(-x) to 2e-7 of itself: exp(-x) = 2^-k (1 + p), and p is a polynomial.
OPACITY = {
    "float32": """
        {real} alphas[B], visible[B];  // of a sample: its opacity, and that or dt
        {{
            V x, alpha;
            COPY(&x, kappas, sizeof(x));
            x = LEAST(MOST(x * dt, (V)(-80.0f)), (V)(80.0f));
            const V shifted = x * 1.44269504f + 12582912.0f, k = shifted - 12582912.0f;
            const V u = k * 1.42860677e-6f + (k * 0.693145752f - x);
            V p = u * 1.98412698e-4f + 1.38888889e-3f;
            p = u * p + 8.33333333e-3f;
            p = u * p + 0.0416666667f;
            p = u * p + 0.166666667f;
            p = u * p + 0.5f;
            p = u * p + 1.0f;
            p = u * p;
            const I bits = (127 - INTEGER(k)) * (1 << 23);
            const V scale = BITS(bits);
            alpha = (1.0f - scale) - scale * p;
            COPY(alphas, &alpha, sizeof(alpha));
            const V shown = weighted ? alpha : (V)(dt);
            COPY(visible, &shown, sizeof(shown));
        }}
""",
    "float64": """
        {real} alphas[B], visible[B];
        for (int n = 0; n < B; ++n) {{
            const double x = kappas[n] * dt;
            double p = 1 - x / 6 * (1 - x / 7 * (1 - x / 8));
            p = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * p))));
            alphas[n] = x < 0.03 && x > -0.03 ? p : 1 - ::exp(-x);
            visible[n] = weighted ? alphas[n] : dt;
        }}
""",
}

FORWARD = """
    C colour = {{}};
    {real} left = before[{width}];
    for (int n = 0; n < {width}; ++n) colour[n] = before[n];
    int i = begin;
    while (i < stop) {{
        if (reach.shape[0] > 0) {{
            // the block of sample i; where it is empty, the ray goes on behind the last sample in the empty blocks
            const {real} p[3] = {{first[0] + i * step[0], first[1] + i * step[1], first[2] + i * step[2]}};
            const {real} high[3] = {{high_x, high_y, high_z}};
            int block[3];
            for (int a = 0; a < 3; ++a) {{
                block[a] = (int)(p[a] < zero ? zero : p[a] > high[a] ? high[a] : p[a]) >> {bits};
            }}
            const int ahead = reach.data[(block[2] * blocks[1] + block[1]) * blocks[2] + block[0]];
            if (ahead > 0) {{
                {real} jump = 1.0e6f;
                for (int a = 0; a < 3; ++a) {{
                    if (step[a] == zero) continue;
                    const int end = (step[a] > zero ? block[a] + ahead : block[a] + 1 - ahead) << {bits};
                    const {real} steps = (end - p[a]) / step[a];
                    jump = steps < jump ? steps : jump;
                }}
                i += 1 + (jump > {edge} ? (int)(jump - {edge}) : 0);
                continue;
            }}
        }}
{sample}
        const int count = stop - i < B ? stop - i : B;
        ROLLED for (int n = 0; n < count; ++n) {{
            colour = colour + colours[n] * (left * visible[n]);
            left -= left * alphas[n];
        }}
        if (left < least) break;
        i += B;
    }}
    wp::vec_t<{width} + 1, {real}> after;
    for (int n = 0; n < {width}; ++n) after[n] = colour[n];
    after[{width}] = left;
"""

# S and T of each sample in turn: `by_colour`, the weight of its colour, and `by_kappa`.
BACKWARD = """
    C g = {{}};
    for (int n = 0; n < {width}; ++n) g[n] = by_image[n];
    {real} left = before;
    {real} behind = after;
    for (int i = begin; i < stop; i += B) {{
{sample}
        const int count = stop - i < B ? stop - i : B;
        {real} towards[B];
        ROLLED for (int n = 0; n < B; ++n) {{
            {dot}
        }}
        ROLLED for (int n = 0; n < count; ++n) {{
            const {real} rest = left - left * alphas[n];
            const {real} weight = left * visible[n];
            behind -= weight * towards[n];
            const {real} by_kappa = dt * ((weighted ? rest * towards[n] : zero) - behind + by_alpha);
            C by = g * weight;
            {joined}
            left = rest;
{spread}
        }}
    }}
"""
PLACES = """
        const I place = axis == 0 ? ix : axis == 1 ? iy : iz;
        int places[B];
        COPY(places, &place, sizeof(places));
"""
INTO_VOXELS = """
            int mask = 0;
            if (low <= places[n] && places[n] < high) mask = near_side;
            if (low <= places[n] + 1 && places[n] + 1 < high) mask |= near_side ^ 0xFF;
--
            const wp::int64 size = voxels.strides[0], dx = by_x * size, dy = by_y * size, dz = by_z * size;
            char* at = (char*)voxels.data + cells[n] * size;
            ADD(0, at) ADD(1, at + dx) ADD(2, at + dy) ADD(3, at + dy + dx)
            at += dz;
            ADD(4, at) ADD(5, at + dx) ADD(6, at + dy) ADD(7, at + dy + dx)
"""
INTO_KAPPAS = """
            const wp::int64 apart = kappas_out.strides[0], ax = by_x * apart, ay = by_y * apart, az = by_z * apart;
            at = (char*)kappas_out.data + cells[n] * apart;
            ADD_KAPPA(0, at) ADD_KAPPA(1, at + ax) ADD_KAPPA(2, at + ay) ADD_KAPPA(3, at + ay + ax)
            at += az;
            ADD_KAPPA(4, at) ADD_KAPPA(5, at + ax) ADD_KAPPA(6, at + ay) ADD_KAPPA(7, at + ay + ax)
"""
# On the CPU no other thread adds to the same voxels, nor to the same table.
ADD = """
#if defined(__CUDA_ARCH__)
    #define ADD_TO(into, what) for (int r = 0; r < {width}; ++r) wp::atomic_add(({real}*)(into) + r, (what)[r]);
    #define ADD_KAPPA(m, into) if (mask >> m & 1) wp::atomic_add(({real}*)(into), by_kappa * share[m][n]);
#else
    #define ADD_TO(into, what) {{ C sum; LOAD(sum, into) sum = sum + what; STORE(into, sum) }}
    #define ADD_KAPPA(m, into) if (mask >> m & 1) *({real}*)(into) += by_kappa * share[m][n];
#endif
    #define STORE(into, from) COPY(into, &from, {width} * sizeof({real}));
    #define ADD(m, into) if (mask >> m & 1) ADD_TO(into, by * share[m][n])
"""
INTO_TABLE = {
    "table1": """
            const C above = by * parts_0[n], below = by - above;
            char* entry = (char*)(tables.data + base + bins[n]);
            ADD_TO(entry, below)
            ADD_TO(entry + sizeof(*tables.data), above)
""",
    "table2": """
            const C far = by * parts_0[n], near = by - far;
            const C far_above = far * parts_1[n], near_above = near * parts_1[n];
            const wp::int64 size = sizeof(*tables.data);
            char* entry = (char*)(tables.data + base + bins[n]);
            ADD_TO(entry, (near - near_above))
            ADD_TO(entry + size, near_above)
            ADD_TO(entry + row * size, (far - far_above))
            ADD_TO(entry + row * size + size, far_above)
""",
}


def _counted(numbers: range) -> str:
    return ", ".join(map(str, numbers))


class Loops:
    """The text of the loops for one kind of field; the arguments are those of `march_kernel.build`."""

    def __init__(self, kind: str, stored: str, beside: str, width: int, apart: bool, precise: bool):
        self.kind, self.width, self.apart = kind, width, apart
        self.arithmetic = "float64" if precise else "float32"
        self.names = {
            "width": width,
            "real": NAMES[self.arithmetic],
            "value": NAMES[stored],
            "lying": NAMES[beside or stored],
            "epsilon": "1.2e-16" if precise else "6.0e-8f",
        }
        self.lanes = lanes = LANES[kind]
        self.names |= {"lanes": lanes, "ramp": _counted(range(lanes))}
        self.straight = (beside or stored) == self.arithmetic
        self.narrow = not apart and width in (2, 4, 8)

    def forward(self, bits: int, edge: float) -> str:
        """From `begin` to `stop`; returns the colours and what is left of the ray."""
        return self._whole(FORWARD, "return after;", sample=self._sample(), bits=bits, edge=edge)

    def into_voxels(self) -> str:
        """The gradient in the voxels whose place on an axis is in [low, high)."""
        factor = " * untouched[n]" if self.kind == "changed" else ""
        mask, _, corners = INTO_VOXELS.partition("--\n")
        return self._backward(PLACES, factor, mask + corners + (INTO_KAPPAS if self.apart else ""))

    def into_table(self) -> str:
        """The gradient in the entries, from `base` on."""
        if self.kind == "changed":
            return self._backward("", " * gains[n]", INTO_TABLE["table1"])
        return self._backward("", "", INTO_TABLE[self.kind])

    def _backward(self, more: str, factor: str, spread: str) -> str:
        joined = "" if self.apart else f"by[{self.width - 1}] = by_kappa{factor};"
        spread = spread.format(**self.names)
        return self._whole(BACKWARD, sample=self._sample() + more, dot=self._dot(), joined=joined, spread=spread)

    def _whole(self, loop: str, end: str = "", **parts: object) -> str:
        text = (TYPES + ADD + READ[self.straight] + SETUP).format(**self.names)
        return text + loop.format(**self.names, **parts) + UNDEFINED + end

    def _dot(self) -> str:
        # in halves, which are vectors again
        halves, size, of = [], self.width, "shown"
        while size % 2 == 0 and size > 2:
            halves.append(f"const auto half{size} = {of}.lo + {of}.hi;")
            of, size = f"half{size}", size // 2
        total = " + ".join(f"{of}[{n}]" for n in range(size))
        lines = [
            "#if defined(__CUDA_ARCH__)",
            "towards[n] = 0;",
            f"for (int r = 0; r < {self.width}; ++r) towards[n] += colours[n][r] * g[r];",
            "#else",
            "const C shown = colours[n] * g;",
            *halves,
            f"towards[n] = {total};",
            "#endif",
        ]
        return "\n".join(["", *lines, ""])

    def _pairs(self) -> str:
        """Pairs of neighbours of all samples, put one behind the other, and taken apart again."""
        parts, size = [f"q{n}" for n in range(self.lanes)], 2
        while len(parts) > 1:
            order = _counted(range(2 * size))
            parts = [
                f"__builtin_shufflevector({a}, {b}, {order})" for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
            size *= 2
        load = " ".join(f"PAIR({n})" for n in range(self.lanes))
        even, odd = (_counted(range(n, 2 * self.lanes, 2)) for n in (0, 1))
        return PAIRS.format(**self.names, load=load, joined=parts[0], even=even, odd=odd)

    def _mixed(self) -> str:
        return MIXED.replace("{pairs}", NEIGHBOURS if self.narrow and self.straight else "")

    def _sample(self) -> str:
        text = CELLS + "        C colours[B];\n"
        kappas = "        {real} kappas[B];\n"
        if self.kind == "values":
            text += WEIGHTS + self._mixed() + kappas + (ABSORBED if self.apart else JOINED)
            return (text + OPACITY[self.arithmetic]).format(**self.names, into="colours")
        text = text.format(**self.names)
        pairs = "" if self.names["value"] == NAMES["float16"] else self._pairs()
        for axis, offset in enumerate(("0", "ground.second") if self.kind == "table2" else ("0",)):
            text += (NUMBER + ENTRY).format(**self.names, name=f"number_{axis}", offset=offset, axis=axis, pairs=pairs)
        if self.kind == "changed":
            rest = CLASSIFIED["table1"] + WEIGHTS + "        C changes[B];\n" + self._mixed() + CHANGED
            return text + (rest + OPACITY[self.arithmetic]).format(**self.names, into="changes")
        return text + (CLASSIFIED[self.kind] + kappas + JOINED + OPACITY[self.arithmetic]).format(**self.names)
