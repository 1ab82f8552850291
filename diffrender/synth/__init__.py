"""Radiographs with exact labels from CT: views drawn around a preset, masks as a radiologist draws them, boxes.

Names are loaded when first used, as in `diffrender` itself.
"""

import importlib
from typing import Any

_HOME = {
    "lungs_of": "lungs",
    "with_lungs": "lungs",
    "ViewSpread": "views",
    "SPREADS": "views",
    "spread_preset": "views",
    "drawn_camera": "views",
    "MaskRule": "mask_rules",
    "DEFAULT_RULES": "mask_rules",
    "outlines_of": "mask_rules",
    "masks_of": "mask_rules",
    "unseen": "mask_rules",
    "check_labels": "label_checks",
    "boxes_of": "boxes",
    "projected_landmarks": "boxes",
    "Landmark": "boxes",
    "dataset": "datasets",
    "DatasetSettings": "datasets",
    "Dataset": "datasets",
    "Case": "imaging",
    "Imaging": "imaging",
    "read_manifest": "manifest",
    "train": "training",
    "TrainedVRR": "training",
    "training_estimate": "vrr_budget",
    "VRRSettings": "vrr_settings",
    "vrr_preset": "vrr_settings",
    "GeneratorSettings": "fields",
    "VRRGenerator": "generator",
    "drr_baseline": "generator",
    "generated_views": "generator",
    "save_generator": "generator",
    "load_generator": "generator",
    "XrayPictures": "xray_folder",
    "read_xrays": "xray_folder",
    "CtViews": "ct_views",
    "layers_of_ct": "ct_views",
    "Layers": "layers",
    "Appearance": "appearance",
    "Warp": "augment",
    "Generated": "pairs",
    "Films": "pairs",
    "Mixed": "pairs",
    "masked_in_folder": "pairs",
    "masked_in_manifest": "pairs",
    "read_film": "films",
    "read_films": "films",
    "train_segmenter": "segmenting",
    "SEGMENT_PRESETS": "segmenting",
    "Training": "course",
    "TrainedSegmenter": "segmenting",
    "Segmenter": "segmenter",
    "SegmenterSettings": "segmenter",
    "save_segmenter": "segmenter",
    "load_segmenter": "segmenter",
    "evaluate_segmenter": "scores",
    "mean_dice": "scores",
    "train_classifier": "classifying",
    "CLASSIFY_PRESETS": "classifying",
    "labelled_in_manifest": "classifying",
    "labels_in_manifest": "classifying",
    "Classifier": "classifier",
    "ClassifierSettings": "classifier",
    "save_classifier": "classifier",
    "load_classifier": "classifier",
    "classification_page": "classifying_report",
    "segmentation_page": "segmenting_report",
    "overlay_page": "segmenting_report",
    "realism_distances": "realism",
    "fidelity_distances": "fidelity",
}

__all__ = [*_HOME]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
