"""Command that draws training logs: curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts


def curves(
    log: Annotated[list[Path], typer.Argument(help="training logs that --log has written")],
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw")] = None,
    json: opts.Json = None,
) -> None:
    """Show how trainings went: losses, held-out values, step sizes; a line each, and a picture."""
    from dagrec.evaluation.curves import read_logs
    from dagrec.evaluation.plots import curves as draw

    trainings = read_logs(log)
    if plot is not None:
        console.write_file(plot, draw(trainings))
    if json is not None:
        console.write_json(json, [training.summary() for training in trainings])
    if json != "-":
        columns = ["training", "epochs", "first loss", "last loss", "best held out", "at epoch", "s"]
        rows = []
        for training in trainings:
            about = training.summary()
            best = about["best_validation"]
            rows.append(
                [
                    about["label"],
                    about["epochs"],
                    f"{about['first_loss']:.4f}",
                    f"{about['last_loss']:.4f}",
                    "-" if best is None else f"{best:.4f} {about['metric']}",
                    about["best_epoch"] or "-",
                    f"{about['seconds']:.2f}",
                ]
            )
        console.table("trainings", columns, rows)
