"""`diffrender fit`: shape models and CTs registered to X-ray frames, simulated frames, evaluation."""

import typer

from diffrender.commands.console import example
from diffrender.commands.fit import ct, evaluate, model, pelvis, simulate

EXAMPLE = example("diffrender fit simulate parametric --views 0,50 -o frames/")
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A pelvis, or a CT, registered to fluoroscopy frames.",
)
for command in (model, pelvis, ct, simulate, evaluate):
    app.command(epilog=command.EXAMPLE)(getattr(command, command.__name__.rpartition(".")[2]))
