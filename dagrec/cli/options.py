"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dagrec.cli import console
from dagrec.config import RunConfig, load_config
from dagrec.data.dataset import Dataset
from dagrec.data.examples import ExampleOptions
from dagrec.data.formats import FORMATS, ReadOptions, read
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import read_catalogue, read_services
from dagrec.models.registry import MODELS
from dagrec.progress import EpochProgress, Progress
from dagrec.training.data import Candidates
from dagrec.training.runtime import Runtime, use_runtime
from dagrec.types import Device

Data = Annotated[Path, typer.Argument(help="a file or a folder of compositions")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="[FILE]", help="write JSON to a file; `-` or nothing: standard output"
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", help="a recommender or a label of the config; repeat for more; or all"),
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of the run, see configs/")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override, e.g. gru4rec.epochs=50 or seed=3"),
]
MaskOption = Annotated[MaskPolicy | None, typer.Option("--mask", help="which services may follow")]
Catalogue = Annotated[
    Path | None,
    typer.Option(help="JSON array of declared [source, service] links, for mask `catalogue`"),
]
Services = Annotated[
    Path | None,
    typer.Option(
        help="JSON object of service key -> text: candidates whether or not DATA shows them, which "
        "ur4rec and pinsage rank by their texts"
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="where networks are trained")]
Log = Annotated[
    Path | None, typer.Option("--log", help="file that gets a line of JSON an epoch; see dagrec curves")
]
Processes = Annotated[int, typer.Option(min=1, help="processes that measure side by side")]
Threads = Annotated[int, typer.Option(min=1, help="threads of one process")]
StorePath = Annotated[Path, typer.Option("--store", help="folder of published bundles")]

READING: dict[str, Any] = {
    "format": Annotated[
        str | None, typer.Option(help=f"one of {', '.join(FORMATS)} [default: told from the content]")
    ],
    "on_error": Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(help="at a broken composition: fail, or skip and count it [default: fail]"),
    ],
    "on_cycle": Annotated[
        Literal["fail", "skip", "break"] | None,
        typer.Option(help="at a cycle; break drops the links that close it [default: by format]"),
    ],
    "table_mid": Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="native JSON: mids that are tables, not services"),
    ],
    "max_mb": Annotated[
        int | None, typer.Option(help="largest file that is read, in MB [default: 64]")
    ],
    "owner_column": Annotated[str | None, typer.Option(help="call logs: name of the owner's column")],
    "service_column": Annotated[
        str | None, typer.Option(help="call logs: name of the service's column")
    ],
    "time_column": Annotated[str | None, typer.Option(help="call logs: name of the time's column")],
    "session_gap": Annotated[
        float | None,
        typer.Option(help="call logs: minutes of pause that begin a new path [default: none]"),
    ],
    "form": Annotated[
        Literal["paths", "links"] | None,
        typer.Option(
            "--examples", help="one example a step of each path, or one a link [default: paths]"
        ),
    ],
    "count": Annotated[
        Literal["paths", "once"] | None,
        typer.Option(help="once: equal pairs of one composition count once [default: paths]"),
    ],
    "max_paths": Annotated[
        int | None,
        typer.Option(min=1, help="paths sampled from a composition with more [default: 100]"),
    ],
    "seed": Annotated[int | None, typer.Option(help="of splits, sampling and training [default: 0]")],
}
"""What every command that reads compositions takes: name -> type and option; unset unless given."""


def reads_compositions(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :data:`READING`; it finds their values in ``context``."""
    own = signature(command, eval_str=True)
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in READING.items()
    ]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name not in READING})

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    wrapped.__signature__ = own.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in (*parameters, *added)}
    return wrapped


def changes(context: typer.Context) -> dict[str, Any]:
    """The options that were given on the command line, in the places of a run's file."""
    given = context.params
    return {
        "seed": given["seed"],
        "mask": given.get("mask"),
        "read": {name: given[name] for name in ReadOptions.model_fields},
        "examples": {name: given[name] for name in ExampleOptions.model_fields},
    }


def labels(model: list[str] | None, config: Path | None) -> list[str]:
    """The labels to run: those named, all, or with nothing named the config's, else all."""
    if not model:
        return [] if config else list(MODELS)
    return list(dict.fromkeys(name for m in model for name in (MODELS if m == "all" else [m])))


@contextmanager
def training(
    device: Device,
    threads: int,
    progress: Progress,
    *,
    log: Path | None = None,
    checkpoints: Path | None = None,
) -> Iterator[None]:
    """Trainings inside the block run on a device, and are shown, logged and resumed as given."""
    set_threads(threads)
    with use_runtime(Runtime(device, threads, EpochProgress(progress), log, checkpoints)):
        yield


def candidates(catalogue: Path | None, services: Path | None, config: RunConfig) -> Candidates:
    """Declared links and services from their files."""
    max_mb = config.read.max_mb
    return Candidates(
        None if catalogue is None else read_catalogue(catalogue, max_mb),
        None if services is None else read_services(services, max_mb),
    )


def read_data(path: Path, options: ReadOptions, progress: Progress) -> Dataset:
    """The compositions of a file or folder, with progress; what was skipped is said."""
    task = progress.add("reading compositions")
    dataset = read(path, options, advance=lambda n: progress.update(task, advance=n))
    progress.update(task, visible=False)
    for problem in dataset.report.problems:
        console.say(f"skipped: {problem}", style="yellow")
    return dataset


def set_threads(threads: int) -> None:
    """Threads of numpy and torch; torch reads the variable when it is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def run_config(
    context: typer.Context, model: list[str] | None, config: Path | None, options: list[str] | None
) -> RunConfig:
    """The run that a command line asks for."""
    return load_config(
        config, overrides=options or (), models=labels(model, config), changes=changes(context)
    )
