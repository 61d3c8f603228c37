"""Command that answers: predict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import DataError, RequestError

if TYPE_CHECKING:
    from dagrec.recommend.request import PredictRequest


Keys = Annotated[str | None, typer.Option("--path", help="node keys, separated by commas")]
Partial = Annotated[
    Path | None, typer.Option("--composition", help="native JSON file of one partial composition")
]
At = Annotated[
    str | None, typer.Option("--at", help="id of its node to extend [default: every open end]")
]
Version = Annotated[str | None, typer.Option("--version", help="of the bundle [default: the live one]")]


def predict(
    store: opts.StorePath,
    path: Keys = None,
    composition: Partial = None,
    at: At = None,
    contexts: Annotated[
        Path | None, typer.Option(help="JSON lines of requests; prints one answer a line, in order")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="services in the answer")] = 10,
    model: Annotated[str | None, typer.Option(help="label of a model [default: the champion]")] = None,
    models: Annotated[
        str | None, typer.Option(help="several labels, separated by commas, or all: side by side")
    ] = None,
    mask: opts.MaskOption = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="JSON array of what the same person did before, the oldest first: objects with `path` "
            "or `composition`, and `time`"
        ),
    ] = None,
    allow: Annotated[
        str | None, typer.Option(help="answer with these services only, separated by commas")
    ] = None,
    deny: Annotated[
        str, typer.Option(help="never answer with these services, separated by commas")
    ] = "",
    no_repeats: Annotated[
        bool, typer.Option("--no-repeats", help="never answer with a service that is there already")
    ] = False,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="towards 1: services unlike those before them first")
    ] = 0.0,
    novelty: Annotated[float, typer.Option(min=0, max=10, help="how much rare services move up")] = 0.0,
    version: Version = None,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Say which service comes next, from a published bundle.

    Several models, or the open ends of a composition, are answered side by side.
    """
    from dagrec.recommend import predictor as library
    from dagrec.store.store import open_bundle

    if sum(source is not None for source in (path, composition, contexts)) != 1:
        raise typer.BadParameter("give one of --path, --composition and --contexts")
    defaults: dict[str, Any] = {
        "k": k,
        "model": model,
        "models": models if models in (None, "all") else _keys(models),
        "mask": mask,
        "history": [] if history is None else _document(history),
        "allow": None if allow is None else _keys(allow),
        "deny": _keys(deny),
        "no_repeats": no_repeats,
        "diversity": diversity,
        "novelty": novelty,
    }
    if contexts is None:
        request = read_request(path, composition, at, defaults)
    opts.set_threads(threads)
    bundle = open_bundle(store, version)
    if contexts is not None:
        failed = 0
        for answer in library.predict_lines(bundle, _lines(contexts), defaults):
            if isinstance(answer, RequestError):
                failed += 1
                value = {"error": str(answer)}
            else:
                value = answer.model_dump(mode="json")
            sys.stdout.write(dumps(value, ensure_ascii=False) + "\n")
        if failed:
            raise RequestError(f"{contexts}: {failed} requests could not be answered; see their lines")
        return
    answer = library.predict(bundle, request)
    if json is not None:
        console.write_json(json, answer.model_dump(mode="json"))
    if json != "-":
        console.answer_table(answer)


def read_request(
    path: str | None, composition: Path | None, at: str | None, values: dict[str, Any]
) -> PredictRequest:
    """The request that the options of a command make, with other fields from ``values``."""
    from dagrec.recommend.request import make_request

    if (path is None) == (composition is None):
        raise typer.BadParameter("give one of --path and --composition")
    if path is not None:
        return make_request({"path": _keys(path), "at": at, **values})
    assert composition is not None
    return make_request({"composition": _document(composition), "at": at, **values})


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _document(path: Path) -> Any:
    """The content of a JSON file."""
    from dagrec.data.formats.documents import parse_json, read_text

    try:
        return parse_json(read_text(path, 64))
    except DataError as error:
        raise error.at(str(path)) from None


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}; check the path") from None
