"""Emission-absorption along rays as one fused kernel source for CPU and CUDA (NVIDIA warp); `march_torch` is its twin.

A ray takes its samples front to back and keeps what it shows so far, C, and what is left of it, T. The way back walks
the ray once more in the same direction, so nothing of a sample is stored: with g the gradient in the image,
S what colour lies behind sample i (C_end - C_i) . g, and e its transparency, the gradient in its extinction is
dt (T e c . g - S + g_alpha T_end), and that in its colour T A g. No blending is inverted.

Set-up of a ray is in float64, the loop in the field's precision. A field's channels lie side by side in memory, so a
voxel is one vector: a sample mixes eight of them. Coordinates are voxels (i, j, k), without any pad.
"""

from types import SimpleNamespace
from typing import no_type_check

import warp as wp

from diffrender.rays.march_loops import Loops

DTYPES = {"int16": wp.int16, "float16": wp.float16, "float32": wp.float32, "float64": wp.float64}
OPTIONS = (("enable_backward", False), ("fast_math", False), ("cpu_compiler_flags", "-march=native"))
BLOCK_BITS = 3  # empty space is looked up in blocks of 8 x 8 x 8 cells
EDGE = 1.0e-3  # [voxel] by which slabs overlap, so that rounding cannot hide a sample from the slab it lies in
NEARLY = 1.0e-6  # [steps] by which a last sample may lie behind the exit: it lies on it, but for rounding

# 1 - exp(-x) for a sample on its own, as the loops have it for eight
OPACITY = """
    float y = x * 1.44269504f;
    y = y < -120.0f ? -120.0f : (y > 120.0f ? 120.0f : y);
    float shifted = y + 12582912.0f;
    float k = shifted - 12582912.0f;
    float held = x < -83.0f ? -83.0f : (x > 83.0f ? 83.0f : x);
    float u = k * 1.42860677e-6f - (held - k * 0.693145752f);
    float p = u * (1.0f + u * (0.5f + u * (0.166666667f + u * (0.0416666667f + u * (8.33333333e-3f
        + u * (1.38888889e-3f + u * 1.98412698e-4f))))));
    union { int i; float f; } scale;
    scale.i = (127 - (int)k) << 23;
    return (1.0f - scale.f) - scale.f * p;
"""


@no_type_check  # shape checks in tests wrap what they see, and warp reads the source of what it compiles
def build(kind: str, stored: str, beside: str, width: int, apart: bool, precise: bool) -> SimpleNamespace:
    """The kernels for one kind of field, a warp module of their own.

    Called once per configuration; warp keeps what it has compiled on disk.

    Args:
        kind: "values" where voxels hold colours and extinction; "table1", "table2" where they hold one or two numbers
            that a table classifies, "changed" where they hold a number and what is changed of the table's.
        stored: the type of what voxels hold.
        beside: the type of the change, which lies beside the numbers; else empty.
        width: of the vectors: the channels, less the extinction where that lies apart.
        apart: the extinction is read from an array of its own.
        precise: float64 arithmetic.
    """
    value = DTYPES[stored]
    real = wp.float64 if precise else wp.float32
    plain, changed = kind == "values", kind == "changed"
    lying = DTYPES[beside or stored]  # of the vectors
    last = width - 1
    modules = {}

    def module_of(kernel: str):
        # A module for each kernel, so that a function has one caller and is compiled into it.
        name = f"diffrender_march_{kernel}_{kind}_{stored}{beside}_{width}{'a' * apart}{'_precise' * precise}"
        modules[kernel] = module = wp.get_module(name)
        for option, setting in OPTIONS:  # older versions of warp lack some
            if option in module.options:
                module.options[option] = setting
        return module

    loops = Loops(kind, stored, beside, width, apart, precise)
    zero, one = real(0.0), real(1.0)
    vec = wp.types.vector(length=width, dtype=real)
    held = wp.types.vector(length=width, dtype=lying)
    vec3 = wp.types.vector(length=3, dtype=real)
    state = wp.types.vector(length=width + 1, dtype=real)  # colours so far, and what is left of the ray
    vec6d = wp.types.vector(length=6, dtype=wp.float64)

    @wp.struct
    class View:
        matrix: wp.mat33d  # voxels from camera, directions
        source: wp.vec3d
        detector: vec6d
        step: wp.float64  # dt [mm]
        starts: wp.array(dtype=wp.float64)  # one for all rays, or one for each

    @wp.struct
    class Ground:
        shape: wp.vec3i  # (k, j, i)
        voxels: wp.array(dtype=held)  # colours, and extinction last unless it lies apart; or the changes of them
        kappas: wp.array(dtype=value)
        numbers: wp.array(dtype=value)  # number a of voxel n at stride n + second a
        stride: int
        second: int
        entries: wp.array(dtype=vec)
        bins: wp.vec2i
        origin: vec3  # of the table's axes, two of three used
        scale: vec3  # bins per unit

    @wp.struct
    class Way:
        direction: wp.vec3d  # [voxels/mm]
        camera: wp.vec3d  # the same in the camera's frame, of length 1
        enter: wp.float64  # [mm]
        face: int  # the axis of the face where the ray enters; -1 with the eye inside
        start: wp.float64
        steps: int
        first: wp.vec3d  # its first sample and the step from one to the next [voxels]
        step: wp.vec3d

    @wp.func
    def way_of(view: View, shape: wp.vec3i, n: int):
        way = Way()
        columns = int(view.detector[0])
        r = n // columns
        row = wp.float64(r) + wp.float64(0.5)
        column = wp.float64(n - r * columns) + wp.float64(0.5)
        x = (column - view.detector[4]) * view.detector[2]
        y = (row - view.detector[3]) * view.detector[1]
        q = wp.vec3d(x, y, view.detector[5])
        way.camera = q / wp.length(q)
        o = view.source
        d = view.matrix * way.camera
        enter = wp.float64(0.0)
        leave = wp.float64(1.0e30)
        way.face = int(-1)
        for a in range(3):
            high = wp.float64(shape[2 - a] - 1)
            if d[a] == wp.float64(0.0):
                if o[a] < wp.float64(0.0) or o[a] > high:
                    leave = wp.float64(-1.0)
            else:
                to_low = -o[a] / d[a]
                to_high = (high - o[a]) / d[a]
                near = wp.min(to_low, to_high)
                if near > enter:
                    enter = near
                    way.face = a
                leave = wp.min(leave, wp.max(to_low, to_high))
        s = view.starts[0]
        if view.starts.shape[0] > 1:
            s = view.starts[n]
        steps = (leave - enter) / view.step - s + wp.float64(wp.static(1.0 + NEARLY))
        way.steps = int(wp.max(wp.floor(steps), wp.float64(0.0)))
        way.direction = d
        way.enter = enter
        way.start = s
        way.first = o + d * (enter + s * view.step)
        way.step = d * view.step
        return way

    if precise:

        @wp.func
        def opacity(x: real):
            if wp.abs(x) < real(0.03):
                p = one - x / real(6.0) * (one - x / real(7.0) * (one - x / real(8.0)))
                p = one - x / real(4.0) * (one - x / real(5.0) * p)
                return x * (one - x / real(2.0) * (one - x / real(3.0) * p))
            return one - wp.exp(-x)

    else:

        @wp.func_native(OPACITY)
        def opacity(x: wp.float32) -> wp.float32: ...

    @wp.func
    def narrow(v: wp.vec3d):
        return vec3(real(v[0]), real(v[1]), real(v[2]))

    @wp.func
    def along(size: int, x: real):
        # the cell on one axis, and how far in it
        at = wp.clamp(x, zero, real(size - 1))
        low = wp.min(int(at), wp.max(size - 2, 0))
        return low, at - real(low)

    @wp.func
    def strides(shape: wp.vec3i):
        row = shape[2]
        return wp.vec3i(
            wp.where(shape[2] > 1, 1, 0), wp.where(shape[1] > 1, row, 0), wp.where(shape[0] > 1, row * shape[1], 0)
        )

    @wp.func
    def share(f: vec3, corner: int):
        # the trilinear weight of a corner, 0 to 7
        w = wp.where((corner & 1) == 0, one - f[0], f[0])
        w *= wp.where((corner & 2) == 0, one - f[1], f[1])
        return w * wp.where((corner & 4) == 0, one - f[2], f[2])

    @wp.func
    def voxel(s: wp.vec3i, m: int, corner: int):
        return m + (corner & 1) * s[0] + ((corner >> 1) & 1) * s[1] + (corner >> 2) * s[2]

    @wp.func
    def wide(v: held):
        if wp.static(lying == real):
            return v
        w = vec()
        for c in range(wp.static(width)):
            w[c] = real(v[c])
        return w

    @wp.func
    def number(ground: Ground, s: wp.vec3i, m: int, f: vec3, which: int):
        # one of the numbers and its slopes along (i, j, k)
        base = ground.stride * m + which * ground.second
        sx, sy, sz = ground.stride * s[0], ground.stride * s[1], ground.stride * s[2]
        a, b = real(ground.numbers[base]), real(ground.numbers[base + sx])
        c, d = real(ground.numbers[base + sy]), real(ground.numbers[base + sy + sx])
        base += sz
        e, g = real(ground.numbers[base]), real(ground.numbers[base + sx])
        h, k = real(ground.numbers[base + sy]), real(ground.numbers[base + sy + sx])
        ab, cd, eg, hk = b - a, d - c, g - e, k - h
        y0, y1, z0, z1 = a + f[0] * ab, c + f[0] * cd, e + f[0] * eg, h + f[0] * hk
        near, far = y0 + f[1] * (y1 - y0), z0 + f[1] * (z1 - z0)
        x_near, x_far = ab + f[1] * (cd - ab), eg + f[1] * (hk - eg)
        y_near, y_far = y1 - y0, z1 - z0
        slopes = vec3(x_near + f[2] * (x_far - x_near), y_near + f[2] * (y_far - y_near), far - near)
        return near + f[2] * (far - near), slopes

    @wp.func
    def entry(ground: Ground, axis: int, number: real):
        # the entry below a number, how far above it the number lies, and the slope of that: 0 beyond the ends
        bins = ground.bins[axis]
        at = (number - ground.origin[axis]) * ground.scale[axis]
        slope = wp.where(at < zero or at > real(bins - 1), zero, ground.scale[axis])
        low, part = along(bins, at)
        return low, part, slope

    @wp.func
    def classified(ground: Ground, s: wp.vec3i, m: int, f: vec3):
        # colours and extinction of a sample from the table
        x, _slopes = number(ground, s, m, f, 0)
        low, part, _slope = entry(ground, 0, x)
        if wp.static(kind != "table2"):
            below = ground.entries[low]
            return below + part * (ground.entries[low + 1] - below)
        y, _slopes2 = number(ground, s, m, f, 1)
        low2, part2, _slope2 = entry(ground, 1, y)
        row = low * ground.bins[1] + low2
        below = ground.entries[row]
        below += part2 * (ground.entries[row + 1] - below)
        row += ground.bins[1]
        above = ground.entries[row]
        above += part2 * (ground.entries[row + 1] - above)
        return below + part * (above - below)

    @wp.func
    def mixed(ground: Ground, s: wp.vec3i, m: int, f: vec3):
        # colours of a sample from the eight voxels about it, and extinction as their last unless that lies apart
        total = share(f, 0) * wide(ground.voxels[m])
        for corner in range(1, 8):
            total += share(f, corner) * wide(ground.voxels[voxel(s, m, corner)])
        return total

    @wp.func
    def absorbed(ground: Ground, s: wp.vec3i, m: int, f: vec3):
        total = share(f, 0) * real(ground.kappas[m])
        for corner in range(1, 8):
            total += share(f, corner) * real(ground.kappas[voxel(s, m, corner)])
        return total

    @wp.func
    def sample(ground: Ground, s: wp.vec3i, m: int, f: vec3):
        # colours (and what stands beside them) and extinction
        if wp.static(plain):
            c = mixed(ground, s, m, f)
            if wp.static(apart):
                return c, absorbed(ground, s, m, f)
            return c, c[wp.static(last)]
        c = classified(ground, s, m, f)
        if wp.static(changed):
            change = mixed(ground, s, m, f)
            return c + change, c[wp.static(last)] * change[wp.static(last)]
        return c, c[wp.static(last)]

    @wp.func_native(loops.forward(BLOCK_BITS, EDGE))
    def forward(
        ground: Ground,
        reach: wp.array(dtype=wp.uint8),  # of each block, how many blocks on the next lies that shows anything
        blocks: wp.vec3i,  # (k, j, i)
        first: vec3,
        step: vec3,
        dt: real,
        weighted: int,
        begin: int,
        stop: int,
        least: real,  # of a ray: below, it ends
        before: state,
    ) -> state: ...

    @wp.func
    def place(shape: wp.vec3i, first: vec3, step: vec3, n: int):
        return first + real(n) * step

    @wp.func
    def show(image: wp.array(dtype=real), n: int, total: int, block: int, c: state):
        for a in range(wp.static(width if apart else last)):
            image[n * total + block + a] = c[a]
        image[n * total + total - 1] = one - c[wp.static(width)]

    @wp.kernel(module=module_of("draw"))
    def draw(
        ground: Ground,
        view: View,
        weighted: int,
        reach: wp.array(dtype=wp.uint8),  # of each block, how many blocks lie between it and the next to be looked at
        blocks: wp.vec3i,  # (k, j, i)
        least: real,  # of a ray: below, it ends
        start: int,
        total: int,
        block: int,
        image: wp.array(dtype=real),
    ):
        n = start + wp.tid()
        way = way_of(view, ground.shape, n)
        first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
        c = state()
        c[wp.static(width)] = one
        c = forward(ground, reach, blocks, first, step, dt, weighted, 0, way.steps, least, c)
        show(image, n, total, block, c)

    @wp.func
    def span(way: Way, axis: int, low: int, high: int):
        # the samples in the cells [low - 1, high) of an axis, and EDGE more
        p, d = way.first[axis], way.step[axis]
        near, far = wp.float64(low) - wp.float64(wp.static(1.0 + EDGE)), wp.float64(high) + wp.float64(wp.static(EDGE))
        if d < wp.float64(0.0):
            swap = near
            near = far
            far = swap
        elif d < wp.float64(1.0e-30):
            d = wp.float64(1.0e-30)
        end = wp.float64(way.steps)
        first = wp.clamp(wp.ceil((near - p) / d), wp.float64(0.0), end)
        stop = wp.clamp(wp.floor((far - p) / d) + wp.float64(1.0), wp.float64(0.0), end)
        return int(first), int(stop)

    @wp.func
    def edge(shape: wp.vec3i, axis: int, slab: int, slabs: int):
        return (slab * shape[2 - axis]) // slabs

    @wp.kernel(module=module_of("project"))
    def project(
        ground: Ground,
        view: View,
        weighted: int,
        axis: int,
        slabs: int,
        start: int,
        count: int,
        total: int,
        block: int,
        image: wp.array(dtype=real),
        states: wp.array(dtype=real),  # colours and what is left where a ray begins with each slab
        everywhere: wp.array(dtype=wp.uint8),  # empty: no block is left out
    ):
        n = start + wp.tid()
        shape = ground.shape
        way = way_of(view, shape, n)
        first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
        c = state()
        c[wp.static(width)] = one
        begin = int(0)
        for k in range(slabs):
            stop = way.steps
            if slabs > 1:
                slab = wp.where(way.step[axis] < wp.float64(0.0), slabs - 1 - k, k)
                then = wp.where(way.step[axis] < wp.float64(0.0), slab - 1, slab + 1)
                at = (slab * count + n) * wp.static(width + 1)
                for a in range(wp.static(width + 1)):
                    states[at + a] = c[a]
                if k < slabs - 1:
                    stop, _stop = span(way, axis, edge(shape, axis, then, slabs), edge(shape, axis, then + 1, slabs))
            c = forward(ground, everywhere, wp.vec3i(), first, step, dt, weighted, begin, stop, zero, c)
            begin = wp.max(begin, stop)
        show(image, n, total, block, c)

    @wp.func
    def of_ray(image: wp.array(dtype=real), n: int, total: int, block: int):
        # the colours of a ray; nothing stands where a vector holds extinction
        c = vec()
        for a in range(wp.static(width if apart else last)):
            c[a] = image[n * total + block + a]
        return c

    @wp.func
    def slopes_of(ground: Ground, s: wp.vec3i, m: int, f: vec3):
        # how the table's colours and extinction change with each of the numbers of a sample
        x, _slopes = number(ground, s, m, f, 0)
        low, part, slope = entry(ground, 0, x)
        if wp.static(kind != "table2"):
            return slope * (ground.entries[low + 1] - ground.entries[low]), vec()
        y, _slopes2 = number(ground, s, m, f, 1)
        low2, part2, slope2 = entry(ground, 1, y)
        row = low * ground.bins[1] + low2
        e00, e01 = ground.entries[row], ground.entries[row + 1]
        e10, e11 = ground.entries[row + ground.bins[1]], ground.entries[row + ground.bins[1] + 1]
        by_x = slope * ((e10 - e00) + part2 * ((e11 - e10) - (e01 - e00)))
        by_y = slope2 * ((e01 - e00) + part * ((e11 - e01) - (e10 - e00)))
        return by_x, by_y

    if plain or changed:

        @wp.func_native(loops.into_voxels())
        def into_voxels(
            ground: Ground,
            first: vec3,
            step: vec3,
            dt: real,
            weighted: int,
            begin: int,
            stop: int,
            before: real,  # what is left of the ray at `begin`
            after: real,  # S there
            by_image: vec,
            by_alpha: real,
            axis: int,  # of the slabs
            near_side: int,  # the corners of a cell on its near side along that axis, as bits
            low: int,
            high: int,
            voxels: wp.array(dtype=vec),
            kappas_out: wp.array(dtype=real),
        ): ...

    @wp.func
    def spread(
        ground: Ground,
        s: wp.vec3i,
        m: int,
        f: vec3,
        mask: int,
        by: vec,
        numbers: wp.array(dtype=real),
    ):
        # the transpose of `classified` into the numbers, at the corners of `mask`
        slope, slope2 = slopes_of(ground, s, m, f)
        by_number, by_number2 = wp.dot(by, slope), wp.dot(by, slope2)
        for corner in range(8):
            if (mask >> corner) & 1 == 1:
                w = share(f, corner)
                at = ground.stride * voxel(s, m, corner)
                wp.atomic_add(numbers, at, w * by_number)
                if wp.static(kind == "table2"):
                    wp.atomic_add(numbers, at + ground.second, w * by_number2)

    @wp.kernel(module=module_of("adjoint_voxels"))
    def adjoint_voxels(
        ground: Ground,
        view: View,
        weighted: int,
        axis: int,
        slabs: int,
        from_slab: int,  # the slabs of this launch; no other launch writes to their voxels
        to_slab: int,
        count: int,
        total: int,
        block: int,
        image: wp.array(dtype=real),
        states: wp.array(dtype=real),
        g: wp.array(dtype=real),
        g_alpha: real,  # 1 where this block of colours carries alpha's part, else 0
        voxels: wp.array(dtype=vec),
        kappas: wp.array(dtype=real),
        numbers: wp.array(dtype=real),
    ):
        n = wp.tid()
        shape = ground.shape
        s = strides(shape)
        way = way_of(view, shape, n)
        first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
        g_ray = of_ray(g, n, total, block)
        shown = of_ray(image, n, total, block)
        by_alpha = g_alpha * g[n * total + total - 1] * (one - image[n * total + total - 1])
        for slab in range(from_slab, to_slab):
            low, high = edge(shape, axis, slab, slabs), edge(shape, axis, slab + 1, slabs)
            begin = int(0)
            stop = way.steps
            left = real(1.0)
            behind = shown
            if slabs > 1:
                begin, stop = span(way, axis, low, high)
                at = (slab * count + n) * wp.static(width + 1)
                before = vec()
                for a in range(wp.static(width)):
                    before[a] = states[at + a]
                left = states[at + wp.static(width)]
                behind = shown - before
            after = wp.dot(behind, g_ray)
            near_side = wp.where(axis == 0, 0x55, wp.where(axis == 1, 0x33, 0x0F))
            if wp.static(plain or changed):  # noqa: SIM102 - warp leaves out a branch for a static condition alone
                if voxels.shape[0] > 0:
                    into_voxels(
                        ground,
                        first,
                        step,
                        dt,
                        weighted,
                        begin,
                        stop,
                        left,
                        after,
                        g_ray,
                        by_alpha,
                        axis,
                        near_side,
                        low,
                        high,
                        voxels,
                        kappas,
                    )
            if wp.static(not plain):
                if numbers.shape[0] == 0:
                    stop = begin
                for i in range(begin, stop):
                    p = place(shape, first, step, i)
                    x, fx = along(shape[2], p[0])
                    y, fy = along(shape[1], p[1])
                    z, fz = along(shape[0], p[2])
                    f = vec3(fx, fy, fz)
                    m = x + s[1] * y + s[2] * z
                    c, kappa = sample(ground, s, m, f)
                    alpha = opacity(kappa * dt)
                    rest = left - left * alpha
                    w = left * wp.where(weighted != 0, alpha, dt)
                    towards = wp.dot(c, g_ray)
                    after -= w * towards
                    by_colour = w * g_ray
                    by_colour[wp.static(last)] = dt * (wp.where(weighted != 0, rest * towards, zero) - after + by_alpha)
                    if wp.static(changed):
                        change = mixed(ground, s, m, f)
                        by_colour[wp.static(last)] = by_colour[wp.static(last)] * change[wp.static(last)]
                    at_cell = wp.where(axis == 0, x, wp.where(axis == 1, y, z))
                    mask = wp.where(low <= at_cell and at_cell < high, near_side, 0)
                    mask += wp.where(low <= at_cell + 1 and at_cell + 1 < high, near_side ^ 0xFF, 0)
                    spread(ground, s, m, f, mask, by_colour, numbers)
                    left = rest

    @wp.func
    def gradient(ground: Ground, s: wp.vec3i, m: int, f: vec3, by_colour: vec, by_kappa: real):
        # how a sample's share of sum(g image) changes with its place, along (i, j, k)
        total = vec3()
        by_voxel = by_colour
        if wp.static(not plain):
            _x, slopes = number(ground, s, m, f, 0)
            by_x, by_y = slopes_of(ground, s, m, f)
            by_table = by_colour
            if wp.static(changed):
                c = classified(ground, s, m, f)
                change = mixed(ground, s, m, f)
                by_voxel[wp.static(last)] = by_kappa * c[wp.static(last)]
                by_table[wp.static(last)] = by_kappa * change[wp.static(last)]
            total += wp.dot(by_table, by_x) * slopes
            if wp.static(kind == "table2"):
                _y, slopes2 = number(ground, s, m, f, 1)
                total += wp.dot(by_colour, by_y) * slopes2
            if wp.static(not changed):
                return total
        for corner in range(8):
            v = voxel(s, m, corner)
            e = wp.dot(wide(ground.voxels[v]), by_voxel)
            if wp.static(apart):
                e += real(ground.kappas[v]) * by_kappa
            x = wp.where((corner & 1) == 0, one - f[0], f[0])
            y = wp.where((corner & 2) == 0, one - f[1], f[1])
            z = wp.where((corner & 4) == 0, one - f[2], f[2])
            ex = wp.where((corner & 1) == 0, -e, e)
            ey = wp.where((corner & 2) == 0, -e, e)
            ez = wp.where((corner & 4) == 0, -e, e)
            total += vec3(ex * y * z, ey * x * z, ez * x * y)
        return total

    if not plain:

        @wp.func_native(loops.into_table())
        def into_table(
            ground: Ground,
            first: vec3,
            step: vec3,
            dt: real,
            weighted: int,
            begin: int,
            stop: int,
            before: real,
            after: real,
            by_image: vec,
            by_alpha: real,
            base: int,
            tables: wp.array(dtype=vec),
        ): ...

        @wp.kernel(module=module_of("adjoint_table"))
        def adjoint_table(
            ground: Ground,
            view: View,
            weighted: int,
            first_tile: int,
            tile: int,  # rays of a thread, which sums what they give
            count: int,
            total: int,
            block: int,
            image: wp.array(dtype=real),
            g: wp.array(dtype=real),
            g_alpha: real,
            apiece: int,  # entries of each thread's own table; 0: all share one
            tables: wp.array(dtype=vec),
        ):
            t = first_tile + wp.tid()
            for n in range(t * tile, wp.min((t + 1) * tile, count)):
                way = way_of(view, ground.shape, n)
                first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
                g_ray = of_ray(g, n, total, block)
                after = wp.dot(of_ray(image, n, total, block), g_ray)
                by_alpha = g_alpha * g[n * total + total - 1] * (one - image[n * total + total - 1])
                into_table(
                    ground, first, step, dt, weighted, 0, way.steps, one, after, g_ray, by_alpha, t * apiece, tables
                )

    else:
        adjoint_table = None

    @wp.kernel(module=module_of("adjoint_pose"))
    def adjoint_pose(
        ground: Ground,
        view: View,
        weighted: int,
        first_tile: int,
        tile: int,  # rays of a thread, which sums what they give
        count: int,
        total: int,
        block: int,
        image: wp.array(dtype=real),
        g: wp.array(dtype=real),
        g_alpha: real,
        poses: wp.array(dtype=wp.float64, ndim=2),  # (tile, 12): by source, by matrix
    ):
        t = first_tile + wp.tid()
        shape = ground.shape
        s = strides(shape)
        by_source = wp.vec3d()
        by_matrix = wp.mat33d()
        for n in range(t * tile, wp.min((t + 1) * tile, count)):
            way = way_of(view, shape, n)
            first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
            g_ray = of_ray(g, n, total, block)
            after = wp.dot(of_ray(image, n, total, block), g_ray)
            by_alpha = g_alpha * g[n * total + total - 1] * (one - image[n * total + total - 1])
            left = real(1.0)
            by_place = wp.vec3d()
            by_distance = wp.vec3d()
            for i in range(way.steps):
                p = place(shape, first, step, i)
                x, fx = along(shape[2], p[0])
                y, fy = along(shape[1], p[1])
                z, fz = along(shape[0], p[2])
                f = vec3(fx, fy, fz)
                m = x + s[1] * y + s[2] * z
                c, kappa = sample(ground, s, m, f)
                alpha = opacity(kappa * dt)
                rest = left - left * alpha
                w = left * wp.where(weighted != 0, alpha, dt)
                towards = wp.dot(c, g_ray)
                after -= w * towards
                by_kappa = dt * (wp.where(weighted != 0, rest * towards, zero) - after + by_alpha)
                by_colour = w * g_ray
                if wp.static(not apart):
                    by_colour[wp.static(last)] = by_kappa
                d = gradient(ground, s, m, f, by_colour, by_kappa)
                d64 = wp.vec3d(wp.float64(d[0]), wp.float64(d[1]), wp.float64(d[2]))
                by_place += d64
                by_distance += d64 * (way.enter + (wp.float64(i) + way.start) * view.step)
                left = rest
            by_enter = wp.dot(by_place, way.direction)
            if way.face >= 0:  # where the ray enters moves with the source and turns with the direction
                change = -by_enter / way.direction[way.face]
                by_place[way.face] = by_place[way.face] + change
                by_distance[way.face] = by_distance[way.face] + change * way.enter
            by_source += by_place
            by_matrix += wp.outer(by_distance, way.camera)
        for a in range(3):
            poses[t, a] = by_source[a]
            for b in range(3):
                poses[t, 3 + 3 * a + b] = by_matrix[a, b]

    @wp.kernel(module=module_of("weights"))
    def weights(
        ground: Ground,  # the extinction alone
        view: View,
        weighted: int,
        ids: wp.array(dtype=int),
        labels: int,
        start: int,
        image: wp.array(dtype=real),
    ):
        n = start + wp.tid()
        shape = ground.shape
        s = strides(shape)
        way = way_of(view, shape, n)
        first, step, dt = narrow(way.first), narrow(way.step), real(view.step)
        left = real(1.0)
        for i in range(way.steps):
            p = place(shape, first, step, i)
            x, fx = along(shape[2], p[0])
            y, fy = along(shape[1], p[1])
            z, fz = along(shape[0], p[2])
            f = vec3(fx, fy, fz)
            m = x + s[1] * y + s[2] * z
            _c, kappa = sample(ground, s, m, f)
            alpha = opacity(kappa * dt)
            w = left * wp.where(weighted != 0, alpha, dt)
            for corner in range(8):
                at = n * labels + ids[voxel(s, m, corner)]
                image[at] = image[at] + w * share(f, corner)
            left -= left * alpha

    @wp.kernel(module=module_of("extremes"))
    def extremes(
        values: wp.array(dtype=value),
        stride: int,
        offset: int,
        shape: wp.vec3i,
        blocks: wp.vec3i,
        start: int,
        found: wp.array(dtype=real, ndim=2),  # (block, 2): the least and the greatest value that its cells touch
    ):
        n = start + wp.tid()
        bx, by, bz = n % blocks[2], (n // blocks[2]) % blocks[1], n // (blocks[2] * blocks[1])
        size = int(1 << BLOCK_BITS)
        first = offset + stride * size * ((bz * shape[1] + by) * shape[2] + bx)
        least, most = real(values[first]), real(values[first])
        for z in range(size * bz, wp.min(size * bz + size + 1, shape[0])):
            for y in range(size * by, wp.min(size * by + size + 1, shape[1])):
                row = offset + stride * (z * shape[1] + y) * shape[2]
                for x in range(size * bx, wp.min(size * bx + size + 1, shape[2])):
                    v = real(values[row + stride * x])
                    least = wp.min(least, v)
                    most = wp.max(most, v)
        found[n, 0] = least
        found[n, 1] = most

    return SimpleNamespace(
        extremes=extremes,
        block=1 << BLOCK_BITS,
        modules=modules,
        View=View,
        Ground=Ground,
        vec=vec,
        held=held,
        vec3=vec3,
        vec6d=vec6d,
        real=real,
        value=value,
        draw=draw,
        project=project,
        adjoint_voxels=adjoint_voxels,
        adjoint_table=adjoint_table,
        adjoint_pose=adjoint_pose,
        weights=weights,
    )
