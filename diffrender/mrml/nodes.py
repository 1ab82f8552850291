"""Nodes of a scene: made, named after their input, put into a folder. Needs neither torch nor slicer."""

from typing import Any

from diffrender.errors import BackendError, InputError

Node = Any  # a vtkMRMLNode; the classes are known while Slicer runs alone
Scene = Any  # a vtkMRMLScene


def new_node(scene: Scene, kind: str, name: str) -> Node:
    """A node of class `kind`, "vtkMRML...Node", that a scene now holds, by a name that no other node of it has.

    Raises: BackendError where the scene does not know the class: its module is not loaded.
    """
    if not scene.IsNodeClassRegistered(kind):
        raise BackendError(
            f"This scene knows no {kind}: the module of Slicer that brings it is not loaded. Start Slicer without "
            "switching modules off (Edit, Application Settings, Modules)."
        )
    return scene.AddNewNodeByClass(kind, _unused(scene, name))


def called(node: Node) -> str:
    """A node as messages name it."""
    return repr(node.GetName() or node.GetID() or node.GetClassName())


def of_kind(node: Node, *kinds: str, what: str) -> Node:
    """The node itself, if it is one of `kinds`, "vtkMRML...Node". Raises: InputError, naming what was expected."""
    if node is None:
        raise InputError(f"Nothing is selected; choose {what}.")
    if not any(node.IsA(kind) for kind in kinds):
        raise InputError(f"{called(node)} is a {node.GetNodeTagName()}; choose {what}.")
    return node


def output_name(scene: Scene, source: Node, what: str) -> str:
    """What an output is called: the name of the node it was made of, and what it is, "CT radiograph"; not used yet."""
    return _unused(scene, f"{source.GetName()} {what}")


def _unused(scene: Scene, name: str) -> str:
    """The name itself, or with the first number behind it that no node of the scene has.

    Not `GenerateUniqueName`: it counts on each time it is asked, used or not.
    """
    found, number = name, 1
    while scene.GetFirstNodeByName(found) is not None:
        number += 1
        found = f"{name} {number}"
    return found


def folder(scene: Scene, name: str, within: int | None = None) -> int:
    """The item of the subject hierarchy's folder of this name, made where there is none; in folder `within`."""
    hierarchy = scene.GetSubjectHierarchyNode()
    parent = hierarchy.GetSceneItemID() if within is None else within
    return hierarchy.GetItemChildWithName(parent, name) or hierarchy.CreateFolderItem(parent, name)


def put_in_folder(scene: Scene, item: int, *nodes: Node) -> None:
    """Show nodes in a folder of the subject hierarchy, an item that `folder` gave, wherever they were before."""
    hierarchy = scene.GetSubjectHierarchyNode()
    for node in nodes:
        known = hierarchy.GetItemByDataNode(node)
        if known:
            hierarchy.SetItemParent(known, item)
        else:
            hierarchy.CreateItem(item, node)


def browser_of(scene: Scene, node: Node) -> Node | None:
    """The sequence browser whose current frame this node shows, or None: one may want this frame or all."""
    if not scene.IsNodeClassRegistered("vtkMRMLSequenceBrowserNode"):
        return None
    browsers = [
        scene.GetNthNodeByClass(n, "vtkMRMLSequenceBrowserNode")
        for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode"))
    ]
    return next((browser for browser in browsers if browser.IsProxyNode(node.GetID())), None)
