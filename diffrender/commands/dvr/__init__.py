"""`diffrender dvr`: draw views of a CT, paint what you want to see, and train a renderer that draws it so."""

import typer

from diffrender.commands.console import example
from diffrender.commands.dvr import bake, render, renderers, segment, train, views

EXAMPLE = example("diffrender dvr views ct.nii.gz --preset ct-bone -o views/")
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Learned volume rendering: views to paint on, training, pictures.",
)
for command in (views, train, render, bake, segment, renderers):
    app.command(epilog=command.EXAMPLE)(getattr(command, command.__name__.rpartition(".")[2]))
