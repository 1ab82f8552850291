"""`diffrender dvr renderers`: what there is to choose from."""

from diffrender.commands.console import Debug, Json, current, example

EXAMPLE = example("diffrender dvr renderers")
BAKES = {
    "table": "bakes to a transfer function",
    "voxels": "bakes to a coloured volume",
    None: "draws in the image, so does not bake",
}


def renderers(json: Json = False, debug: Debug = False) -> None:
    """List the renderers: how many numbers each learns, what it is, and what it can be baked to."""
    from diffrender.dvr.renderers import RENDERERS, count_parameters

    entries = [
        {"name": name, "parameters": count_parameters(name), "what": recipe.what, "bakes": recipe.bakes}
        for name, recipe in RENDERERS.items()
    ]
    width = max(len(entry["name"]) for entry in entries)
    lines = [
        f"{entry['name']:{width}}  {entry['parameters']:>11,}  {entry['what']}\n{'':{width}}  {'':11}  "
        f"It {BAKES[entry['bakes']]}."
        for entry in entries
    ]
    current().result({"renderers": entries}, "\n".join([f"{'':{width}}  {'parameters':>11}", *lines]))
