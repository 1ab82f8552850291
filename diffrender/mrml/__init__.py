"""The bridge: nodes of a MRML scene to the library's nouns, and back. The scene is an argument everywhere.

What comes in is copied, in world RAS [mm], with the parent transforms of its node applied; what goes out is a new node
of the scene that was passed, or an existing one filled anew. Nothing here shows a window or asks a question: where one
must be asked, an error says so (`WarpError`).

The names below are loaded when first used, so that importing this package costs nothing. `attributes`, `nodes` and
`tables` need no torch.
"""

from typing import TYPE_CHECKING

from diffrender.lazy import lazily

_HOME = {
    "write_json": "attributes",
    "read_json": "attributes",
    "remember_file": "attributes",
    "recall_file": "attributes",
    "remember_provenance": "attributes",
    "recall_provenance": "attributes",
    "new_node": "nodes",
    "output_name": "nodes",
    "folder": "nodes",
    "put_in_folder": "nodes",
    "browser_of": "nodes",
    "world_from_node": "transforms",
    "matrix_of": "transforms",
    "transform_to_node": "transforms",
    "volume_of": "volumes",
    "lattice_of": "volumes",
    "fingerprint": "volumes",
    "volume_to_node": "volumes",
    "labelmap_to_node": "volumes",
    "resampled": "warps",
    "pictures_of": "pictures",
    "pictures_to_node": "pictures",
    "radiographs_of": "pictures",
    "radiographs_to_node": "pictures",
    "masks_to_node": "pictures",
    "world_from_pixel": "pictures",
    "Segments": "segmentations",
    "segments_of": "segmentations",
    "segmentation_to_node": "segmentations",
    "mesh_of": "models",
    "mesh_to_node": "models",
    "camera_of": "cameras",
    "camera_to_node": "cameras",
    "remember_cameras": "cameras",
    "recall_cameras": "cameras",
    "landmarks_of": "markups",
    "landmarks_to_node": "markups",
    "pixel_landmarks_of": "markups",
    "transfer_of": "transfers",
    "transfer_to_node": "transfers",
    "rows_of": "tables",
    "rows_to_node": "tables",
    "plot_to_nodes": "tables",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffrender.mrml.attributes import read_json as read_json
    from diffrender.mrml.attributes import recall_file as recall_file
    from diffrender.mrml.attributes import recall_provenance as recall_provenance
    from diffrender.mrml.attributes import remember_file as remember_file
    from diffrender.mrml.attributes import remember_provenance as remember_provenance
    from diffrender.mrml.attributes import write_json as write_json
    from diffrender.mrml.cameras import camera_of as camera_of
    from diffrender.mrml.cameras import camera_to_node as camera_to_node
    from diffrender.mrml.cameras import recall_cameras as recall_cameras
    from diffrender.mrml.cameras import remember_cameras as remember_cameras
    from diffrender.mrml.markups import landmarks_of as landmarks_of
    from diffrender.mrml.markups import landmarks_to_node as landmarks_to_node
    from diffrender.mrml.markups import pixel_landmarks_of as pixel_landmarks_of
    from diffrender.mrml.models import mesh_of as mesh_of
    from diffrender.mrml.models import mesh_to_node as mesh_to_node
    from diffrender.mrml.nodes import browser_of as browser_of
    from diffrender.mrml.nodes import folder as folder
    from diffrender.mrml.nodes import new_node as new_node
    from diffrender.mrml.nodes import output_name as output_name
    from diffrender.mrml.nodes import put_in_folder as put_in_folder
    from diffrender.mrml.pictures import masks_to_node as masks_to_node
    from diffrender.mrml.pictures import pictures_of as pictures_of
    from diffrender.mrml.pictures import pictures_to_node as pictures_to_node
    from diffrender.mrml.pictures import radiographs_of as radiographs_of
    from diffrender.mrml.pictures import radiographs_to_node as radiographs_to_node
    from diffrender.mrml.pictures import world_from_pixel as world_from_pixel
    from diffrender.mrml.segmentations import Segments as Segments
    from diffrender.mrml.segmentations import segmentation_to_node as segmentation_to_node
    from diffrender.mrml.segmentations import segments_of as segments_of
    from diffrender.mrml.tables import plot_to_nodes as plot_to_nodes
    from diffrender.mrml.tables import rows_of as rows_of
    from diffrender.mrml.tables import rows_to_node as rows_to_node
    from diffrender.mrml.transfers import transfer_of as transfer_of
    from diffrender.mrml.transfers import transfer_to_node as transfer_to_node
    from diffrender.mrml.transforms import matrix_of as matrix_of
    from diffrender.mrml.transforms import transform_to_node as transform_to_node
    from diffrender.mrml.transforms import world_from_node as world_from_node
    from diffrender.mrml.volumes import fingerprint as fingerprint
    from diffrender.mrml.volumes import labelmap_to_node as labelmap_to_node
    from diffrender.mrml.volumes import lattice_of as lattice_of
    from diffrender.mrml.volumes import volume_of as volume_of
    from diffrender.mrml.volumes import volume_to_node as volume_to_node
    from diffrender.mrml.warps import resampled as resampled

__getattr__, __dir__ = lazily(__name__, _HOME)
