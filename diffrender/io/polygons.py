"""Polygons of a mesh file before they are triangles, and the two text formats that list them: PLY (binary too) and OBJ.

Both are read here and not by VTK: its PLY reader ends the process on a file that was cut off (9.7), and its OBJ reader
doubles vertices that have several normals, which would break a shape model's vertex order.
"""

from dataclasses import dataclass

import numpy as np

from diffrender.errors import MeshError

PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
PLY_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True, eq=False)
class Polygons:
    """Vertices (v, 3) as in the file; polygon n is connectivity[offsets[n] : offsets[n + 1]]; comments as text."""

    vertices: np.ndarray
    offsets: np.ndarray
    connectivity: np.ndarray
    header: str = ""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[tuple[str, str, str | None], ...]  # name, type, and the type of the count where it is a list


def read_obj(content: bytes, shown: str) -> Polygons:
    """Vertices and faces of a Wavefront OBJ, in the file's order; normals, textures and groups are passed over."""
    vertices, corners, sizes, comments = [], [], [], []
    try:
        for line in content.decode("utf-8", "replace").replace("\\\n", " ").splitlines():
            words = line.split()
            if not words:
                continue
            if words[0] == "v":
                vertices.append([float(word) for word in words[1:4]])
            elif words[0] == "f":
                numbers = [int(word.split("/")[0]) for word in words[1:]]
                corners += [n - 1 if n > 0 else len(vertices) + n for n in numbers]  # negative ones count from the end
                sizes.append(len(numbers))
            elif words[0].startswith("#"):
                comments.append(line)
        points = np.array(vertices, dtype=np.float32).reshape(-1, 3)
    except (ValueError, IndexError) as error:
        raise MeshError(
            f"{shown} is no whole OBJ file ({error}). It is damaged or cut off; export it again."
        ) from error
    offsets = np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])
    return Polygons(points, offsets, np.array(corners, dtype=np.int64), "\n".join(comments))


def read_ply(content: bytes, shown: str) -> Polygons:
    """Vertices and faces of a PLY, text or binary, in the file's order; other properties are passed over.

    Source: Turk, The PLY polygon file format (1994).
    """
    head, mark, body = content.partition(b"end_header")
    if not content.startswith(b"ply") or not mark:
        raise MeshError(f"{shown} is no PLY file: it lacks the header from 'ply' to 'end_header'. Export it again.")
    lines = head.decode("latin-1").splitlines()
    body = body.partition(b"\n")[2]
    order, elements = _ply_header(lines, shown)
    columns: dict[str, dict[str, np.ndarray]] = {}
    try:
        rows = _TextRows(body) if order == "=" else _BinaryRows(body, order)
        for element in elements:
            columns[element.name] = rows.take(element)
            if {"vertex", "face"} <= columns.keys():
                break
    except (ValueError, IndexError) as error:
        raise MeshError(f"{shown} is cut off or damaged within its data ({error}). Copy or export it again.") from error
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    corners = next((face[key] for key in ("vertex_indices", "vertex_index") if key in face), None)
    if not {"x", "y", "z"} <= vertex.keys() or corners is None:
        raise MeshError(f"{shown} holds no surface: a PLY needs vertices with x, y and z, and faces. Export a mesh.")
    points = np.stack([vertex[axis] for axis in "xyz"], axis=1)
    offsets = np.concatenate([[0], np.cumsum(face["sizes"])]).astype(np.int64)
    comments = "\n".join(line for line in lines if line.startswith("comment"))
    return Polygons(points, offsets, corners.astype(np.int64), comments)


def _ply_header(lines: list[str], shown: str) -> tuple[str, list[_Element]]:
    order, elements = None, []
    try:
        for words in (line.split() for line in lines if line.strip()):
            if words[0] == "format":
                order = PLY_ORDERS[words[1]]
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2]), ()))
            elif words[0] == "property":
                listed = words[1] == "list"
                kind, counter = PLY_TYPES[words[3 if listed else 1]], PLY_TYPES[words[2]] if listed else None
                last = elements.pop()
                elements.append(_Element(last.name, last.count, (*last.properties, (words[-1], kind, counter))))
    except (KeyError, IndexError, ValueError) as error:
        raise MeshError(f"{shown}: its PLY header cannot be read ({error}). Export it again.") from error
    if order is None:
        raise MeshError(f"{shown}: its PLY header does not say whether it is text or binary. Export it again.")
    return order, elements


class _BinaryRows:
    """Rows of a binary PLY, element after element."""

    def __init__(self, body: bytes, order: str):
        self.body, self.order, self.place = body, order, 0

    def take(self, element: _Element) -> dict[str, np.ndarray]:
        lists = [name for name, _, counter in element.properties if counter]
        if not element.count:
            return {"sizes": np.zeros(0, np.int64), **{name: np.zeros(0) for name, _, _ in element.properties}}
        rows = self._even_rows(element)
        if rows is None:
            return self._uneven_rows(element)
        columns = {name: rows[name].reshape(-1) if name in lists else rows[name] for name, _, _ in element.properties}
        sizes = rows[lists[0]].shape[1] if lists else 0
        return {"sizes": np.full(element.count, sizes), **columns}

    def _even_rows(self, element: _Element) -> np.ndarray | None:
        """All rows at once where every list is as long as in the first row, as in a mesh of triangles; else None."""
        fields, place = [], self.place
        for name, kind, counter in element.properties:
            if counter:
                (size,) = np.frombuffer(self.body, self.order + counter, 1, place).tolist()
                fields += [(f"{name} size", self.order + counter), (name, self.order + kind, (size,))]
                place += np.dtype(counter).itemsize + size * np.dtype(kind).itemsize
            else:
                fields.append((name, self.order + kind))
                place += np.dtype(kind).itemsize
        dtype = np.dtype(fields)
        if len(self.body) - self.place < dtype.itemsize * element.count:
            return None
        rows = np.frombuffer(self.body, dtype, element.count, self.place)
        for name, _, counter in element.properties:
            if counter and (rows[f"{name} size"] != rows[name].shape[1]).any():
                return None
        self.place += dtype.itemsize * element.count
        return rows

    def _uneven_rows(self, element: _Element) -> dict[str, np.ndarray]:
        columns: dict[str, list] = {name: [] for name, _, _ in element.properties}
        sizes = []
        for _ in range(element.count):
            for name, kind, counter in element.properties:
                size = int(self._numbers(counter, 1)[0]) if counter else 1
                columns[name] += self._numbers(kind, size).tolist()
                sizes += [size] if counter else []
        return {"sizes": np.array(sizes, np.int64), **{name: np.array(column) for name, column in columns.items()}}

    def _numbers(self, kind: str, count: int) -> np.ndarray:
        numbers = np.frombuffer(self.body, self.order + kind, count, self.place)
        self.place += numbers.nbytes
        return numbers


class _TextRows:
    """Rows of a PLY in text: the same, number by number."""

    def __init__(self, body: bytes):
        self.words, self.place = body.split(), 0

    def take(self, element: _Element) -> dict[str, np.ndarray]:
        columns: dict[str, list] = {name: [] for name, _, _ in element.properties}
        sizes = []
        for _ in range(element.count):
            for name, _, counter in element.properties:
                size = int(self._next(1)[0]) if counter else 1
                columns[name] += self._next(size)
                sizes += [size] if counter else []
        kinds = {name: kind for name, kind, _ in element.properties}
        return {
            "sizes": np.array(sizes, np.int64),
            **{name: np.array(column, dtype="f8").astype(kinds[name]) for name, column in columns.items()},
        }

    def _next(self, count: int) -> list[bytes]:
        words = self.words[self.place : self.place + count]
        if len(words) < count:
            raise ValueError("its numbers end early")
        self.place += count
        return words
