"""The `vlmtool` command line: every command is one file of this folder, registered here.

Nothing heavy is imported before a command runs: `vlmtool --help` answers in well under a second.
"""

import os
import sys
from typing import Annotated

import typer

from vlmtool.cli import chat, config, convert, data, data_convert, data_fetch, demo, eval, inspect, mmbench, train
from vlmtool.cli import run as pipeline
from vlmtool.cli.invoke import invoke
from vlmtool.utils.noise import silence_libraries
from vlmtool.version import __version__

app = typer.Typer(
    name="vlmtool",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vlmtool {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; VLMTOOL_DEBUG=1 does too.")
    ] = False,
) -> None:
    """Compose, train, convert, talk to and evaluate vision-language models."""


def _group(name: str, summary: str) -> typer.Typer:
    group = typer.Typer(name=name, help=summary, context_settings={"help_option_names": ["-h", "--help"]})
    app.add_typer(group)
    return group


app.command("train")(train.train)
app.command("run")(pipeline.run)

convert_group = _group("convert", "From checkpoint to checkpoint.")
convert_group.command("pth_to_hf")(convert.pth_to_hf)
convert_group.command("merge")(convert.merge)
convert_group.command("native")(convert.native)

app.command("chat")(chat.chat)
app.command("mmbench")(mmbench.mmbench)
app.command("eval")(eval.evaluate)

config_group = _group("config", "List, show and copy recipes.")
config_group.command("list")(config.list_recipes)
config_group.command("show")(config.show)
config_group.command("copy")(config.copy)

data_group = _group("data", "Check, convert and fetch training data, and see it as the model will.")
data_group.command("check")(data.check)
data_group.command("preview")(data.preview)
data_group.command("cache")(data.cache)
data_group.command("convert")(data_convert.convert)
data_group.command("fetch")(data_fetch.fetch)

app.command("inspect")(inspect.inspect)
app.command("demo")(demo.demo)

# XTuner's names.
app.command("list-cfg", hidden=True)(config.list_recipes)
app.command("copy-cfg", hidden=True)(config.copy)
app.command("log-dataset", hidden=True)(data.preview)
app.command("check-custom-dataset", hidden=True)(data.check)


def run() -> None:
    """Entry point of the `vlmtool` program."""
    arguments, debug = take_debug(sys.argv[1:])
    if debug:
        os.environ["VLMTOOL_DEBUG"] = "1"  # the processes that this one starts show theirs too
    silence_libraries()
    sys.exit(invoke(app, arguments or ["--help"], debug))


def take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """`arguments` without `--debug`, which may stand anywhere before a `--`, and whether tracebacks are wanted."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if argument != "--debug"] + arguments[end:]
    wanted = len(rest) < len(arguments) or os.environ.get("VLMTOOL_DEBUG", "") not in ("", "0")
    return rest, wanted
