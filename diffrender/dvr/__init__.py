"""Deep direct volume rendering: renderers that learn, from painted views, how a volume should look.

Names are loaded when first used, as in `diffrender` itself.
"""

from diffrender.lazy import lazily

_HOME = {
    "TransferFunction": "transfer",
    "transfer_preset": "transfer",
    "read_transfer": "transfer",
    "write_transfer": "transfer",
    "transfer_of_table": "transfer",
    "Renderer": "renderer",
    "RendererSettings": "renderer",
    "RENDERERS": "renderers",
    "Recipe": "renderers",
    "count_parameters": "renderers",
    "fit_clusters": "clusters",
    "Role": "view",
    "View": "view",
    "Views": "view",
    "render_views": "view",
    "read_views": "views",
    "write_views": "views",
    "write_paint": "views",
    "Target": "targets",
    "targets_of": "painting",
    "paint_from_labels": "painting",
    "targets_from_images": "targets",
    "targets_from_labels": "targets",
    "Light": "shading",
    "shaded_targets": "shading",
    "train": "training",
    "train_on": "training",
    "Trained": "training",
    "Case": "cases",
    "TrainSettings": "settings",
    "Augmentation": "settings",
    "LossSettings": "losses",
    "Estimate": "budget",
    "estimate": "budget",
    "save_model": "model",
    "load_model": "model",
}

__all__ = [*_HOME]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazily(__name__, _HOME)
