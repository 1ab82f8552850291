"""Attenuation along rays as one fused kernel source for CPU and CUDA (NVIDIA warp); `line_torch` is its plain twin.

Joseph's method: a ray steps from voxel slice to voxel slice along its dominant axis w and samples each slice
bilinearly in the other two, u (the one that runs faster in memory) and v. In a slice s the ray is at u = a + b s,
v = c + e s, so that p = L sum_s B(a + b s, c + e s), L the length between two slices. Only five sums per ray
(B, its two slopes, and the slopes times s) are needed for the exact derivative of this p in source and direction,
and with them in any rigid motion: the pose Jacobian comes out of the same pass.

Source: Joseph, IEEE TMI 1 (1982) 192, doi:10.1109/TMI.1982.4307572.

Set-up of a ray is in float64 (a source 1000 mm away loses 1e-4 voxel in float32), the loop in the volume's precision.
Coordinates are those of the padded array: index + PAD.
"""

from types import SimpleNamespace
from typing import no_type_check

import warp as wp

from diffrender.rays.pencil import PAD

DTYPES = {"int16": wp.int16, "float32": wp.float32, "float64": wp.float64}


@no_type_check  # shape checks in tests wrap what they see, and warp reads the source of what it compiles
def build(stored: str) -> SimpleNamespace:
    """The kernels for one stored type: `forward`, `jacobian`, `adjoint`, `labels` (a warp module of its own each).

    Called once per type; warp compiles a module at its first launch and keeps it on disk.
    """
    value = DTYPES[stored]
    real = wp.float64 if stored == "float64" else wp.float32
    module = wp.get_module(f"diffrender_line_{stored}")
    for option, setting in (("enable_backward", False), ("fast_math", False)):
        module.options[option] = setting
    zero, one, half = real(0.0), real(1.0), real(0.5)

    @wp.struct
    class Ray:
        axis: int  # w: 0 = i, 1 = j, 2 = k
        first: int  # slices that the loop visits
        last: int
        a: real  # u and v in slice `first`, and their steps from slice to slice
        b: real
        c: real
        e: real
        length: wp.float64  # [mm] from slice to slice
        near: int  # the slice nearest the source along the ray, when the source lies inside the volume
        part: wp.float64  # and how far it is, in slices

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
    def clip(low: wp.float64, high: wp.float64, offset: wp.float64, slope: wp.float64, end: wp.float64):
        # where 1 <= offset + slope s <= end; beyond it the interpolant is air
        if wp.abs(slope) < wp.float64(1.0e-12):
            if offset < wp.float64(1.0) or offset > end:
                return wp.vec2d(wp.float64(1.0), wp.float64(0.0))
            return wp.vec2d(low, high)
        s0 = (wp.float64(1.0) - offset) / slope
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
        s = clip(low, high, a, b, wp.float64(extent(shape, u_axis(w))) - pad)
        s = clip(s[0], s[1], c, e, wp.float64(extent(shape, v_axis(w))) - pad)
        ray.axis = w
        ray.length = norm / wp.abs(d_w)
        ray.first = int(1)
        ray.last = int(0)
        if s[0] <= s[1]:
            ray.first = int(wp.ceil(s[0]))
            ray.last = int(wp.floor(s[1]))
        first = wp.float64(ray.first)
        ray.a = real(a + b * first)
        ray.b = real(b)
        ray.c = real(c + e * first)
        ray.e = real(e)
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

    @wp.kernel(module=module)
    def forward(
        volume: wp.array(dtype=value),
        shape: wp.vec3i,
        air: real,
        scale: wp.float64,
        matrix: wp.array(dtype=wp.float64, ndim=2),
        detector: wp.array(dtype=wp.float64),
        pixels: wp.array(dtype=wp.float64, ndim=2),
        inside: int,
        start: int,
        p: wp.array(dtype=real),
    ):
        n = start + wp.tid()
        q = pixel(detector, pixels, n)
        o = source_of(matrix, 0)
        d = direction_of(matrix, 0, q)
        ray = ray_of(shape, o, d, wp.length(q), inside)
        w = ray.axis
        su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
        total = real(0.0)
        base = ray.first * sw
        for s in range(ray.last - ray.first + 1):
            t = real(s)
            total += sample(volume, base, su, sv, ray.a + ray.b * t, ray.c + ray.e * t)[0]
            base += sw
        total -= air * real(wp.max(ray.last - ray.first + 1, 0))
        if inside != 0:
            f = real(ray.part)
            t = real(ray.near - ray.first)
            near = sample(volume, ray.near * sw, su, sv, ray.a + ray.b * t, ray.c + ray.e * t)[0] - air
            low = int(pick(o, w))
            g = real(pick(o, w) - wp.float64(low))
            ou, ov = real(pick(o, u_axis(w))), real(pick(o, v_axis(w)))
            here = (one - g) * sample(volume, low * sw, su, sv, ou, ov)[0]
            here += g * sample(volume, (low + 1) * sw, su, sv, ou, ov)[0] - air
            total += half * ((f - one) * near + f * here)
        p[n] = real(scale * ray.length * wp.float64(total))

    @wp.kernel(module=module)
    def jacobian(
        volume: wp.array(dtype=value),
        shape: wp.vec3i,
        air: real,
        scale: wp.float64,
        matrix: wp.array(dtype=wp.float64, ndim=2),  # 3 (1 + 6) rows: the matrix and its derivatives in xi
        detector: wp.array(dtype=wp.float64),
        pixels: wp.array(dtype=wp.float64, ndim=2),
        inside: int,
        start: int,
        p: wp.array(dtype=real),
        j: wp.array(dtype=real, ndim=2),
    ):
        n = start + wp.tid()
        q = pixel(detector, pixels, n)
        o = source_of(matrix, 0)
        d = direction_of(matrix, 0, q)
        ray = ray_of(shape, o, d, wp.length(q), inside)
        w = ray.axis
        su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
        total = real(0.0)
        gu = real(0.0)
        gv = real(0.0)
        hu = real(0.0)
        hv = real(0.0)
        base = ray.first * sw
        for s in range(ray.last - ray.first + 1):
            t = real(s)
            x = sample(volume, base, su, sv, ray.a + ray.b * t, ray.c + ray.e * t)
            total += x[0]
            gu += x[1]
            gv += x[2]
            hu += x[1] * t
            hv += x[2] * t
            base += sw
        total -= air * real(wp.max(ray.last - ray.first + 1, 0))
        # d sum / d (o_u, o_v, o_w, d_u, d_v, d_w), from the five sums
        extra_w = wp.float64(0.0)  # what the source inside the volume adds to o_w
        extra_u = wp.float64(0.0)
        extra_v = wp.float64(0.0)
        if inside != 0:
            f = real(ray.part)
            t = real(ray.near - ray.first)
            near = sample(volume, ray.near * sw, su, sv, ray.a + ray.b * t, ray.c + ray.e * t)
            low = int(pick(o, w))
            g = real(pick(o, w) - wp.float64(low))
            ou, ov = real(pick(o, u_axis(w))), real(pick(o, v_axis(w)))
            below = sample(volume, low * sw, su, sv, ou, ov)
            above = sample(volume, (low + 1) * sw, su, sv, ou, ov)
            here = below + g * (above - below)
            weight = half * (f - one)
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
        d_w = pick(d, w)
        b, e = wp.float64(ray.b), wp.float64(ray.e)
        lever = wp.float64(ray.first) - pick(o, w)
        o_u, o_v = wp.float64(gu), wp.float64(gv)
        d_u, d_v = (wp.float64(hu) + lever * o_u) / d_w, (wp.float64(hv) + lever * o_v) / d_w
        o_grad = wp.vec3d(o_u + extra_u, o_v + extra_v, extra_w - b * o_u - e * o_v)
        d_grad = wp.vec3d(d_u, d_v, -b * d_u - e * d_v - wp.float64(total) / d_w)
        p[n] = real(factor * wp.float64(total))
        for m in range(6):
            do = source_of(matrix, 1 + m)
            dd = direction_of(matrix, 1 + m, q)
            change = o_grad[0] * pick(do, u_axis(w)) + o_grad[1] * pick(do, v_axis(w)) + o_grad[2] * pick(do, w)
            change += d_grad[0] * pick(dd, u_axis(w)) + d_grad[1] * pick(dd, v_axis(w)) + d_grad[2] * pick(dd, w)
            j[n, m] = real(factor * change)

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
        for s in range(wp.max(ray.first, low), wp.min(ray.last + 1, high)):
            t = real(s - ray.first)
            scatter(out, shape, w, s, low, high, ray.a + ray.b * t, ray.c + ray.e * t, weight)
        if inside != 0:
            f = real(ray.part)
            t = real(ray.near - ray.first)
            scatter(out, shape, w, ray.near, low, high, ray.a + ray.b * t, ray.c + ray.e * t, weight * half * (f - one))
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

    @wp.kernel(module=module)
    def labels(
        volume: wp.array(dtype=value),
        groups: wp.array(dtype=wp.int16),  # padded like the volume: which set of labels a voxel belongs to; 0 is none
        starts: wp.array(dtype=int),  # set -> its labels, as rows of `lengths`
        members: wp.array(dtype=int),
        shape: wp.vec3i,
        air: real,
        scale: wp.float64,
        matrix: wp.array(dtype=wp.float64, ndim=2),
        detector: wp.array(dtype=wp.float64),
        pixels: wp.array(dtype=wp.float64, ndim=2),
        inside: int,
        start: int,
        p: wp.array(dtype=real),
        lengths: wp.array(dtype=wp.float32, ndim=2),
    ):
        n = start + wp.tid()
        q = pixel(detector, pixels, n)
        o = source_of(matrix, 0)
        d = direction_of(matrix, 0, q)
        ray = ray_of(shape, o, d, wp.length(q), inside)
        w = ray.axis
        su, sv, sw = stride(shape, u_axis(w)), stride(shape, v_axis(w)), stride(shape, w)
        length = wp.float32(ray.length)
        total = real(0.0)
        run = int(0)  # one set's steps are summed in a register for as long as the ray stays inside it
        steps = wp.float32(0.0)
        base = ray.first * sw
        for s in range(ray.last - ray.first + 1):
            t = real(s)
            u, v = ray.a + ray.b * t, ray.c + ray.e * t
            total += sample(volume, base, su, sv, u, v)[0]
            weight = wp.float32(1.0)
            if inside != 0 and s + ray.first == ray.near:
                weight = wp.float32(0.5) + wp.float32(0.5) * wp.float32(ray.part)
            iu, iv = int(u), int(v)
            m = base + iu * su + iv * sv
            g00, g01, g10, g11 = int(groups[m]), int(groups[m + su]), int(groups[m + sv]), int(groups[m + sv + su])
            if g00 == g01 and g00 == g10 and g00 == g11:
                if g00 != run:
                    if run != 0:
                        flush(lengths, starts, members, run, n, length * steps)
                    run = g00
                    steps = wp.float32(0.0)
                steps += weight
            else:
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
            base += sw
        if run != 0:
            flush(lengths, starts, members, run, n, length * steps)
        total -= air * real(wp.max(ray.last - ray.first + 1, 0))
        if inside != 0:
            f = real(ray.part)
            t = real(ray.near - ray.first)
            near = sample(volume, ray.near * sw, su, sv, ray.a + ray.b * t, ray.c + ray.e * t)[0] - air
            low = int(pick(o, w))
            g = real(pick(o, w) - wp.float64(low))
            ou, ov = real(pick(o, u_axis(w))), real(pick(o, v_axis(w)))
            here = (one - g) * sample(volume, low * sw, su, sv, ou, ov)[0]
            here += g * sample(volume, (low + 1) * sw, su, sv, ou, ov)[0] - air
            total += half * ((f - one) * near + f * here)
            # labels at the source: the set of the nearest voxel
            m = int(o[2] + wp.float64(0.5)) * shape[1] * shape[2] + int(o[1] + wp.float64(0.5)) * shape[2]
            group = int(groups[m + int(o[0] + wp.float64(0.5))])
            if group != 0:
                flush(lengths, starts, members, group, n, length * wp.float32(half * f))
        p[n] = real(scale * ray.length * wp.float64(total))

    return SimpleNamespace(forward=forward, jacobian=jacobian, adjoint=adjoint, labels=labels)
