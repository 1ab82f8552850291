"""Volume property nodes, what Slicer's volume rendering draws with, to `TransferFunction`, and back."""

from typing import Any

import numpy as np

from diffrender.dvr.transfer import TransferFunction, transfer_function
from diffrender.dvr.volume_property import LIGHT, read_volume_property
from diffrender.errors import SettingError
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind

KIND = "vtkMRMLVolumePropertyNode"
BETWEEN = 64  # points that stand for a bent stretch between two, where midpoint or sharpness bend it


def transfer_of(node: Node) -> TransferFunction:
    """The transfer function of a volume property node, of its first component.

    What it has no place for (shading, opacity by gradient) is said as a Notice; stretches bent by midpoint or
    sharpness, and colours between points in HSV or Lab, are followed by points in between.
    Raises: InputError for another node, SettingError for a function with fewer than two points.
    """
    of_kind(node, KIND, what="a volume property")
    drawn = node.GetVolumeProperty()
    colours, opacity, gradient = (
        drawn.GetRGBTransferFunction(0), drawn.GetScalarOpacity(0), drawn.GetGradientOpacity(0),
    )  # fmt: skip
    if min(colours.GetSize(), opacity.GetSize()) < 2:
        raise SettingError(
            f"{called(node)} has {colours.GetSize()} points of colour and {opacity.GetSize()} of opacity, and two are "
            "needed of each. Choose a preset, or set it up in the Volume Rendering module."
        )
    component = {
        "rgbTransferFunction": {"points": [{"x": x, "color": rgb} for x, rgb in _points(colours, 6)]},
        "scalarOpacity": {"points": [{"x": x, "y": y} for x, (y,) in _points(opacity, 4)]},
        "gradientOpacity": {"points": [{"x": x, "y": y} for x, (y,) in _points(gradient, 4)]},
        "disableGradientOpacity": bool(drawn.GetDisableGradientOpacity(0)),
        "shade": bool(drawn.GetShade(0)),
        "scalarOpacityUnitDistance": drawn.GetScalarOpacityUnitDistance(0),
    }
    points = read_volume_property({"volumeProperties": [{"components": [component]}]}, called(node))
    return transfer_function(*points, name=node.GetName() or "")


def transfer_to_node(scene: Scene, transfer: TransferFunction, name: str, node: Node = None) -> Node:
    """A volume property node that Slicer's volume rendering draws with as this transfer function says: linear between
    points, without shading, with opacities for its unit distance.

    Args:
        node: an existing one to fill.
    """
    node = new_node(scene, KIND, name) if node is None else of_kind(node, KIND, what="a volume property")
    drawn = node.GetVolumeProperty()
    changing = node.StartModify()
    colours, opacity = drawn.GetRGBTransferFunction(0), drawn.GetScalarOpacity(0)
    colours.RemoveAllPoints()
    colours.SetColorSpaceToRGB()
    for point in transfer.colours:
        colours.AddRGBPoint(*point)
    opacity.RemoveAllPoints()
    for point in transfer.opacities:
        opacity.AddPoint(*point)
    drawn.SetScalarOpacityUnitDistance(0, transfer.unit_distance)
    drawn.DisableGradientOpacityOn()
    drawn.ShadeOff()
    drawn.SetInterpolationTypeToLinear()
    drawn.SetAmbient(LIGHT["ambient"])
    drawn.SetDiffuse(LIGHT["diffuse"])
    drawn.SetSpecular(LIGHT["specular"])
    drawn.SetSpecularPower(LIGHT["specularPower"])
    node.EndModify(changing)
    return node


def _points(function: Any, size: int) -> list[tuple[float, list[float]]]:
    """(x, values) of a VTK function whose nodes hold `size` numbers: x, values, midpoint, sharpness."""
    nodes = []
    for n in range(function.GetSize()):
        node = [0.0] * size
        function.GetNodeValue(n, node)
        nodes.append(node)
    curved = size == 6 and function.GetColorSpace() != 0  # VTK_CTF_RGB
    points: list[tuple[float, list[float]]] = []
    for n, node in enumerate(nodes):
        points.append((node[0], node[1:-2]))
        if n + 1 < len(nodes) and (curved or node[-2:] != [0.5, 0.0]) and nodes[n + 1][0] > node[0]:
            for x in np.linspace(node[0], nodes[n + 1][0], BETWEEN + 2)[1:-1].tolist():
                points.append((x, list(function.GetColor(x)) if size == 6 else [function.GetValue(x)]))
    return points
