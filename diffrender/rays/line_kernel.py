"""Attenuation along rays as one fused kernel source for CPU and CUDA (NVIDIA warp); `line_torch` is its plain twin.

Joseph's method: a ray steps from voxel slice to voxel slice along its dominant axis w and samples each slice
bilinearly in the other two, u (the one that runs faster in memory) and v. In a slice s the ray is at u = a + b s,
v = c + e s, so that p = L sum_s B(a + b s, c + e s), L the length between two slices. Only five sums per ray
(B, its two slopes, and the slopes times s) are needed for the exact derivative of this p in source and direction,
and with them in any rigid motion: the pose Jacobian comes out of the same pass. A steep ray (see `pencil.STEEP`) takes
two samples in a slice, a part of a slice before and behind it, and the mean of the two sums.

Source: Joseph, IEEE TMI 1 (1982) 192, doi:10.1109/TMI.1982.4307572.

Set-up of a ray is in float64 (a source 1000 mm away loses 1e-4 voxel in float32), the loop in the volume's precision.
Coordinates are those of the padded array: index + PAD.
"""

from types import SimpleNamespace
from typing import no_type_check

import warp as wp

from diffrender.rays.pencil import HALF_HAT, PAD, STEEP

LANES = 8  # on the CPU; 4 and 16 are slower on AVX2. On CUDA a thread takes one ray
DTYPES = {"int16": wp.int16, "float32": wp.float32, "float64": wp.float64}


@no_type_check  # shape checks in tests wrap what they see, and warp reads the source of what it compiles
def build(stored: str) -> SimpleNamespace:
    """The kernels for one stored type, a warp module of their own: `line_N` (p), `pose_N` (p and its Jacobian), N rays
    side by side, `adjoint` and `labels`. Called once per type; warp keeps what it has compiled on disk.
    """
    value = DTYPES[stored]
    real = wp.float64 if stored == "float64" else wp.float32
    module = wp.get_module(f"diffrender_line_{stored}")
    # Warp's own flags hold the vectoriser back to compile faster, and are a sixth slower here. Older versions lack it.
    for option, setting in (("enable_backward", False), ("fast_math", False), ("cpu_compiler_flags", "-march=native")):
        if option in module.options:
            module.options[option] = setting
    zero, one, half = real(0.0), real(1.0), real(0.5)

    @wp.struct
    class Ray:
        axis: int  # w: 0 = i, 1 = j, 2 = k
        first: int  # slices that the loop visits
        last: int
        a: wp.float64  # u = a + b s and v = c + e s in slice s
        b: wp.float64
        c: wp.float64
        e: wp.float64
        samples: int  # in a slice: 1, or 2 at `offset` slices before and behind it
        offset: wp.float64
        length: wp.float64  # [mm] from slice to slice
        near: int  # the slice nearest the source along the ray, when the source lies inside the volume
        part: wp.float64  # and how far it is, in slices

    @wp.struct
    class Sums:
        total: real  # of B over the slices
        gu: real  # of its slopes in u and v
        gv: real
        hu: real  # of the slopes times slices since the first
        hv: real

    @wp.func
    def pick(v: wp.vec3d, axis: int):
        if axis == 0:
            return v[0]
        if axis == 1:
            return v[1]
        return v[2]

    @wp.func
    def u_axis(w: int):
        return wp.where(w == 0, 1, 0)

    @wp.func
    def v_axis(w: int):
        return wp.where(w == 2, 1, 2)

    @wp.func
    def extent(shape: wp.vec3i, axis: int):
        if axis == 0:
            return shape[2]
        if axis == 1:
            return shape[1]
        return shape[0]

    @wp.func
    def stride(shape: wp.vec3i, axis: int):
        if axis == 0:
            return 1
        if axis == 1:
            return shape[2]
        return shape[1] * shape[2]

    @wp.func
    def dominant(d: wp.vec3d):
        w = int(0)
        if wp.abs(d[1]) > wp.abs(d[0]):
            w = int(1)
        if wp.abs(d[2]) > wp.abs(pick(d, w)):
            w = int(2)
        return w

    @wp.func
    def clip(
        low: wp.float64, high: wp.float64, offset: wp.float64, slope: wp.float64, start: wp.float64, end: wp.float64
    ):
        # where start <= offset + slope s <= end
        if wp.abs(slope) < wp.float64(1.0e-12):
            if offset < start or offset > end:
                return wp.vec2d(wp.float64(1.0), wp.float64(0.0))
            return wp.vec2d(low, high)
        s0 = (start - offset) / slope
        s1 = (end - offset) / slope
        return wp.vec2d(wp.max(low, wp.min(s0, s1)), wp.min(high, wp.max(s0, s1)))

    @wp.func
    def ray_of(shape: wp.vec3i, o: wp.vec3d, d: wp.vec3d, norm: wp.float64, inside: int):
        ray = Ray()
        w = dominant(d)
        d_w, o_w = pick(d, w), pick(o, w)
        b, e = pick(d, u_axis(w)) / d_w, pick(d, v_axis(w)) / d_w
        a, c = pick(o, u_axis(w)) - o_w * b, pick(o, v_axis(w)) - o_w * e
        pad = wp.float64(PAD)
        low, high = pad, wp.float64(extent(shape, w)) - pad - wp.float64(1.0)
        if d_w > wp.float64(0.0):
            low = wp.max(low, o_w)
        else:
            high = wp.min(high, o_w)
        ray.samples = int(1)
        ray.offset = wp.float64(0.0)
        if b * b + e * e > wp.float64(STEEP):
            ray.samples = int(2)
            ray.offset = wp.float64(HALF_HAT)
        air = pad - wp.float64(1.0) - ray.offset  # a voxel beyond the outermost centres; slopes are 1 at most
        s = clip(low, high, a, b, air, wp.float64(extent(shape, u_axis(w)) - 1) - air)
        s = clip(s[0], s[1], c, e, air, wp.float64(extent(shape, v_axis(w)) - 1) - air)
        ray.axis = w
        ray.length = norm / wp.abs(d_w)
        ray.first = int(1)
        ray.last = int(0)
        if s[0] <= s[1]:
            ray.first = int(wp.ceil(s[0]))
            ray.last = int(wp.floor(s[1]))
        ray.a = a
        ray.b = b
        ray.c = c
        ray.e = e
        if inside != 0:
            if d_w > wp.float64(0.0):
                ray.near = int(wp.ceil(o_w))
            else:
                ray.near = int(wp.floor(o_w))
            ray.part = wp.abs(wp.float64(ray.near) - o_w)
        return ray

    @wp.func
    def sample(volume: wp.array(dtype=value), base: int, su: int, sv: int, u: real, v: real):
        # B and its slopes in u and v. u, v > 0 always, so int() is floor.
        iu, iv = int(u), int(v)
        fu, fv = u - real(iu), v - real(iv)
        n = base + iu * su + iv * sv
        v00, v01 = real(volume[n]), real(volume[n + su])
        v10, v11 = real(volume[n + sv]), real(volume[n + sv + su])
        d0, d1 = v01 - v00, v11 - v10
        x0 = v00 + fu * d0
        slope_v = v10 + fu * d1 - x0
        return wp.vector(x0 + fv * slope_v, d0 + fv * (d1 - d0), slope_v, length=3, dtype=real)

    @wp.func
    def crossing(ray: Ray, s: int):
        # (u, v) where the ray crosses slice s
        t = wp.float64(s)
        return wp.vector(real(ray.a + ray.b * t), real(ray.c + ray.e * t), length=2, dtype=real)

    @wp.func
    def held(shape: wp.vec3i, axis: int, x: real):
        # outside the array there is only air, as in the pad
        return wp.clamp(x, half, real(extent(shape, axis)) - real(1.5))

    @wp.func
    def source_of(matrix: wp.array(dtype=wp.float64, ndim=2), n: int):
        return wp.vec3d(matrix[3 * n, 3], matrix[3 * n + 1, 3], matrix[3 * n + 2, 3])

    @wp.func
    def direction_of(matrix: wp.array(dtype=wp.float64, ndim=2), n: int, q: wp.vec3d):
        x = matrix[3 * n, 0] * q[0] + matrix[3 * n, 1] * q[1] + matrix[3 * n, 2] * q[2]
        y = matrix[3 * n + 1, 0] * q[0] + matrix[3 * n + 1, 1] * q[1] + matrix[3 * n + 1, 2] * q[2]
        z = matrix[3 * n + 2, 0] * q[0] + matrix[3 * n + 2, 1] * q[1] + matrix[3 * n + 2, 2] * q[2]
        return wp.vec3d(x, y, z)

    @wp.func
    def pixel(detector: wp.array(dtype=wp.float64), pixels: wp.array(dtype=wp.float64, ndim=2), n: int):
        # the ray's direction in the camera frame [mm]; detector = columns, row step, column step, row, column, distance
        row = wp.float64(0.0)
        column = wp.float64(0.0)
        if pixels.shape[0] > 0:
            row = wp.float64(pixels[n, 0])
            column = wp.float64(pixels[n, 1])
        else:
            columns = int(detector[0])
            r = n // columns
            row = wp.float64(r) + wp.float64(0.5)
            column = wp.float64(n - r * columns) + wp.float64(0.5)
        return wp.vec3d((column - detector[4]) * detector[2], (row - detector[3]) * detector[1], detector[5])

    @wp.func
    def write(
        volume: wp.array(dtype=value),
        shape: wp.vec3i,
        air: real,
        scale: wp.float64,
        matrix: wp.array(dtype=wp.float64, ndim=2),
        q: wp.vec3d,
        inside: int,
        first: int,  # the slices that the sums run over
        count: int,
        sums: Sums,
        n: int,
        p: wp.array(dtype=real),
        j: wp.array(dtype=real, ndim=2),  # of no rows where no pose is asked for
    ):
        # From the five sums of a ray to p and its derivative in the pose.
        o = source_of(matrix, 0)
        d = direction_of(matrix, 0, q)
        ray = ray_of(shape, o, d, wp.length(q), inside)
        w = ray.axis
        total = sums.total - air * real(count)
        gu, gv, hu, hv = real(sums.gu), real(sums.gv), real(sums.hu), real(sums.hv)
        extra_u = wp.float64(0.0)  # what a source inside the volume adds to the derivative in itself
        extra_v = wp.float64(0.0)
        extra_w = wp.float64(0.0)
        if inside != 0:
            # The step from the source to the nearest slice is a part of one: the trapezoid over that part, less the
            # half step that the plain sum gave the nearest slice.
            su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
            f = real(ray.part)
            at = crossing(ray, ray.near)
            at_u, at_v = held(shape, u_axis(w), at[0]), held(shape, v_axis(w), at[1])
            near = sample(volume, ray.near * sw, su, sv, at_u, at_v)
            low = int(pick(o, w))
            g = real(pick(o, w) - wp.float64(low))
            ou, ov = real(pick(o, u_axis(w))), real(pick(o, v_axis(w)))
            below = sample(volume, low * sw, su, sv, ou, ov)
            above = sample(volume, (low + 1) * sw, su, sv, ou, ov)
            here = below + g * (above - below)
            weight = half * (f - one)
            t = real(ray.near - first)
            total += weight * (near[0] - air) + half * f * (here[0] - air)
            gu += weight * near[1]
            gv += weight * near[2]
            hu += weight * near[1] * t
            hv += weight * near[2] * t
            extra_u = wp.float64(half * f * here[1])
            extra_v = wp.float64(half * f * here[2])
            sign = wp.where(pick(d, w) > wp.float64(0.0), -half, half)  # the part shrinks as the source moves on
            extra_w = wp.float64(sign * (near[0] + here[0] - real(2.0) * air) + half * f * (above[0] - below[0]))
        factor = scale * ray.length
        p[n] = real(factor * wp.float64(total))
        if j.shape[0] == 0:
            return
        d_w = pick(d, w)
        lever = wp.float64(first) - pick(o, w)
        o_u, o_v = wp.float64(gu), wp.float64(gv)
        d_u, d_v = (wp.float64(hu) + lever * o_u) / d_w, (wp.float64(hv) + lever * o_v) / d_w
        o_grad = wp.vec3d(o_u + extra_u, o_v + extra_v, extra_w - ray.b * o_u - ray.e * o_v)
        d_grad = wp.vec3d(d_u, d_v, -ray.b * d_u - ray.e * d_v - wp.float64(total) / d_w)
        for m in range(6):
            do = source_of(matrix, 1 + m)
            dd = direction_of(matrix, 1 + m, q)
            change = o_grad[0] * pick(do, u_axis(w)) + o_grad[1] * pick(do, v_axis(w)) + o_grad[2] * pick(do, w)
            change += d_grad[0] * pick(dd, u_axis(w)) + d_grad[1] * pick(dd, v_axis(w)) + d_grad[2] * pick(dd, w)
            j[n, m] = real(factor * change)

    @wp.func
    def sums_of(volume: wp.array(dtype=value), shape: wp.vec3i, ray: Ray):
        w = ray.axis
        su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
        start = crossing(ray, ray.first)
        a, b, c, e = start[0], real(ray.b), start[1], real(ray.e)
        sums = Sums()
        weight = one / real(ray.samples)
        for k in range(ray.samples):
            offset = real(wp.where(k == 0, -ray.offset, ray.offset))
            base = ray.first * sw
            for s in range(ray.last - ray.first + 1):
                t = real(s) + offset
                x = weight * sample(volume, base, su, sv, a + b * t, c + e * t)
                sums.total += x[0]
                sums.gu += x[1]
                sums.gv += x[2]
                sums.hu += x[1] * t
                sums.hv += x[2] * t
                base += sw
        return sums

    def lines(pose: bool, lanes: int):
        """The kernel for p, with its Jacobian if `pose`. On the CPU `lanes` rays go through the slices side by side.

        So they share cache lines and fill vector registers: 1.3 to 1.7 times the speed of one after the other. Where
        one of them is outside the volume it is held in the pad, where all is air.
        """
        lane = wp.types.vector(length=lanes, dtype=real)
        lane64 = wp.types.vector(length=lanes, dtype=wp.float64)

        def rays(
            volume: wp.array(dtype=value),
            shape: wp.vec3i,
            air: real,
            scale: wp.float64,
            matrix: wp.array(dtype=wp.float64, ndim=2),  # 3 (1 + 6) rows: the matrix and its derivatives in xi
            detector: wp.array(dtype=wp.float64),
            pixels: wp.array(dtype=wp.float64, ndim=2),
            inside: int,
            start: int,
            stop: int,
            p: wp.array(dtype=real),
            j: wp.array(dtype=real, ndim=2),
        ):
            n = start + wp.static(lanes) * wp.tid()
            count = wp.min(wp.static(lanes), stop - n)
            o = source_of(matrix, 0)
            # Rays go side by side if they step along one axis, one way.
            a64, b64, c64, e64 = lane64(), lane64(), lane64(), lane64()
            first = int(1 << 30)
            last = int(0)
            w = int(0)
            ahead = int(0)
            samples = int(1)
            offset = wp.float64(0.0)
            alike = int(1)
            for r in range(count):
                q = pixel(detector, pixels, n + r)
                d = direction_of(matrix, 0, q)
                ray = ray_of(shape, o, d, wp.length(q), inside)
                way = wp.where(pick(d, ray.axis) > wp.float64(0.0), 1, -1)
                if r > 0 and (ray.axis != w or way != ahead or ray.samples != samples):
                    alike = int(0)
                w = ray.axis
                ahead = way
                samples = ray.samples
                offset = ray.offset
                a64[r] = ray.a
                b64[r] = ray.b
                c64[r] = ray.c
                e64[r] = ray.e
                if ray.first <= ray.last:
                    first = wp.min(first, ray.first)
                    last = wp.max(last, ray.last)
            if wp.static(lanes) == 1 or count < wp.static(lanes) or alike == 0 or inside != 0:
                for r in range(count):
                    q = pixel(detector, pixels, n + r)
                    ray = ray_of(shape, o, direction_of(matrix, 0, q), wp.length(q), inside)
                    sums = sums_of(volume, shape, ray)
                    visited = wp.max(ray.last - ray.first + 1, 0)
                    write(volume, shape, air, scale, matrix, q, inside, ray.first, visited, sums, n + r, p, j)
                return
            su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
            steps = wp.max(last - first + 1, 0)
            start_u = a64 + b64 * wp.float64(first)
            start_v = c64 + e64 * wp.float64(first)
            a, b, c, e = lane(), lane(), lane(), lane()
            for r in range(wp.static(lanes)):
                a[r] = real(start_u[r])
                b[r] = real(b64[r])
                c[r] = real(start_v[r])
                e[r] = real(e64[r])
            low = lane(half)
            high_u = lane(real(extent(shape, u_axis(w))) - real(1.5))
            high_v = lane(real(extent(shape, v_axis(w))) - real(1.5))
            v00, v01, v10, v11, fu, fv = lane(), lane(), lane(), lane(), lane(), lane()
            total, gu, gv, hu, hv = lane(), lane(), lane(), lane(), lane()
            for k in range(samples):
                shift = real(wp.where(k == 0, -offset, offset))
                base = first * sw
                for s in range(steps):
                    t = real(s) + shift
                    u = wp.min(wp.max(a + b * t, low), high_u)
                    v = wp.min(wp.max(c + e * t, low), high_v)
                    for r in range(wp.static(lanes)):
                        iu, iv = int(u[r]), int(v[r])
                        m = base + iu * su + iv * sv
                        v00[r] = real(volume[m])
                        v01[r] = real(volume[m + su])
                        v10[r] = real(volume[m + sv])
                        v11[r] = real(volume[m + sv + su])
                        fu[r] = u[r] - real(iu)
                        fv[r] = v[r] - real(iv)
                    d0, d1 = v01 - v00, v11 - v10
                    x0 = v00 + wp.cw_mul(fu, d0)
                    slope_v = v10 + wp.cw_mul(fu, d1) - x0
                    total += x0 + wp.cw_mul(fv, slope_v)
                    if wp.static(pose):
                        slope_u = d0 + wp.cw_mul(fv, d1 - d0)
                        gu += slope_u
                        gv += slope_v
                        hu += slope_u * t
                        hv += slope_v * t
                    base += sw
            # Copies: what a variable indexes lies in memory, and the sums of the loop above shall stay in registers.
            share = one / real(samples)
            totals, gus, gvs, hus, hvs = total * share, gu * share, gv * share, hu * share, hv * share
            for r in range(count):
                sums = Sums()
                sums.total = totals[r]
                sums.gu = gus[r]
                sums.gv = gvs[r]
                sums.hu = hus[r]
                sums.hv = hvs[r]
                q = pixel(detector, pixels, n + r)
                write(volume, shape, air, scale, matrix, q, inside, first, steps, sums, n + r, p, j)

        return wp.Kernel(rays, key=f"{'pose' if pose else 'line'}_{lanes}", module=module)

    @wp.func
    def scatter(
        out: wp.array(dtype=real), shape: wp.vec3i, w: int, s: int, low: int, high: int, u: real, v: real, g: real
    ):
        # the transpose of `sample`, into the volume without its pad; only slices low <= s < high are this launch's
        pad = int(PAD)
        if s < low or s >= high or s < pad or s >= extent(shape, w) - pad:
            return
        inner = wp.vec3i(shape[0] - 2 * pad, shape[1] - 2 * pad, shape[2] - 2 * pad)
        iu, iv = int(u), int(v)
        fu, fv = u - real(iu), v - real(iv)
        iu, iv = iu - pad, iv - pad
        nu, nv = extent(inner, u_axis(w)), extent(inner, v_axis(w))
        su, sv = stride(inner, u_axis(w)), stride(inner, v_axis(w))
        n = (s - pad) * stride(inner, w) + iu * su + iv * sv
        g1 = g * fv
        g0 = g - g1
        if iu >= 0 and iu < nu - 1 and iv >= 0 and iv < nv - 1:
            wp.atomic_add(out, n, g0 * (one - fu))
            wp.atomic_add(out, n + su, g0 * fu)
            wp.atomic_add(out, n + sv, g1 * (one - fu))
            wp.atomic_add(out, n + sv + su, g1 * fu)
            return
        for x in range(2):
            for y in range(2):
                if iu + x >= 0 and iu + x < nu and iv + y >= 0 and iv + y < nv:
                    wu = wp.where(x == 0, one - fu, fu)
                    wv = wp.where(y == 0, g0, g1)
                    wp.atomic_add(out, n + x * su + y * sv, wu * wv)

    @wp.kernel(module=module)
    def adjoint(
        shape: wp.vec3i,
        scale: wp.float64,
        matrix: wp.array(dtype=wp.float64, ndim=2),
        detector: wp.array(dtype=wp.float64),
        pixels: wp.array(dtype=wp.float64, ndim=2),
        inside: int,
        start: int,
        axis: int,  # only rays of this dominant axis, or all for -1
        low: int,  # only these slices of it: threads that share a volume share no slice
        high: int,
        g: wp.array(dtype=real),
        out: wp.array(dtype=real),
    ):
        n = start + wp.tid()
        q = pixel(detector, pixels, n)
        o = source_of(matrix, 0)
        d = direction_of(matrix, 0, q)
        w = dominant(d)
        if axis >= 0 and w != axis:
            return
        ray = ray_of(shape, o, d, wp.length(q), inside)
        weight = real(scale * ray.length * wp.float64(g[n]))
        if weight == zero:
            return
        start_at = crossing(ray, ray.first)
        a, b, c, e = start_at[0], real(ray.b), start_at[1], real(ray.e)
        share = weight / real(ray.samples)
        for k in range(ray.samples):
            offset = real(wp.where(k == 0, -ray.offset, ray.offset))
            for s in range(wp.max(ray.first, low), wp.min(ray.last + 1, high)):
                t = real(s - ray.first) + offset
                scatter(out, shape, w, s, low, high, a + b * t, c + e * t, share)
        if inside != 0:
            f = real(ray.part)
            at = crossing(ray, ray.near)
            at_u, at_v = held(shape, u_axis(w), at[0]), held(shape, v_axis(w), at[1])
            scatter(out, shape, w, ray.near, low, high, at_u, at_v, weight * half * (f - one))
            floor = int(pick(o, w))
            h = real(pick(o, w) - wp.float64(floor))
            ou, ov = real(pick(o, u_axis(w))), real(pick(o, v_axis(w)))
            scatter(out, shape, w, floor, low, high, ou, ov, weight * half * f * (one - h))
            scatter(out, shape, w, floor + 1, low, high, ou, ov, weight * half * f * h)

    @wp.func
    def flush(
        lengths: wp.array(dtype=wp.float32, ndim=2),
        starts: wp.array(dtype=int),
        members: wp.array(dtype=int),
        group: int,
        n: int,
        length: wp.float32,
    ):
        for m in range(starts[group], starts[group + 1]):
            lengths[members[m], n] = lengths[members[m], n] + length

    @wp.func
    def cut(ray: Ray, low: wp.vec3d, high: wp.vec3d):
        # the ray's slices within the box from `low` to `high`
        w = ray.axis
        first = wp.max(wp.float64(ray.first), pick(low, w))
        last = wp.min(wp.float64(ray.last), pick(high, w))
        u, v = u_axis(w), v_axis(w)
        s = clip(first, last, ray.a, ray.b, pick(low, u) - ray.offset, pick(high, u) + ray.offset)
        s = clip(s[0], s[1], ray.c, ray.e, pick(low, v) - ray.offset, pick(high, v) + ray.offset)
        ray.first = int(1)
        ray.last = int(0)
        if s[0] <= s[1]:
            ray.first = int(wp.ceil(s[0]))
            ray.last = int(wp.floor(s[1]))
        return ray

    @wp.func
    def set_at(groups: wp.array(dtype=wp.int16), n: int):
        g = int(groups[n])
        return wp.where(g < 0, -1 - g, g)

    @wp.kernel(module=module)
    def labels(
        groups: wp.array(dtype=wp.int16),  # padded as the volume; see PreparedLabels
        starts: wp.array(dtype=int),
        members: wp.array(dtype=int),
        low: wp.vec3d,  # the box that holds all labels, a voxel wider on each side
        high: wp.vec3d,
        shape: wp.vec3i,
        matrix: wp.array(dtype=wp.float64, ndim=2),
        detector: wp.array(dtype=wp.float64),
        pixels: wp.array(dtype=wp.float64, ndim=2),
        inside: int,
        start: int,
        lengths: wp.array(dtype=wp.float32, ndim=2),
    ):
        n = start + wp.tid()
        q = pixel(detector, pixels, n)
        o = source_of(matrix, 0)
        ray = cut(ray_of(shape, o, direction_of(matrix, 0, q), wp.length(q), inside), low, high)
        w = ray.axis
        su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
        length = wp.float32(ray.length)
        at = crossing(ray, ray.first)
        a, b, c, e = at[0], real(ray.b), at[1], real(ray.e)
        run = int(0)  # one set's steps are summed in a register for as long as the ray stays inside it
        steps = wp.float32(0.0)
        for k in range(ray.samples):
            offset = real(wp.where(k == 0, -ray.offset, ray.offset))
            base = ray.first * sw
            for s in range(ray.last - ray.first + 1):
                t = real(s) + offset
                u, v = a + b * t, c + e * t
                weight = wp.float32(1.0) / wp.float32(ray.samples)
                if inside != 0 and s + ray.first == ray.near:
                    weight *= wp.float32(0.5) + wp.float32(0.5) * wp.float32(ray.part)
                iu, iv = int(u), int(v)
                m = base + iu * su + iv * sv
                base += sw
                g00 = int(groups[m])
                if g00 >= 0:  # all corners are of one set
                    if g00 != run:
                        if run != 0:
                            flush(lengths, starts, members, run, n, length * steps)
                        run = g00
                        steps = wp.float32(0.0)
                    steps += weight
                else:
                    g00 = -1 - g00
                    g01, g10, g11 = set_at(groups, m + su), set_at(groups, m + sv), set_at(groups, m + sv + su)
                    fu, fv = wp.float32(u - real(iu)), wp.float32(v - real(iv))
                    w1 = weight * fv
                    w0 = weight - w1
                    x01, x11 = w0 * fu, w1 * fu
                    x00, x10 = w0 - x01, w1 - x11
                    mine = wp.where(g00 == run, x00, 0.0) + wp.where(g01 == run, x01, 0.0)
                    mine += wp.where(g10 == run, x10, 0.0) + wp.where(g11 == run, x11, 0.0)
                    steps += mine
                    if g00 != run and g00 != 0:
                        flush(lengths, starts, members, g00, n, length * x00)
                    if g01 != run and g01 != 0:
                        flush(lengths, starts, members, g01, n, length * x01)
                    if g10 != run and g10 != 0:
                        flush(lengths, starts, members, g10, n, length * x10)
                    if g11 != run and g11 != 0:
                        flush(lengths, starts, members, g11, n, length * x11)
        if run != 0:
            flush(lengths, starts, members, run, n, length * steps)
        if inside != 0:  # the part of a step at the source belongs to the set of the nearest voxel
            m = int(o[2] + wp.float64(0.5)) * shape[1] * shape[2] + int(o[1] + wp.float64(0.5)) * shape[2]
            group = set_at(groups, m + int(o[0] + wp.float64(0.5)))
            if group != 0:
                flush(lengths, starts, members, group, n, length * wp.float32(0.5) * wp.float32(ray.part))

    kernels = {f"{name}_{lanes}": lines(name == "pose", lanes) for name in ("line", "pose") for lanes in (1, LANES)}
    return SimpleNamespace(module=module, lanes=LANES, adjoint=adjoint, labels=labels, **kernels)
