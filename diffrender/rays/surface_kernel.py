"""Path length through a closed mesh as one fused kernel source for CPU and CUDA (NVIDIA warp); `surface_torch` is its
plain twin.

A thread takes faces, or the parts of them in a band of rows, and visits the pixel centres in their bounding boxes
(`surface_loops`). Three edge functions, whole numbers in 64 bits and so exact, say whether a face covers a pixel; on an
edge the centre counts as if it lay a little to the right and less below, which is so for all faces alike. Every covered
pixel gets the depth of the crossing, with the sign of the face's turn on the image. Depths are added as whole numbers
too: in any order they give the same sum.
"""

from types import SimpleNamespace
from typing import no_type_check

import warp as wp

from diffrender.rays import surface_loops
from diffrender.rays.surface_torch import DEPTH_BITS, GRAZING

OPTIONS = (("enable_backward", False), ("fast_math", False), ("cpu_compiler_flags", "-march=native"))


@no_type_check  # shape checks in tests wrap what they see, and warp reads the source of what it compiles
def build(precise: bool) -> SimpleNamespace:
    """The kernels for vertices of float32 or, `precise`, float64: a warp module with `put`, `volumes`, `splat`,
    `splat_rates`, `finish`, `corners` and `scatter`."""
    module = wp.get_module(f"diffrender_surface{'_precise' * precise}")
    for option, setting in OPTIONS:  # older versions of warp lack some
        if option in module.options:
            module.options[option] = setting
    real, name = (wp.float64, "wp::float64") if precise else (wp.float32, "wp::float32")
    vec = wp.vec3d if precise else wp.vec3f
    zero = wp.float64(0.0)

    @wp.func
    def widened(point: vec):
        return wp.vec3d(wp.float64(point[0]), wp.float64(point[1]), wp.float64(point[2]))

    @wp.kernel(module=module)
    def put(
        vertices: wp.array(dtype=vec),
        origin: wp.vec3d,
        turn: wp.mat33d,
        shift: wp.vec3d,
        image: wp.mat33d,  # (column, row, 1) [px] times depth from the camera's frame
        near: wp.float64,
        reach: wp.float64,
        unit: wp.float64,
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        missed: wp.array(dtype=int),
    ):
        v = wp.tid()
        point = turn * (widened(vertices[v]) - origin) + shift
        points[v] = point
        at = image * point
        if at[2] >= near and wp.abs(at[0]) <= reach * at[2] and wp.abs(at[1]) <= reach * at[2]:
            places[v] = wp.vec2i(int(wp.rint(at[0] * unit / at[2])), int(wp.rint(at[1] * unit / at[2])))
        else:
            wp.atomic_add(missed, 0, 1)

    @wp.kernel(module=module)
    def volumes(
        vertices: wp.array(dtype=vec),
        origin: wp.vec3d,
        faces: wp.array(dtype=wp.int64, ndim=2),
        run: int,
        out: wp.array(dtype=wp.float64),
    ):
        # six times the volume between a run of faces and the origin
        start = wp.tid() * run
        total = wp.float64(0.0)
        for f in range(start, wp.min(start + run, faces.shape[0])):
            a = widened(vertices[int(faces[f, 0])]) - origin
            b = widened(vertices[int(faces[f, 1])]) - origin
            c = widened(vertices[int(faces[f, 2])]) - origin
            total += wp.dot(a, wp.cross(b, c))
        out[wp.tid()] = total

    @wp.func_native(surface_loops.splat(DEPTH_BITS))
    def splat_faces(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        face: int,
        stop: int,
        first: int,
        last: int,
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
    ): ...

    @wp.kernel(module=module)
    def splat(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        run: int,  # faces of a thread
        rows: int,  # of a band
        first: int,  # rows of this launch
        last: int,
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
    ):
        band, t = wp.tid()
        stop = wp.min((t + 1) * run, faces.shape[0])
        top = first + band * rows
        bottom = wp.min(top + rows - 1, last)
        splat_faces(points, places, faces, bits, detector, t * run, stop, top, bottom, depths, signs)

    @wp.func_native(surface_loops.splat_rates(DEPTH_BITS, GRAZING, name))
    def splat_faces_rates(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        face: int,
        stop: int,
        first: int,
        last: int,
        rates: wp.array(dtype=wp.float64),
        into_body: wp.array(dtype=wp.float64),
        modes: int,
        basis: wp.array(dtype=real),
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
        jacobian: wp.array(dtype=real),
    ): ...

    @wp.kernel(module=module)
    def splat_rates(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        run: int,
        rows: int,
        first: int,
        last: int,
        rates: wp.array(dtype=wp.float64),  # (3, 4, 6 and two zeros): how the camera's frame sees points move
        into_body: wp.array(dtype=wp.float64),  # (3, 3): of normals
        modes: int,
        basis: wp.array(dtype=real),  # (point, 3, mode), in the body's frame
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
        jacobian: wp.array(dtype=real),  # (ray, 6 + modes)
    ):
        band, t = wp.tid()
        stop = wp.min((t + 1) * run, faces.shape[0])
        top = first + band * rows
        bottom = wp.min(top + rows - 1, last)
        splat_faces_rates(
            points,
            places,
            faces,
            bits,
            detector,
            t * run,
            stop,
            top,
            bottom,
            rates,
            into_body,
            modes,
            basis,
            depths,
            signs,
            jacobian,
        )

    @wp.func_native(surface_loops.finish(name))
    def finish_row(
        detector: wp.array(dtype=wp.float64),
        row: int,
        part: int,
        parts: int,
        unit: wp.float64,
        winding: int,
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
        lengths: wp.array(dtype=real),
        unbalanced: wp.array(dtype=wp.uint8),
        count: wp.array(dtype=int),
    ): ...

    @wp.kernel(module=module)
    def finish(
        detector: wp.array(dtype=wp.float64),
        parts: int,
        unit: wp.float64,  # [mm] of the depths, below zero where they run the other way
        winding: int,
        depths: wp.array(dtype=wp.int64),
        signs: wp.array(dtype=wp.int32),
        lengths: wp.array(dtype=real),
        unbalanced: wp.array(dtype=wp.uint8),
        count: wp.array(dtype=int),
    ):
        row, part = wp.tid()
        finish_row(detector, row, part, parts, unit, winding, depths, signs, lengths, unbalanced, count)

    @wp.func_native(surface_loops.corners(GRAZING))
    def corners_of_faces(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        face: int,
        stop: int,
        first: int,
        last: int,
        g: wp.array(dtype=wp.float64),
        sums: wp.array(dtype=wp.vec3d),
    ): ...

    @wp.kernel(module=module)
    def corners(
        points: wp.array(dtype=wp.vec3d),
        places: wp.array(dtype=wp.vec2i),
        faces: wp.array(dtype=wp.int64, ndim=2),
        bits: int,
        detector: wp.array(dtype=wp.float64),
        run: int,
        rows: int,
        height: int,
        start: int,  # faces of this launch
        stop: int,
        g: wp.array(dtype=wp.float64),
        sums: wp.array(dtype=wp.vec3d),  # for every face, of the gradient that each corner gets along the normal
    ):
        band, t = wp.tid()
        f = start + t * run
        top = band * rows
        bottom = wp.min(top + rows, height) - 1
        corners_of_faces(points, places, faces, bits, detector, f, wp.min(f + run, stop), top, bottom, g, sums)

    @wp.kernel(module=module)
    def scatter(
        points: wp.array(dtype=wp.vec3d),
        faces: wp.array(dtype=wp.int64, ndim=2),
        into_body: wp.mat33d,
        sums: wp.array(dtype=wp.vec3d),
        out: wp.array(dtype=wp.vec3d),
    ):
        f = wp.tid()
        total = sums[f]
        if total[0] != zero or total[1] != zero or total[2] != zero:
            i0, i1, i2 = int(faces[f, 0]), int(faces[f, 1]), int(faces[f, 2])
            a = points[i0]
            normal = into_body * wp.cross(points[i1] - a, points[i2] - a)
            wp.atomic_add(out, i0, total[0] * normal)
            wp.atomic_add(out, i1, total[1] * normal)
            wp.atomic_add(out, i2, total[2] * normal)

    kernels = {
        "put": put,
        "volumes": volumes,
        "splat": splat,
        "splat_rates": splat_rates,
        "finish": finish,
        "corners": corners,
        "scatter": scatter,
    }
    return SimpleNamespace(module=module, **kernels)
