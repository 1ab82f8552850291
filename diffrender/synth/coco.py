"""COCO JSON of a data set: boxes and areas of every label in every image.

Source: the data format of COCO (Lin et al. 2014, arXiv:1405.0312), object detection. Masks stay in their files: labels
overlap on radiographs, and a polygon is not exact.
"""

import json
from collections.abc import Sequence

from diffrender.synth.manifest import Entry

COCO = "coco.json"


def coco_of(entries: Sequence[Entry]) -> bytes:
    """The file's bytes. Boxes are [x, y, width, height] px from the image's left upper corner."""
    names: dict[str, int] = {}
    for entry in entries:
        for label in entry["labels"]:
            names.setdefault(label["name"], 0)
    names = {name: n for n, name in enumerate(sorted(names), 1)}
    images, annotations = [], []
    for number, entry in enumerate(entries, 1):
        height, width = entry["camera"]["image_size"]
        images.append({"id": number, "file_name": entry["image"], "height": height, "width": width})
        for label in entry["labels"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names[label["name"]],
                    "bbox": label["box"],
                    "area": label["pixels"],
                    "iscrowd": 0,
                }
            )
    data = {
        "info": {"description": "Synthetic radiographs computed from CT by DiffRender; for research only"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name, "supercategory": "label"} for name, n in names.items()],
    }
    return (json.dumps(data, ensure_ascii=False) + "\n").encode("utf-8")
