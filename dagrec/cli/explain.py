"""The command explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.cli.predict import At, CompositionFile, PathKeys, read_request
from dagrec.errors import RequestError


def explain(
    store: opts.StorePath,
    path: PathKeys = None,
    composition: CompositionFile = None,
    at: At = None,
    k: Annotated[
        int, typer.Option("-k", min=1, max=1000, help="Maximum number of services to explain.")
    ] = 5,
    model: opts.ModelLabel = None,
    version: opts.BundleVersion = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the attention of the model to this PNG file.")
    ] = None,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Explain which services are recommended.

    Shows the training compositions with the same step and the most similar training contexts. For
    models with attention and for mixtures, it also shows the weights of nodes or components.
    """
    from dagrec.evaluation.plots import attention as draw
    from dagrec.recommend.answers import Answers
    from dagrec.recommend.explain import attention_view
    from dagrec.recommend.predictor import predict
    from dagrec.store.store import open_bundle

    opts.set_threads(threads)
    request = read_request(path, composition, at, {"model": model, "k": k, "explain": True})
    bundle = open_bundle(store, version)
    response = predict(bundle, request)
    answers = response.answers if isinstance(response, Answers) else [response]
    view = attention_view(bundle, request)
    if plot is not None:
        if view is None:
            raise RequestError(
                f"--plot: the model must have attention and a node must be known, found model "
                f"{answers[0].model!r}; choose another --model, or leave --plot out"
            )
        console.write_file(plot, draw(view.attention, view.frontier, view.upstream))
    if json is not None:
        attention = None if view is None else view.summary()
        console.write_json(json, response.model_dump(mode="json") | {"attention": attention})
    if json != "-":
        for answer in answers:
            console.print_answer(answer)
            assert answer.explanation is not None
            console.print_explanation(answer.explanation)
