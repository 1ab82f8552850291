"""Path length through a closed mesh as one fused kernel source for CPU and CUDA (NVIDIA warp); `surface_torch` is its
plain twin.

A thread takes a face, or the part of it in a band of rows, and visits the pixel centres in its bounding box. Three edge
functions, whole numbers in 64 bits and so exact, say whether it covers a pixel; on an edge the centre counts as if it
lay a little to the right and less below, which is so for all faces alike. Every covered pixel gets the depth of the
crossing, with the sign of the face's turn on the image. Depths are added as whole numbers too: in any order they give
the same sum.
"""

from types import SimpleNamespace
from typing import no_type_check

import warp as wp

from diffrender.rays.surface_torch import DEPTH_BITS, GRAZING


@no_type_check  # shape checks in tests wrap what they see, and warp reads the source of what it compiles
def build() -> SimpleNamespace:
    """The kernels, a warp module: `splat`, `corners`, `scatter`, `rates` and `volumes`."""
    module = wp.get_module("diffrender_surface")
    for option, setting in (("enable_backward", False), ("fast_math", False), ("cpu_compiler_flags", "-march=native")):
        if option in module.options:
            module.options[option] = setting
    zero, one = wp.float64(0.0), wp.float64(1.0)

    @wp.struct
    class Face:
        sign: int  # 1 where its corners run clockwise on the image (rows downwards), so that rays leave; 0: no pixel
        corner1: int  # corners in the order in which they run clockwise
        corner2: int
        top: int  # the pixels that may be covered
        bottom: int
        left: int
        right: int
        e0: wp.int64  # edge functions at (top, left), each opposite its corner, less 1 where the edge is not its own
        e1: wp.int64
        e2: wp.int64
        x0: wp.int64  # and how they grow from column to column
        x1: wp.int64
        x2: wp.int64
        y0: wp.int64  # and from row to row
        y1: wp.int64
        y2: wp.int64
        normal: wp.vec3d  # [mm2]
        offset: wp.float64  # normal . x = offset on its plane
        near: wp.float64  # depths of its corners
        far: wp.float64

    @wp.func
    def edge(u: wp.vec2i, v: wp.vec2i, x: wp.int64, y: wp.int64):
        du, dv = wp.int64(v[0]) - wp.int64(u[0]), wp.int64(v[1]) - wp.int64(u[1])
        own = dv < wp.int64(0) or (dv == wp.int64(0) and du > wp.int64(0))
        return du * (y - wp.int64(u[1])) - dv * (x - wp.int64(u[0])) - wp.where(own, wp.int64(0), wp.int64(1))

    @wp.func
    def steps(u: wp.vec2i, v: wp.vec2i):
        return wp.vec2l(wp.int64(u[1]) - wp.int64(v[1]), wp.int64(v[0]) - wp.int64(u[0]))

    @wp.func
    def normal_of(points: wp.array(dtype=wp.vec3d), faces: wp.array(dtype=wp.int64, ndim=2), f: int):
        a = points[int(faces[f, 0])]
        return wp.cross(points[int(faces[f, 1])] - a, points[int(faces[f, 2])] - a)

    @wp.func
    def face_of(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        f: int,
        bits: int,
        columns: int,
        first: int,  # rows
        last: int,
    ):
        face = Face()
        i0, i1, i2 = int(faces[f, 0]), int(faces[f, 1]), int(faces[f, 2])
        p0 = places[i0]
        here, there = places[i1], places[i2]
        unit = (int(1) << bits) - 1
        face.left = wp.max((wp.min(p0[0], wp.min(here[0], there[0])) + unit) >> bits, 0)
        face.right = wp.min(wp.max(p0[0], wp.max(here[0], there[0])) >> bits, columns - 1)
        face.top = wp.max((wp.min(p0[1], wp.min(here[1], there[1])) + unit) >> bits, first)
        face.bottom = wp.min(wp.max(p0[1], wp.max(here[1], there[1])) >> bits, last)
        if face.left > face.right or face.top > face.bottom:
            return face
        s1, s2 = steps(p0, here), steps(p0, there)
        area = s1[1] * -s2[0] + s1[0] * s2[1]
        if area == wp.int64(0):
            return face
        face.sign = int(1)
        face.corner1 = int(1)
        face.corner2 = int(2)
        if area < wp.int64(0):
            face.sign = int(-1)
            face.corner1 = int(2)
            face.corner2 = int(1)
        p1, p2 = places[int(faces[f, face.corner1])], places[int(faces[f, face.corner2])]
        x, y = wp.int64(face.left) << wp.int64(bits), wp.int64(face.top) << wp.int64(bits)
        face.e0 = edge(p1, p2, x, y)
        face.e1 = edge(p2, p0, x, y)
        face.e2 = edge(p0, p1, x, y)
        d0, d1, d2 = steps(p1, p2), steps(p2, p0), steps(p0, p1)
        face.x0 = d0[0] << wp.int64(bits)
        face.x1 = d1[0] << wp.int64(bits)
        face.x2 = d2[0] << wp.int64(bits)
        face.y0 = d0[1] << wp.int64(bits)
        face.y1 = d1[1] << wp.int64(bits)
        face.y2 = d2[1] << wp.int64(bits)
        a = points[i0]
        face.normal = wp.cross(points[i1] - a, points[i2] - a)
        face.offset = wp.dot(face.normal, a)
        z1, z2 = points[i1][2], points[i2][2]
        face.near = wp.min(a[2], wp.min(z1, z2))
        face.far = wp.max(a[2], wp.max(z1, z2))
        return face

    @wp.func
    def ray(detector: wp.array(dtype=wp.float64), row: int, column: int):
        # detector = columns, row step, column step, row, column, distance; the ray's direction where its depth is 1
        x = (wp.float64(column) + wp.float64(0.5) - detector[4]) * detector[2] / detector[5]
        y = (wp.float64(row) + wp.float64(0.5) - detector[3]) * detector[1] / detector[5]
        return wp.vec3d(x, y, one)

    @wp.func
    def depth_at(face: Face, slope: wp.float64):
        # The crossing lies in the face, so between its corners: this holds rounding down where the face is on edge.
        z = face.near
        crossing = face.offset / slope
        if crossing > face.near:
            z = wp.min(crossing, face.far)
        return z

    @wp.func
    def inverses(points: wp.array(dtype=wp.vec3d), faces: wp.array(dtype=wp.int64, ndim=2), f: int, face: Face):
        # of the corners' depths; and the length of the normal, above zero
        z0, z1 = points[int(faces[f, 0])][2], points[int(faces[f, face.corner1])][2]
        size = wp.max(wp.length(face.normal), wp.float64(1.0e-300))
        return wp.vec4d(one / z0, one / z1, one / points[int(faces[f, face.corner2])][2], size)

    @wp.func
    def pull(face: Face, q: wp.vec3d, slope: wp.float64, near: wp.vec4d, e0: wp.int64, e1: wp.int64, e2: wp.int64):
        # w / |n . d| for each corner, held where the ray grazes the face. The weights w are the corners' shares on the
        # image over their depths, made to add up to 1.
        w = wp.vec3d(wp.float64(e0) * near[0], wp.float64(e1) * near[1], wp.float64(e2) * near[2])
        if e0 + e1 + e2 <= wp.int64(0):  # a face of hardly more than a point
            w = wp.vec3d(one, one, one)
        length = wp.length(q)
        least = wp.float64(GRAZING) * length * near[3]
        w *= length / (wp.max(wp.abs(slope), least) * (w[0] + w[1] + w[2]))
        if face.corner1 == 2:
            return wp.vec3d(w[0], w[2], w[1])
        return w

    @wp.kernel(module=module)
    def splat(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        rows: int,  # of a band
        first: int,  # rows of this launch
        last: int,
        moves: wp.array(dtype=wp.vec3d, ndim=2),  # (face, parameter): how far each corner moves along the normal
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
        jacobian: wp.array(dtype=wp.float64, ndim=2),
    ):
        band, f = wp.tid()
        columns = int(detector[0])
        top = first + band * rows
        face = face_of(points, places, faces, f, bits, columns, top, wp.min(top + rows - 1, last))
        if face.sign == 0:
            return
        q = ray(detector, face.top, face.left)
        across = face.normal[0] * detector[2] / detector[5]
        down = face.normal[1] * detector[1] / detector[5]
        start = wp.dot(face.normal, q)
        unit = wp.float64(wp.static(float(1 << DEPTH_BITS)))
        near = wp.vec4d()
        if jacobian.shape[0] > 0:
            near = inverses(points, faces, f, face)
        for r in range(face.bottom - face.top + 1):
            n = (face.top + r) * columns + face.left
            e0 = face.e0 + wp.int64(r) * face.y0
            e1 = face.e1 + wp.int64(r) * face.y1
            e2 = face.e2 + wp.int64(r) * face.y2
            slope_here = start + wp.float64(r) * down
            for c in range(face.right - face.left + 1):
                if (e0 | e1 | e2) >= wp.int64(0):
                    slope = slope_here + wp.float64(c) * across
                    z = depth_at(face, slope)
                    wp.atomic_add(depths, n + c, wp.int64(face.sign) * wp.int64(z * unit + wp.float64(0.5)))
                    wp.atomic_add(signs, n + c, face.sign)
                    if jacobian.shape[0] > 0:
                        here = ray(detector, face.top + r, face.left + c)
                        w = pull(face, here, slope, near, e0, e1, e2)
                        for m in range(jacobian.shape[1]):
                            wp.atomic_add(jacobian, n + c, m, wp.dot(w, moves[f, m]))
                e0 += face.x0
                e1 += face.x1
                e2 += face.x2

    @wp.kernel(module=module)
    def corners(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        rows: int,
        height: int,
        start: int,  # first face of this launch
        g: wp.array(dtype=wp.float64),
        sums: wp.array(dtype=wp.vec3d),  # for every face, of the gradient that each corner gets along the normal
    ):
        band, t = wp.tid()
        f = start + t
        columns = int(detector[0])
        top = band * rows
        face = face_of(points, places, faces, f, bits, columns, top, wp.min(top + rows, height) - 1)
        if face.sign == 0:
            return
        near = inverses(points, faces, f, face)
        total = wp.vec3d(zero, zero, zero)
        for r in range(face.bottom - face.top + 1):
            n = (face.top + r) * columns + face.left
            e0 = face.e0 + wp.int64(r) * face.y0
            e1 = face.e1 + wp.int64(r) * face.y1
            e2 = face.e2 + wp.int64(r) * face.y2
            for c in range(face.right - face.left + 1):
                if (e0 | e1 | e2) >= wp.int64(0) and g[n + c] != zero:
                    q = ray(detector, face.top + r, face.left + c)
                    total += g[n + c] * pull(face, q, wp.dot(face.normal, q), near, e0, e1, e2)
                e0 += face.x0
                e1 += face.x1
                e2 += face.x2
        wp.atomic_add(sums, f, total)

    @wp.kernel(module=module)
    def scatter(
        points: wp.array(dtype=wp.vec3d),
        faces: wp.array(dtype=wp.int64, ndim=2),
        sums: wp.array(dtype=wp.vec3d),
        out: wp.array(dtype=wp.vec3d),
    ):
        f = wp.tid()
        total = sums[f]
        if wp.length_sq(total) > zero:
            normal = normal_of(points, faces, f)
            for corner in range(3):
                wp.atomic_add(out, int(faces[f, corner]), total[corner] * normal)

    @wp.kernel(module=module)
    def rates(
        points: wp.array(dtype=wp.vec3d),
        faces: wp.array(dtype=wp.int64, ndim=2),
        of_points: wp.array(dtype=wp.vec3d, ndim=2),  # (point, parameter) [mm]
        start: int,
        moves: wp.array(dtype=wp.vec3d, ndim=2),
    ):
        f = start + wp.tid()
        normal = normal_of(points, faces, f)
        a, b, c = int(faces[f, 0]), int(faces[f, 1]), int(faces[f, 2])
        for m in range(of_points.shape[1]):
            da, db, dc = of_points[a, m], of_points[b, m], of_points[c, m]
            moves[f, m] = wp.vec3d(wp.dot(normal, da), wp.dot(normal, db), wp.dot(normal, dc))

    @wp.kernel(module=module)
    def volumes(
        points: wp.array(dtype=wp.vec3d), faces: wp.array(dtype=wp.int64, ndim=2), out: wp.array(dtype=wp.float64)
    ):
        # six times the volume between a face and the origin
        f = wp.tid()
        b, c = points[int(faces[f, 1])], points[int(faces[f, 2])]
        out[f] = wp.dot(points[int(faces[f, 0])], wp.cross(b, c))

    kernels = {"splat": splat, "corners": corners, "scatter": scatter, "rates": rates, "volumes": volumes}
    return SimpleNamespace(module=module, **kernels)
