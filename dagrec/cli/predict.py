"""The command predict."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from itertools import islice
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import DataError, RequestError

if TYPE_CHECKING:
    from dagrec.recommend.request import PredictRequest
    from dagrec.store.bundle import Bundle


MAX_MB = 64
"""The largest size of a file with a composition or a history, in megabytes."""
PathKeys = Annotated[
    str | None,
    typer.Option(
        "--path",
        metavar="KEYS",
        help='Node keys of a path, separated by commas; a key with a comma is quoted ("a,b").',
    ),
]
CompositionFile = Annotated[
    Path | None,
    typer.Option(
        "--composition",
        help="File with a partial composition in any format of `dagrec formats`; -: standard input.",
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="ID",
        help="Id of the node to extend in --composition. [default: every open end]",
    ),
]


def predict(
    store: opts.StorePath,
    path: PathKeys = None,
    composition: CompositionFile = None,
    at: At = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="File with one request per line as JSON; prints one answer per line."),
    ] = None,
    k: Annotated[
        int, typer.Option("-k", min=1, max=1000, help="Maximum number of services to recommend.")
    ] = 10,
    model: opts.ModelLabel = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS", help="Compare several models: labels separated by commas, or `all`."
        ),
    ] = None,
    mask: opts.MaskOption = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="JSON array with the owner's earlier work, the oldest first: objects with `path` or "
            "`composition`, and optionally `time`."
        ),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(metavar="KEYS", help="Recommend only these services, separated by commas."),
    ] = None,
    deny: Annotated[
        str, typer.Option(metavar="KEYS", help="Never recommend these services, separated by commas.")
    ] = "",
    no_repeats: Annotated[
        bool,
        typer.Option(
            "--no-repeats", help="Never recommend a service that the path or composition contains."
        ),
    ] = False,
    diversity: Annotated[
        float,
        typer.Option(min=0, max=1, help="Rank services lower that are similar to those ranked above."),
    ] = 0.0,
    novelty: Annotated[
        float, typer.Option(min=0, max=10, help="Rank rare services higher, in nats per bit of rarity.")
    ] = 0.0,
    version: opts.BundleVersion = None,
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Recommend the next service for a path or a partial composition.

    With several models or open ends, their answers are shown side by side.
    """
    if sum(source is not None for source in (path, composition, contexts)) != 1:
        raise typer.BadParameter("give one of --path, --composition and --contexts")
    request_options: dict[str, Any] = {
        "k": k,
        "model": model,
        "models": models if models in (None, "all") else _split_keys(models),
        "mask": mask,
        "history": [] if history is None else _read_json(history),
        "allow": None if allow is None else _split_keys(allow),
        "deny": _split_keys(deny),
        "no_repeats": no_repeats,
        "diversity": diversity,
        "novelty": novelty,
    }
    request = None
    if contexts is None:
        request = read_request(path, composition, at, request_options)

    opts.set_threads(threads)
    from dagrec.recommend import predictor
    from dagrec.store.store import open_bundle

    bundle = open_bundle(store, version)
    if request is None:
        assert contexts is not None
        _predict_lines(bundle, contexts, request_options)
        return
    answer = predictor.predict(bundle, request)
    if json is not None:
        console.write_json(json, answer.model_dump(mode="json"))
    if json != "-":
        console.print_answer(answer)


def _predict_lines(bundle: Bundle, file: Path, defaults: dict[str, Any]) -> None:
    """Print the answer or the error for each request in a file."""
    from dagrec.recommend.predictor import predict_lines

    num_errors = 0
    for answer in predict_lines(bundle, _read_lines(file), defaults):
        if isinstance(answer, RequestError):
            num_errors += 1
            value = {"error": str(answer)}
        else:
            value = answer.model_dump(mode="json")
        sys.stdout.write(dumps(value, ensure_ascii=False) + "\n")
    if num_errors:
        raise RequestError(
            f"{file}: {num_errors} requests could not be answered; see `error` in their lines"
        )


def read_request(
    path: str | None, composition: Path | None, at: str | None, values: dict[str, Any]
) -> PredictRequest:
    """Make a request from the options of a command; ``values`` are its other fields."""
    from dagrec.recommend.request import make_request

    if (path is None) == (composition is None):
        raise typer.BadParameter("give one of --path and --composition")
    if path is not None:
        return make_request({"path": _split_keys(path), "at": at, **values})
    assert composition is not None
    return make_request({"composition": _read_composition(composition), "at": at, **values})


def _split_keys(text: str) -> list[str]:
    """Split keys at commas, as in CSV: a key with a comma is quoted."""
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise typer.BadParameter(f"keys must be separated by commas, found {text!r}: {error}") from None
    return [key.strip() for row in rows for key in row if key.strip()]


def _read_composition(path: Path) -> Any:
    """The JSON of a composition in any format."""
    from dagrec.data.formats import Content, Reading, compose_draft, read_content
    from dagrec.data.formats.native import to_document
    from dagrec.data.formats.sources import read_text

    try:
        content = Content(read_text(path, MAX_MB), path.name)
        if content.is_yaml or (content.is_json and not content.is_json_lines):
            return content.value
        format_, documents = read_content(content, Reading())
        drafts = [document.draft() for document in islice(documents, 2)]
        if len(drafts) != 1:
            raise DataError(
                f"a file must hold one composition ({format_.name}), found "
                f"{'several' if drafts else 'none'}; write the others to other files",
                rule="not-one",
            )
        return to_document(compose_draft(drafts[0], "request", format_.on_cycle)[0])
    except DataError as error:
        raise error.at(str(path)) from None


def _read_json(path: Path) -> Any:
    from dagrec.data.formats.documents import parse_json
    from dagrec.data.formats.sources import read_text

    try:
        return parse_json(read_text(path, MAX_MB))
    except DataError as error:
        raise error.at(str(path)) from None


def _read_lines(path: Path) -> Iterator[str]:
    try:
        descriptor = sys.stdin.fileno() if str(path) == "-" else path
        with open(descriptor, encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}; check the path") from None
