"""The command line: each command parses, makes one library call, and prints."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli.answer import predict
from dagrec.cli.curves import curves
from dagrec.cli.data import formats, generate, inspect
from dagrec.cli.doctor import doctor
from dagrec.cli.embeddings import embeddings
from dagrec.cli.explain import explain
from dagrec.cli.feedback import feedback
from dagrec.cli.learn import models, train
from dagrec.cli.measure import ablate, bench, evaluate
from dagrec.cli.operate import bundles, prune, retrain, rollback
from dagrec.cli.serve import serve
from dagrec.cli.tune import tune
from dagrec.errors import ConfigError, DagrecError

app = typer.Typer(
    name="dagrec",
    help="Recommends the next service of a composition (a workflow DAG) that somebody is building.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the default would swallow texts in brackets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"dagrec {version('dagrec')}", markup=False)
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="show the version"),
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
    """``--json`` without a value means ``--json -``."""
    found = []
    for i, argument in enumerate(arguments):
        found.append(argument)
        after = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument == "--json" and after.startswith("-") and after != "-":
            found.append("-")
    return found


def main() -> None:
    """Entry point. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    try:
        try:
            app(_with_bare_json(sys.argv[1:]), prog_name="dagrec")
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        console.complain(str(error))
        sys.exit(2)
    except DagrecError as error:
        console.complain(str(error))
        sys.exit(1)
    except OSError as error:  # of standard output; all other files have errors of their own
        # What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            console.complain(f"the result cannot be written: {error.strerror}")
        sys.exit(1)
