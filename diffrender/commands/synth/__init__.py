"""`diffrender synth`: radiographs as an X-ray machine takes them, with exact labels, and what is trained on them."""

import typer

from diffrender.commands.console import example
from diffrender.commands.synth import classify, dataset, drr, metrics, segment, train, vrr

EXAMPLE = example("diffrender synth dataset ct.nii.gz --labels labels.nii.gz --views 100 -o data/")
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Radiographs synthesised from CT, with exact labels.",
)
for command in (drr, dataset, train, vrr, segment, classify, metrics):
    app.command(epilog=command.EXAMPLE)(getattr(command, command.__name__.rpartition(".")[2]))
