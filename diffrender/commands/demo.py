"""`diffrender demo`: every pipeline on one page."""

from pathlib import Path
from typing import Annotated

import typer

from diffrender.commands.console import Debug, Json, current, example
from diffrender.commands.target import check_given, check_outputs, check_writable
from diffrender.errors import PathError, SettingError

EXAMPLE = example("diffrender demo -o demo")
NEED = 50 * 2**20  # bytes; the page holds all its pictures


def demo(
    ct: Annotated[
        str | None, typer.Option(metavar="F", help="A CT of yours instead of the torso that we draw.")
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="F", help="Its labels.")] = None,
    names: Annotated[str | None, typer.Option(metavar="F", help="The names of its labels: CSV or JSON.")] = None,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="The folder of the page.")] = "demo",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run everything the library does and write one HTML page with the pictures, figures and settings.

    With --json the line "cancel" on stdin, or its end, stops it.
    """
    console = current()
    check_given({"--ct": ct, "--labels": labels, "--names": names, "--out": out})
    if labels is not None and ct is None:
        raise SettingError(f"--labels {labels} belongs to a CT; give that too, with --ct.")
    if names is not None and labels is None:
        raise SettingError(f"--names {names} names labels; give those too, with --labels.")
    for path in filter(None, (ct, labels)):
        if not Path(path).expanduser().exists():
            raise PathError(f"{path} does not exist. Check the path, and put quotes round one with spaces.")
    folder = Path(out).expanduser()
    check_outputs([folder / "index.html", folder / "provenance.json"], [path for path in (ct, labels, names) if path])
    check_writable(folder, NEED)
    from diffrender.demo import write_demo
    from diffrender.io.whole import together

    with console.listening(), together():
        paths = (None if path is None else Path(path) for path in (ct, labels))
        page = write_demo(folder, *paths, progress=console.progress, names=names)
    console.result({"page": page, "files": [page]}, f"The page is here; open it in a browser:\n{page.resolve()}")
