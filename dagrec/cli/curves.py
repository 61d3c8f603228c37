"""The command curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts


def curves(
    log: Annotated[
        list[Path], typer.Argument(metavar="LOG", help="Training logs, written with --log.")
    ],
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG file.")] = None,
    json: opts.Json = None,
) -> None:
    """Show the training curves of logs: losses, validation metrics and times."""
    from dagrec.evaluation.curves import read_logs
    from dagrec.evaluation.plots import curves as draw

    trainings = read_logs(log)
    if plot is not None:
        console.write_file(plot, draw(trainings))
    summaries = [training.summary() for training in trainings]
    if json is not None:
        console.write_json(json, summaries)
    if json != "-":
        rows = [
            [
                summary["label"],
                summary["epochs"],
                f"{summary['first_loss']:.4f}",
                f"{summary['last_loss']:.4f}",
                "-"
                if summary["best_validation"] is None
                else f"{summary['best_validation']:.4f} {summary['metric']}",
                summary["best_epoch"] or "-",
                f"{summary['seconds']:.2f}",
            ]
            for summary in summaries
        ]
        columns = ["training", "epochs", "first loss", "last loss", "best validation", "epoch", "s"]
        console.print_table("trainings", columns, rows)
