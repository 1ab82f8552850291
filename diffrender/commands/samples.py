"""`diffrender samples`: public data to try things on, told before fetched, and removable."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffrender.commands.console import Debug, Json, Stopped, current, example
from diffrender.errors import SettingError
from diffrender.jobs import Progress

if TYPE_CHECKING:
    from diffrender.samples import Sample

EXAMPLE = example("diffrender samples get pelvis-atlas")
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Public data to try things on: list, get, remove.")


@app.command("list", epilog=example("diffrender samples list"))
def list_(json: Json = False, debug: Debug = False) -> None:
    """List the samples: what they are, how large, under which licence, and where they lie."""
    from diffrender.samples import cache_folder, is_here, list_samples

    console = current()
    entries = [{**facts(sample), "here": is_here(sample)} for sample in list_samples()]
    width = max(len(entry["name"]) for entry in entries)
    lines = [
        f"{entry['name']:{width}}  {_size(entry['bytes']):>9}  {'here' if entry['here'] else '    '}  {entry['what']}\n"
        f"{'':{width}}  {entry['licence']}; {entry['citation']}"
        for entry in entries
    ]
    lines += [
        "",
        f"They are kept in {cache_folder()}",
        "`diffrender samples get NAME` says more of one, asks, and fetches it.",
    ]
    console.result({"samples": entries, "cache": cache_folder()}, "\n".join(lines))


@app.command(epilog=EXAMPLE)
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `diffrender samples list` names it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch without asking.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say where a sample comes from (URL, SHA256, licence, size, citation), ask, and fetch it into the cache.

    What is there already is not fetched again. With --json it does not ask, and the line "cancel" on stdin, or its
    end, stops it.
    """
    from diffrender.samples import describe, get_sample, is_here, list_samples

    console = current()
    offered = {sample.name: sample for sample in list_samples()}
    if name not in offered:
        raise SettingError(f"There is no sample {name!r}; there are {', '.join(offered)}.")
    sample = offered[name]
    if console.json:
        console.notice(describe(sample))
    else:
        console.text(describe(sample))
    if not (yes or console.json or is_here(sample)) and not console.ask("Fetch it?"):
        raise Stopped("Nothing was fetched.")
    with console.listening():
        folder = get_sample(name, lambda done, total: console.progress(Progress(done, total or 0), f"Fetching {name}"))
    console.result({**facts(sample), "folder": folder}, f"It is here:\n{folder}")


@app.command(epilog=example("diffrender samples remove pelvis-atlas"))
def remove(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which one.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove a fetched sample, or all, from the cache."""
    from diffrender.samples import cache_folder, remove_samples

    console = current()
    if (name is None) != all_:
        raise SettingError("Say which sample to remove, or --all for all of them; one of the two.")
    freed = remove_samples(name)
    console.result({"freed": freed}, f"{_size(freed)} freed in\n{cache_folder()}")


def facts(sample: "Sample") -> dict[str, Any]:
    """A sample as plain data."""
    files = [{"url": file.url, "sha256": file.sha256, "bytes": file.bytes, "path": file.path} for file in sample.files]
    return {
        "name": sample.name,
        "what": sample.what,
        "licence": sample.licence,
        "citation": sample.citation,
        "bytes": sample.size,
        "files": files,
    }


def _size(size: int | None) -> str:
    return "? MB" if size is None else f"{size / 1e6:.1f} MB"
