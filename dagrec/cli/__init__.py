"""The command line. Each command parses its options, calls the library, and prints the result."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli.bench import bench
from dagrec.cli.bundles import bundles, prune, rollback
from dagrec.cli.curves import curves
from dagrec.cli.data import formats, generate, inspect
from dagrec.cli.doctor import doctor
from dagrec.cli.embeddings import embeddings
from dagrec.cli.evaluate import ablate, evaluate
from dagrec.cli.explain import explain
from dagrec.cli.feedback import feedback
from dagrec.cli.models import models
from dagrec.cli.predict import predict
from dagrec.cli.retrain import retrain
from dagrec.cli.serve import serve
from dagrec.cli.train import train
from dagrec.cli.tune import tune
from dagrec.errors import ConfigError, DagrecError

app = typer.Typer(
    name="dagrec",
    help="Recommend the next service of a composition, a workflow that is a directed acyclic graph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the default interprets text in brackets as markup
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        console.out.print(f"dagrec {version('dagrec')}", markup=False)
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


for command in (
    inspect,
    generate,
    train,
    evaluate,
    tune,
    ablate,
    predict,
    explain,
    feedback,
    embeddings,
    serve,
    retrain,
    bundles,
    rollback,
    prune,
    bench,
    models,
    formats,
    doctor,
    curves,
):
    app.command()(command)


def _with_bare_json(arguments: list[str]) -> list[str]:
    """Replace ``--json`` without a value by ``--json -``."""
    result = []
    for i, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument == "--json" and following.startswith("-") and following != "-":
            result.append("-")
    return result


def main() -> None:
    """Run the command line. The exit status is 0 for success, 1 for failure, 2 for invalid usage."""
    try:
        try:
            app(_with_bare_json(sys.argv[1:]), prog_name="dagrec")
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        console.print_error(str(error))
        sys.exit(2)
    except DagrecError as error:
        console.print_error(str(error))
        sys.exit(1)
    except OSError as error:  # standard output cannot be written
        # The buffered output must not fail again when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            console.print_error(f"the result cannot be written: {error.strerror}")
        sys.exit(1)
