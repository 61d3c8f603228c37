"""Command that says why: explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.cli.answer import At, Keys, Partial, Version, read_request
from dagrec.errors import RequestError


def explain(
    store: opts.StorePath,
    path: Keys = None,
    composition: Partial = None,
    at: At = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="services in the answer")] = 5,
    model: Annotated[str | None, typer.Option(help="label of a model [default: the champion]")] = None,
    version: Version = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="PNG file: attention on the DAG and on the sequence, of a model that has it"),
    ] = None,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Say which service comes next, and why: the training compositions that made the same step, the
    nearest contexts, and what the model weighed (attention to nodes, parts of a mixture)."""
    from dagrec.evaluation.plots import attention as draw
    from dagrec.recommend.answers import Answers
    from dagrec.recommend.explain import look
    from dagrec.recommend.predictor import predict
    from dagrec.store.store import open_bundle

    opts.set_threads(threads)
    request = read_request(path, composition, at, {"model": model, "k": k, "explain": True})
    bundle = open_bundle(store, version)
    found = predict(bundle, request)
    answers = found.answers if isinstance(found, Answers) else [found]
    looked = look(bundle, request)
    if plot is not None:
        if looked is None:
            raise RequestError(
                f"--plot: only attention can be drawn, and {answers[0].model} pays none here; leave it "
                "out, or name a model that has attention, and a known node"
            )
        console.write_file(plot, draw(looked.attention, looked.place, looked.upstream))
    if json is not None:
        attention = None if looked is None else looked.summary()
        console.write_json(json, found.model_dump(mode="json") | {"attention": attention})
    if json != "-":
        for answer in answers:
            console.answer_table(answer)
            assert answer.explanation is not None
            console.explanation_tables(answer.explanation)
