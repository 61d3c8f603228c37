"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial, wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dagrec.config import RunConfig, load_config
from dagrec.data.examples import ExampleOptions
from dagrec.data.formats import FORMATS, ReadOptions
from dagrec.graph.mask import MaskPolicy
from dagrec.models.registry import MODELS
from dagrec.types import Device

if TYPE_CHECKING:
    from dagrec.models.base import Epoch, Trainer

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


def make_trainer(
    configs: Iterable[RunConfig],
    device: Device,
    threads: int,
    processes: int,
    bar: Any,
    *,
    log: Path | None = None,
    checkpoints: Path | None = None,
) -> Callable[[], Trainer | None]:
    """Makes what trains networks where a model needs it; in this process with a bar of its epochs."""
    from dagrec.jobs.cells import needs_trainer, network_trainer

    needed = needs_trainer(configs)
    make = partial(network_trainer, device, threads, needed, log, checkpoints)
    if processes > 1 or not needed:
        return make
    task = bar.add_task("epochs", visible=False)

    def show(name: str, epoch: Epoch, epochs: int) -> None:
        text = f"  {name}: loss {epoch.loss:.3f}"
        if epoch.validation is not None:
            text += f", held out {epoch.validation:.3f}"
        text += f", lr {epoch.learning_rate:.1g}"
        seen = epoch.epoch < epochs
        bar.update(task, completed=epoch.epoch, total=epochs, description=text, visible=seen)

    return partial(make, show)


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
