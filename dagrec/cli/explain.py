"""Command that shows what an answer looked at: explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec import console
from dagrec.cli import options as opts
from dagrec.cli.answer import At, Keys, Partial, Version, read_request


def explain(
    store: opts.StorePath,
    path: Keys = None,
    composition: Partial = None,
    at: At = None,
    model: Annotated[str | None, typer.Option(help="label of a model that has attention")] = None,
    version: Version = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file: weights on the DAG and on the sequence")
    ] = None,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Show which nodes a model with attention looked at, and draw them."""
    from dagrec.evaluation.plots import attention as draw
    from dagrec.explain import explain as run
    from dagrec.store.catalogue import Store

    opts.set_threads(threads)
    request = read_request(path, composition, at, {"model": model})
    found = run(Store(store).load(version), request)
    if plot is not None:
        picture = draw(found.attention, found.place, found.upstream)
        console.write_picture(plot, picture)
    if json is not None:
        console.write_json(json, found.summary())
    if json != "-":
        rows = [
            [node, f"{weight:.3f}", "frontier" if i == found.place else ""]
            for i, (node, weight) in enumerate(zip(found.attention.nodes, found.focus, strict=True))
        ]
        layers, heads = found.attention.weights.shape[:2]
        title = f"{found.model}: last of {layers} layers, mean of {heads} heads, bundle {found.version}"
        console.table(title, ["node", "weight", ""], rows)
