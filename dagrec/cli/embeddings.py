"""Command that hands out what was learned of each node: embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.cli.answer import Version


def embeddings(
    store: opts.StorePath,
    out: Annotated[Path, typer.Option(help="npz file: keys, kinds, counts and vectors, no pickle")],
    model: Annotated[
        str | None, typer.Option(help="label of a model that learns vectors [default: the champion]")
    ] = None,
    version: Version = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file: the vectors in two dimensions, by PCA and t-SNE")
    ] = None,
    colour: Annotated[
        Literal["kind", "popularity"], typer.Option(help="what the colours of the picture tell")
    ] = "kind",
    seed: Annotated[int, typer.Option(min=0, help="of t-SNE in the picture")] = 0,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Write the vectors that a model has learned of nodes and services to a file, and draw them."""
    opts.set_threads(threads)  # before numpy is imported
    from dagrec.evaluation.plots import embedding as draw
    from dagrec.jobs.embeddings import Embeddings
    from dagrec.store.store import open_bundle

    found = Embeddings.of(open_bundle(store, version), model)
    summary = found.summary()
    if plot is not None:
        points = found.points()
        n = len(points.keys)
        if n < points.total:
            console.say(f"note: the picture shows the {n:,} most frequent of {points.total:,} nodes")
        title = f"{found.model}: {n:,} nodes, {points.vectors.shape[1]:,} numbers each"
        picture = draw(points, title, colour, seed=seed)
    found.write(out)
    console.say(f"written to {out}")
    if plot is not None:
        console.write_file(plot, picture)
    if json is not None:
        console.write_json(json, summary)
    if json != "-":
        shapes = {
            name: "none" if summary[name] is None else "{:,} vectors of {:,}".format(*summary[name])
            for name in ("nodes", "services")
        }
        cosine = summary["service_cosine"]
        facts = {"mean cosine of two services": "-" if cosine is None else f"{cosine:.3f}"}
        console.pairs(f"{found.model}, bundle {found.version}", shapes | facts)
