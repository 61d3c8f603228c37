"""Options that several commands share, and the objects that are made from them."""

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
from dagrec.data.dataset import Dataset
from dagrec.data.examples import ExampleOptions
from dagrec.data.formats import ReadOptions, format_names, read
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import read_catalogue, read_services
from dagrec.jobs.config import RunConfig, load_config
from dagrec.models.registry import usable_models
from dagrec.output.progress import EpochProgress, Progress
from dagrec.training.data import Candidates
from dagrec.training.runtime import Runtime, use_runtime
from dagrec.types import Device

Data = Annotated[Path, typer.Argument(metavar="DATA", help="File or folder of compositions.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[FILE]",
        help="Write the result as JSON to FILE, or to standard output if FILE is `-` or omitted.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Recommender, or label of a model in --config; can be repeated. `all` selects every "
        "recommender.",
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the configuration; see configs/.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a configuration value, such as gru4rec.epochs=50 or seed=3; can be repeated.",
    ),
]
MaskOption = Annotated[
    MaskPolicy | None,
    typer.Option("--mask", help="Mask that decides which services may follow a node."),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(help="JSON array of declared [source, service] links for the mask `catalogue`."),
]
Services = Annotated[
    Path | None,
    typer.Option(
        help="JSON object that maps service keys to texts. These services are candidates even if DATA "
        "does not contain them; ur4rec and pinsage rank them by their texts."
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Device that networks are trained on.")]
Log = Annotated[
    Path | None,
    typer.Option("--log", help="Log each epoch of training as a JSON line; see `dagrec curves`."),
]
Processes = Annotated[int, typer.Option(min=1, help="Number of parallel processes.")]
Threads = Annotated[int, typer.Option(min=1, help="Number of threads per process.")]
StorePath = Annotated[Path, typer.Option("--store", help="Folder of published bundles.")]
ModelLabel = Annotated[
    str | None, typer.Option("--model", help="Label of the model to use. [default: the champion]")
]
BundleVersion = Annotated[
    str | None, typer.Option("--version", help="Version of the bundle. [default: the live one]")
]

READ_OPTIONS: dict[str, Any] = {
    "format": Annotated[
        str | None,
        typer.Option(
            help=f"Data format: {', '.join(format_names())}. [default: detected from the content]"
        ),
    ],
    "on_error": Annotated[
        Literal["fail", "skip"] | None,
        typer.Option(help="Fail at an invalid composition, or skip it. [default: fail]"),
    ],
    "on_cycle": Annotated[
        Literal["fail", "skip", "break"] | None,
        typer.Option(
            help="Fail at a composition with a cycle, skip it, or drop the links that close the cycle. "
            "[default: depends on the format]"
        ),
    ],
    "table_mid": Annotated[
        str | None,
        typer.Option(
            metavar="REGEX", help="Native JSON: regular expression of the mids that are tables."
        ),
    ],
    "max_mb": Annotated[int | None, typer.Option(help="Maximum size of a file in MB. [default: 64]")],
    "owner_column": Annotated[
        str | None, typer.Option(help="Call logs and edge lists: name of the owner column.")
    ],
    "service_column": Annotated[
        str | None, typer.Option(help="Call logs: name of the service column.")
    ],
    "time_column": Annotated[
        str | None, typer.Option(help="Call logs and edge lists: name of the time column.")
    ],
    "source_column": Annotated[str | None, typer.Option(help="Edge lists: name of the source column.")],
    "target_column": Annotated[str | None, typer.Option(help="Edge lists: name of the target column.")],
    "composition_column": Annotated[
        str | None, typer.Option(help="Edge lists: name of the column that tells compositions apart.")
    ],
    "session_gap": Annotated[
        float | None,
        typer.Option(
            help="Call logs: start a new session after a pause of this many minutes. [default: none]"
        ),
    ],
    "form": Annotated[
        Literal["paths", "links"] | None,
        typer.Option(
            "--examples",
            help="One example per step of each path, or one per link. [default: that of the format]",
        ),
    ],
    "count": Annotated[
        Literal["paths", "once"] | None,
        typer.Option(
            help="Count equal examples of a composition for each path, or once. [default: paths]"
        ),
    ],
    "max_paths": Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of paths per composition; more are sampled. [default: 100]"
        ),
    ],
    "seed": Annotated[
        int | None, typer.Option(help="Seed of splits, sampling and training. [default: 0]")
    ],
}
"""The options of every command that reads compositions: name -> type and option; None by default."""


def reads_compositions(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of :data:`READ_OPTIONS` to a command, which reads them from its ``context``."""
    command_signature = signature(command, eval_str=True)
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in READ_OPTIONS.items()
    ]

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        command(**{name: value for name, value in arguments.items() if name not in READ_OPTIONS})

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in command_signature.parameters.values()]
    parameters += added
    wrapped.__signature__ = command_signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def run_config(
    context: typer.Context, model: list[str] | None, config: Path | None, options: list[str] | None
) -> RunConfig:
    """The configuration of a run, from the options of a command."""
    return load_config(
        config, overrides=options or (), models=_labels(model, config), changes=_changes(context)
    )


def read_config(context: typer.Context) -> RunConfig:
    """A configuration without models, from the :data:`READ_OPTIONS` of a command."""
    return load_config(changes=_changes(context))


def _labels(model: list[str] | None, config: Path | None) -> list[str]:
    """The labels of --model without duplicates; by default those of --config or every recommender."""
    if not model:
        return [] if config else usable_models()
    return list(
        dict.fromkeys(label for m in model for label in (usable_models() if m == "all" else [m]))
    )


def _changes(context: typer.Context) -> dict[str, Any]:
    """The given options, nested as in a configuration file."""
    values = context.params
    return {
        "seed": values["seed"],
        "mask": values.get("mask"),
        "read": {name: values[name] for name in ReadOptions.model_fields},
        "examples": {name: values[name] for name in ExampleOptions.model_fields},
    }


def read_data(path: Path, config: RunConfig, progress: Progress) -> Dataset:
    """Read the compositions of a file or folder, and report what was read and what was skipped."""
    task = progress.add("reading compositions")
    dataset = read(path, config.read, advance=lambda n: progress.update(task, advance=n))
    progress.update(task, visible=False)
    for problem in dataset.report.problems:
        console.print_message(f"skipped: {problem}", style="yellow")
    formats = ", ".join(dataset.report.formats)
    form = config.examples.form or dataset.form
    what = "every step of every path" if form == "paths" else "every link"
    why = "" if config.examples.form else ", the default of the format"
    console.print_message(
        f"read {len(dataset):,} compositions ({formats}); one example for {what} "
        f"(--examples {form}{why})"
    )
    return dataset


def read_candidates(catalogue: Path | None, services: Path | None, config: RunConfig) -> Candidates:
    """Read the files of declared links and services."""
    max_mb = config.read.max_mb
    return Candidates(
        None if catalogue is None else read_catalogue(catalogue, max_mb),
        None if services is None else read_services(services, max_mb),
    )


def set_threads(threads: int) -> None:
    """Set the number of threads of numpy and torch; call it before either is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def training(
    device: Device,
    threads: int,
    progress: Progress,
    *,
    log: Path | None = None,
    checkpoints: Path | None = None,
) -> Iterator[None]:
    """Configure the device, progress, log and checkpoints of training inside the block."""
    set_threads(threads)
    with use_runtime(Runtime(device, threads, EpochProgress(progress), log, checkpoints)):
        yield
