"""The command line: `diffrender ...`, `python -m diffrender ...`."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from diffrender import __version__
from diffrender.commands import demo, doctor, dvr, fit, info, radiograph, samples, synth
from diffrender.commands.console import BAD_INPUT, FAILED, Console, drop_stdout, example, explain, start

# Plain help: it looks the same piped, on a narrow terminal and on a console that knows ASCII alone.
app = typer.Typer(
    name="diffrender",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    epilog=example("diffrender radiograph ct.nii.gz --preset pelvis-ap -o pelvis.png"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=radiograph.EXAMPLE)(radiograph.radiograph)
app.add_typer(dvr.app, name="dvr", epilog=dvr.EXAMPLE)
app.add_typer(synth.app, name="synth", epilog=synth.EXAMPLE)
app.add_typer(fit.app, name="fit", epilog=fit.EXAMPLE)
app.command(epilog=info.EXAMPLE)(info.info)
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)
app.add_typer(samples.app, name="samples", epilog=samples.EXAMPLE)
app.command(epilog=demo.EXAMPLE)(demo.demo)


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Radiographs, learned volume renderings and 2D/3D registration of CTs by differentiable ray casting.

    For research, not a medical device.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 success, 1 failure, 2 bad input, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(
            AttributeError, ValueError
        ):  # a console that lacks a letter of a path shows \xe4 for it
            stream.reconfigure(errors="backslashreplace")
    console = start(words)
    try:
        code = _run(words, console)
    except BrokenPipeError:  # whoever read our output has gone, as `head` does: nobody is left to tell
        drop_stdout()
        return FAILED
    return code


def _run(words: list[str], console: Console) -> int:
    command = typer.main.get_command(app)
    try:
        if words == ["--version"]:
            print(f"diffrender {__version__}")
        else:
            with console.notices(), command.make_context("diffrender", words) as context:
                command.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except BrokenPipeError:
        raise
    except typer.Exit as end:
        return end.exit_code
    except (Exception, KeyboardInterrupt) as problem:
        if hasattr(problem, "format_message"):  # typer's own: a wrong option, a missing argument
            return _usage(problem, console)
        return explain(console, problem)
    finally:
        console.end_progress()


def _usage(problem: BaseException, console: Console) -> int:
    context = getattr(problem, "ctx", None)
    message = problem.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    if context is None:
        return console.error("UsageError", message, BAD_INPUT)
    if type(problem).__name__ == "NoArgsIsHelpError" and not console.json:
        print(message)
        return BAD_INPUT
    if message[-1:] not in ".!?":
        message += "."
    if message.startswith("No such option"):  # a file that is called so, perhaps
        message += " A name that begins with - is typed as ./-name, or after -- and a space."
    return console.error(
        "UsageError", f"{message} Type `{context.command_path} --help` for what is offered.", BAD_INPUT
    )


if __name__ == "__main__":
    sys.exit(main())
