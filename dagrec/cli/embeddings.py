"""The command embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dagrec.cli import console
from dagrec.cli import options as opts


def embeddings(
    store: opts.StorePath,
    out: Annotated[Path, typer.Option(help="NumPy file (.npz) for the keys, counts and vectors.")],
    model: opts.ModelLabel = None,
    version: opts.BundleVersion = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the vectors to this PNG file, projected by PCA and by t-SNE."),
    ] = None,
    colour: Annotated[
        Literal["kind", "popularity"], typer.Option(help="Property that colours the points of --plot.")
    ] = "kind",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of t-SNE.")] = 0,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Export the learned vectors of nodes and services."""
    opts.set_threads(threads)  # before numpy is imported
    from dagrec.evaluation.plots import embedding as draw
    from dagrec.jobs.embeddings import Embeddings
    from dagrec.store.store import open_bundle

    vectors = Embeddings.of(open_bundle(store, version), model)
    summary = vectors.summary()
    picture = None
    if plot is not None:
        points = vectors.points()
        n = len(points.keys)
        if n < points.total:
            console.print_message(
                f"note: the picture shows the {n:,} most frequent of {points.total:,} nodes"
            )
        title = f"{vectors.model}: {n:,} nodes, {points.vectors.shape[1]:,} dimensions"
        picture = draw(points, title, colour, seed=seed)
    vectors.write(out)
    console.print_message(f"written to {out}")
    if plot is not None and picture is not None:
        console.write_file(plot, picture)
    if json is not None:
        console.write_json(json, summary)
    if json != "-":
        shapes = {
            name: "none" if summary[name] is None else "{:,} vectors of {:,}".format(*summary[name])
            for name in ("nodes", "services")
        }
        cosine = summary["service_cosine"]
        cosines = {"mean cosine of two services": "-" if cosine is None else f"{cosine:.3f}"}
        console.print_pairs(f"{vectors.model}, bundle {vectors.version}", shapes | cosines)
