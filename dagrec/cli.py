"""The command line: each command parses, makes one library call, and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dagrec import console
from dagrec.config import RunConfig, load_config, make_options
from dagrec.data.examples import ExampleOptions, extract
from dagrec.data.formats import FORMATS, ReadOptions, read_composition
from dagrec.errors import ConfigError, DagrecError, DataError, RequestError
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import read_catalogue
from dagrec.models.registry import MODELS, family, recommender_class
from dagrec.types import Device

if TYPE_CHECKING:
    from dagrec.models.base import Trainer

app = typer.Typer(
    name="dagrec",
    help="Recommends the next service of a composition (a workflow DAG) that somebody is building.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the default would swallow texts in brackets
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Argument(help="a file or a folder of compositions")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="[FILE]", help="write JSON to a file; `-` or nothing: standard output"
    ),
]
Format = Annotated[
    str | None, typer.Option(help=f"one of {', '.join(FORMATS)} [default: told from the content]")
]
OnError = Annotated[
    Literal["fail", "skip"] | None,
    typer.Option(help="at a broken composition: fail, or skip and count it [default: fail]"),
]
OnCycle = Annotated[
    Literal["fail", "skip", "break"] | None,
    typer.Option(help="at a cycle; break drops the links that close it [default: by format]"),
]
TableMid = Annotated[
    str | None, typer.Option(metavar="REGEX", help="native JSON: mids that are tables, not services")
]
MaxMb = Annotated[int | None, typer.Option(help="largest file that is read, in MB [default: 64]")]
Form = Annotated[
    Literal["paths", "links"] | None,
    typer.Option("--examples", help="one example a step of each path, or one a link [default: paths]"),
]
Count = Annotated[
    Literal["paths", "once"] | None,
    typer.Option(help="once: equal pairs of one composition count once [default: paths]"),
]
MaxPaths = Annotated[
    int | None, typer.Option(min=1, help="paths sampled from a composition with more [default: 100]")
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
Seed = Annotated[int | None, typer.Option(help="of splits, sampling and training [default: 0]")]
DeviceOption = Annotated[Device, typer.Option("--device", help="where networks are trained")]
Processes = Annotated[int, typer.Option(min=1, help="processes that measure side by side")]
OwnerColumn = Annotated[str | None, typer.Option(help="call logs: name of the owner's column")]
ServiceColumn = Annotated[str | None, typer.Option(help="call logs: name of the service's column")]
TimeColumn = Annotated[str | None, typer.Option(help="call logs: name of the time's column")]
SessionGap = Annotated[
    float | None, typer.Option(help="call logs: minutes of pause that begin a new path [default: none]")
]
Threads = Annotated[int, typer.Option(min=1, help="threads of one process")]
StorePath = Annotated[Path, typer.Option("--store", help="folder of published bundles")]


@app.command()
def inspect(
    context: typer.Context,
    data: Data,
    format: Format = None,
    on_error: OnError = None,
    on_cycle: OnCycle = None,
    table_mid: TableMid = None,
    max_mb: MaxMb = None,
    owner_column: OwnerColumn = None,
    service_column: ServiceColumn = None,
    time_column: TimeColumn = None,
    session_gap: SessionGap = None,
    form: Form = None,
    count: Count = None,
    max_paths: MaxPaths = None,
    seed: Seed = None,
    json: Json = None,
) -> None:
    """Count what is in a data set: compositions, paths, pairs, nodes, links, cycles, skips."""
    from dagrec.jobs.inspect import inspect as run

    config = load_config(changes=_changes(context))
    with console.progress() as bar:
        task = bar.add_task("reading", total=None)
        result = run(data, config.read, config.examples, advance=lambda n: bar.advance(task, n))
    if json is not None:
        console.write_json(json, result)
        return
    problems = result.pop("problems")
    console.pairs(str(data), result)
    for problem in problems:
        console.say(f"skipped: {problem}", style="yellow")


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="file to write")],
    options: Set = None,
) -> None:
    """Draw compositions from a known world, and state the best accuracy anyone can reach on them.

    Options of the world are set with --set, e.g. --set predictability=0.8 --set compositions=2000.
    """
    from dagrec.data.synthetic import World, WorldOptions, dump

    world = World(make_options(WorldOptions, options or ()))
    documents = world.draw()
    compositions = [read_composition(document) for document in documents]
    examples, report = extract(compositions, ExampleOptions(max_paths=10**9))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(dump(documents), encoding="utf-8")
    except OSError as error:
        raise DagrecError(f"{out}: cannot be written: {error.strerror}; choose another place") from None
    facts = {"compositions": len(compositions), "paths": report.paths, "pairs": report.pairs}
    best = round(world.best_accuracy(examples), 4)
    console.pairs(str(out), facts | {"best_possible_accuracy": best} | world.options.model_dump())


@app.command()
def train(
    context: typer.Context,
    data: Data,
    store: StorePath,
    model: Model = None,
    config: Config = None,
    options: Set = None,
    mask: MaskOption = None,
    catalogue: Catalogue = None,
    measure: Annotated[
        int, typer.Option(min=0, help="held-out parts to measure on before; 0: none")
    ] = 3,
    format: Format = None,
    on_error: OnError = None,
    on_cycle: OnCycle = None,
    table_mid: TableMid = None,
    max_mb: MaxMb = None,
    owner_column: OwnerColumn = None,
    service_column: ServiceColumn = None,
    time_column: TimeColumn = None,
    session_gap: SessionGap = None,
    form: Form = None,
    count: Count = None,
    max_paths: MaxPaths = None,
    seed: Seed = None,
    device: DeviceOption = "auto",
    threads: Threads = 1,
    json: Json = None,
) -> None:
    """Train recommenders on all of DATA and publish them as the live bundle of STORE."""
    from dagrec.jobs.train import CHAMPION_METRIC
    from dagrec.jobs.train import train as run
    from dagrec.store.catalogue import Store

    run_config = load_config(
        config,
        overrides=options or (),
        models=_labels(model, config),
        changes=_changes(context),
    )
    links = None if catalogue is None else read_catalogue(catalogue, run_config.read.max_mb)
    with console.progress() as bar:
        task = bar.add_task("fitting", total=(measure + 1) * len(run_config.models))
        trainer = _make_trainer([run_config], device, threads, 1, bar)()
        done = run(
            data,
            Store(store),
            run_config,
            trainer,
            catalogue=links,
            measure=measure,
            advance=lambda label: bar.update(task, advance=1, description=f"fitted {label}"),
        )
    if done.left_out:
        console.say(
            f"note: {done.left_out} declared links name a node or service that no example has; "
            "they were left out",
            style="yellow",
        )
    for problem in done.report.problems:
        console.say(f"skipped: {problem}", style="yellow")
    if json is not None:
        models = {label: entry.model_dump() for label, entry in done.entries.items()}
        result = {"version": done.version, "champion": done.champion, "models": models}
        console.write_json(json, result | {"skipped": dict(done.report.skipped)})
        return
    shown = ("accuracy", CHAMPION_METRIC, "ndcg@10", "nll")
    rows = [
        [
            f"{label} *" if label == done.champion else label,
            *(f"{entry.metrics[m]:.4f}" if m in entry.metrics else "-" for m in shown),
            f"{entry.parameters:,}",
            f"{entry.fit_seconds:.2f}",
        ]
        for label, entry in done.entries.items()
    ]
    title = f"published {done.version} in {store}; * champion by {CHAMPION_METRIC} on held-out parts"
    console.table(title, ["model", *shown, "parameters", "fit s"], rows)


@app.command()
def evaluate(
    context: typer.Context,
    data: Data,
    test: Annotated[
        Path | None, typer.Option(help="test on these compositions, train on all of DATA")
    ] = None,
    protocol: Annotated[
        Literal["pairs", "compositions", "temporal", "prequential", "leave-one-out"],
        typer.Option(help="how training and test parts are told apart"),
    ] = "pairs",
    model: Model = None,
    config: Config = None,
    options: Set = None,
    mask: MaskOption = None,
    catalogue: Catalogue = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="splits; of a single split: trainings [default: 20, or 1]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="trainings on each split, averaged")] = 1,
    share: Annotated[float, typer.Option("--test-share", min=0.01, max=0.99, help="of the data")] = 0.3,
    weight: Annotated[
        Literal["pairs", "compositions"], typer.Option(help="what weighs the same")
    ] = "pairs",
    every: Annotated[
        int, typer.Option(min=1, help="prequential: test examples between two fits by gradient")
    ] = 30,
    every_counting: Annotated[
        int, typer.Option(min=1, help="prequential: the same for counting recommenders")
    ] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="folder for finished cells; the same command then goes on")
    ] = None,
    processes: Processes = 1,
    report: Annotated[Path | None, typer.Option(help="folder for an HTML page with pictures")] = None,
    format: Format = None,
    on_error: OnError = None,
    on_cycle: OnCycle = None,
    table_mid: TableMid = None,
    max_mb: MaxMb = None,
    owner_column: OwnerColumn = None,
    service_column: ServiceColumn = None,
    time_column: TimeColumn = None,
    session_gap: SessionGap = None,
    form: Form = None,
    count: Count = None,
    max_paths: MaxPaths = None,
    seed: Seed = None,
    device: DeviceOption = "auto",
    threads: Threads = 1,
    json: Json = None,
) -> None:
    """Measure recommenders on parts of DATA that they were not trained on, with intervals."""
    from dagrec.jobs.evaluate import evaluate as run
    from dagrec.jobs.experiment import RANDOM, TEST_FILE, Plan

    run_config = load_config(
        config,
        overrides=options or (),
        models=_labels(model, config),
        changes=_changes(context),
    )
    links = None if catalogue is None else tuple(read_catalogue(catalogue, run_config.read.max_mb))
    name = TEST_FILE if test else protocol
    plan = Plan(
        protocol=name,
        repeats=repeats or (20 if name in RANDOM else 1),
        seeds=seeds,
        share=share,
        weight=weight,
        every=every,
        every_counting=every_counting,
        catalogue=links,
    )
    with console.progress() as bar:
        task = bar.add_task("measuring", total=plan.repeats * plan.seeds * len(run_config.models))
        result = run(
            data,
            run_config,
            plan,
            _make_trainer([run_config], device, threads, processes, bar),
            test=test,
            keep=keep,
            processes=processes,
            advance=lambda label: bar.update(task, advance=1, description=f"measured {label}"),
        )
    _show_result(result, json, report)


@app.command()
def ablate(
    data: Data,
    config: Annotated[
        Path, typer.Option("--config", help="TOML file: plan, base, variants; see configs/")
    ],
    options: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of results and finished cells [default: out/<config>]")
    ] = None,
    processes: Processes = 2,
    device: DeviceOption = "auto",
    threads: Threads = 1,
    json: Json = None,
) -> None:
    """Run a component study: variants of one configuration on the same splits, side by side.

    Finished cells are kept: after an interruption, the same command goes on where it stopped. --set
    overrides a key of the file, e.g. plan.repeats=5.
    """
    from dagrec.jobs.ablate import ablate as run
    from dagrec.jobs.ablate import load_study

    study = load_study(config, options or ())
    folder = out or Path("out") / config.stem
    with console.progress() as bar:
        total = study.plan.repeats * study.plan.seeds * len(study.runs)
        task = bar.add_task("measuring", total=total)
        result = run(
            data,
            study,
            _make_trainer(study.runs.values(), device, threads, processes, bar),
            folder,
            processes=processes,
            advance=lambda label: bar.update(task, advance=1, description=f"measured {label}"),
        )
    _show_result(result, json, None, against=next(iter(study.runs)))
    console.say(f"results.json, table.md and pictures are in {folder}")


@app.command()
def predict(
    store: StorePath,
    path: Annotated[str | None, typer.Option(help="node keys, separated by commas")] = None,
    composition: Annotated[
        Path | None, typer.Option(help="native JSON file of one partial composition")
    ] = None,
    at: Annotated[str | None, typer.Option(help="id of its node to extend")] = None,
    contexts: Annotated[
        Path | None, typer.Option(help="JSON lines of requests; prints one answer a line, in order")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="services in the answer")] = 10,
    model: Annotated[str | None, typer.Option(help="label of a model [default: the champion]")] = None,
    mask: MaskOption = None,
    version: Annotated[str | None, typer.Option(help="of the bundle [default: the live one]")] = None,
    threads: Threads = 1,
    json: Json = None,
) -> None:
    """Say which service comes next, from a published bundle."""
    from dagrec import predict as library
    from dagrec.data.formats.documents import parse_json, read_text
    from dagrec.store.catalogue import Store

    if sum(source is not None for source in (path, composition, contexts)) != 1:
        raise typer.BadParameter("give one of --path, --composition and --contexts")
    _set_threads(threads)
    bundle = Store(store).load(version)
    defaults: dict[str, Any] = {"k": k, "model": model, "mask": mask}
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
    if path is not None:
        keys = [key.strip() for key in path.split(",") if key.strip()]
        request = library.make_request({"path": keys, "at": at, **defaults})
    else:
        assert composition is not None
        try:
            document = parse_json(read_text(composition, 64))
        except DataError as error:
            raise error.at(str(composition)) from None
        request = library.make_request({"composition": document, "at": at, **defaults})
    answer = library.predict(bundle, request)
    if json is not None:
        console.write_json(json, answer.model_dump(mode="json"))
    if json != "-":
        console.answer_table(answer)


@app.command()
def serve(
    store: StorePath,
    host: Annotated[str | None, typer.Option(help="address to bind [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port to bind [default: 8000]")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Answer POST /predict over HTTP from the live bundle of STORE. DAGREC_* variables set the rest."""
    from service.app import run
    from service.settings import make_settings

    _set_threads(threads)
    run(make_settings(store=store, host=host, port=port))


@app.command()
def bench(
    context: typer.Context,
    data: Data,
    model: Model = None,
    config: Config = None,
    options: Set = None,
    form: Form = None,
    count: Count = None,
    max_paths: MaxPaths = None,
    seed: Seed = None,
    device: DeviceOption = "auto",
    threads: Threads = 1,
    json: Json = None,
) -> None:
    """Time fitting and answering of each recommender on DATA, in one run."""
    from dagrec.jobs.benchmark import benchmark as run

    run_config = load_config(
        config,
        overrides=options or (),
        models=_labels(model, config),
        changes=_changes(context),
    )
    with console.progress() as bar:
        task = bar.add_task("timing", total=len(run_config.models))
        trainer = _make_trainer([run_config], device, threads, 1, bar)()
        result = run(data, run_config, trainer, advance=lambda _: bar.advance(task))
    if json is not None:
        console.write_json(json, result)
    if json != "-":
        fastest = min(m["microseconds_alone"] for m in result["models"].values())
        rows = [
            [
                label,
                f"{m['fit_seconds']:.3f}",
                m["epochs"] or "-",
                f"{m['microseconds_alone']:.0f}",
                f"{m['microseconds_alone'] / fastest:.1f}",
                f"{m['microseconds_in_batch']:.1f}",
                f"{m['parameters']:,}",
            ]
            for label, m in result["models"].items()
        ]
        title = f"{data}: {result['distinct_contexts']:,} contexts, {result['services']:,} services"
        columns = ["model", "fit s", "epochs", "µs alone", "ratio", "µs in batch", "parameters"]
        console.table(title, columns, rows)


@app.command()
def models(json: Json = None) -> None:
    """List the recommenders, what each uses, and its hyperparameters."""
    found: list[dict[str, Any]] = []
    for name in MODELS:
        class_ = recommender_class(name)
        traits = class_.traits
        fields = class_.Config.model_fields
        found.append(
            {
                "name": name,
                "family": family(name),
                "paper": class_.paper,
                "uses": [u for u in ("order", "graph", "owner") if getattr(traits, f"{u}_aware")]
                + ["text"] * traits.needs_text,
                "trained_by_gradient": traits.gradient_trained,
                "hyperparameters": {
                    key: {"default": field.default, "about": field.description}
                    for key, field in fields.items()
                },
            }
        )
    if json is not None:
        console.write_json(json, found)
        return
    for model in found:
        uses = ", ".join(model["uses"]) or "frequencies"
        console.out.print(
            f"[bold]{model['name']}[/bold] ({model['family']}; {model['paper']}): uses {uses}"
        )
        for key, about in model["hyperparameters"].items():
            console.out.print(f"    {key} = {about['default']}: {about['about']}", markup=False)


@app.command()
def formats(json: Json = None) -> None:
    """List the formats that are read, and what happens to a cycle in each."""
    rows = [[f.name, f.about, f.on_cycle] for f in FORMATS.values()]
    if json is not None:
        console.write_json(
            json, [dict(zip(("name", "about", "on_cycle"), r, strict=True)) for r in rows]
        )
        return
    console.table("formats, told apart by content", ["name", "about", "on cycle"], rows)


READ = tuple(ReadOptions.model_fields)
EXAMPLES = ("form", "count", "max_paths")


def _changes(context: typer.Context) -> dict[str, Any]:
    """The options that were given on the command line, in the places of a run's file."""
    given = context.params
    return {
        "seed": given["seed"],
        "mask": given.get("mask"),
        "read": {name: given.get(name) for name in READ},
        "examples": {"seed": given["seed"]} | {name: given[name] for name in EXAMPLES},
    }


def _labels(model: list[str] | None, config: Path | None) -> list[str]:
    """The labels to run: those named, all, or with nothing named the config's, else all."""
    if not model:
        return [] if config else list(MODELS)
    return list(dict.fromkeys(name for m in model for name in (MODELS if m == "all" else [m])))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}; check the path") from None


def _make_trainer(
    configs: Iterable[RunConfig], device: Device, threads: int, processes: int, bar: Any
) -> Callable[[], Trainer | None]:
    """Makes what trains networks where a model needs it; in this process with a bar of its epochs."""
    from dagrec.jobs.cells import needs_trainer, network_trainer

    needed = needs_trainer(configs)
    make = partial(network_trainer, device, threads, needed)
    if processes > 1 or not needed:
        return make
    task = bar.add_task("epochs", visible=False)

    def show(name: str, epoch: int, epochs: int, loss: float) -> None:
        text = f"  {name}: loss {loss:.3f}"
        bar.update(task, completed=epoch, total=epochs, description=text, visible=epoch < epochs)

    return partial(make, show)


def _show_result(
    result: dict[str, Any], json: str | None, report: Path | None, against: str | None = None
) -> None:
    if report is not None:
        from dagrec.evaluation.page import write_page

        console.say(f"report written to {write_page(result, report)}")
    if json is not None:
        console.write_json(json, result)
    if json != "-":
        console.result_table(result, against)


def _set_threads(threads: int) -> None:
    """Threads of numpy and torch; torch reads the variable when it is imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _with_bare_json(arguments: list[str]) -> list[str]:
    """``--json`` without a value means ``--json -``."""
    found = []
    for i, argument in enumerate(arguments):
        found.append(argument)
        after = arguments[i + 1] if i + 1 < len(arguments) else "--"
        if argument == "--json" and after.startswith("-") and after != "-":
            found.append("-")
    return found


def main() -> None:
    """Entry point. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""
    try:
        try:
            app(_with_bare_json(sys.argv[1:]), prog_name="dagrec")
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        console.say(f"dagrec: {error}", style="red")
        sys.exit(2)
    except DagrecError as error:
        console.say(f"dagrec: {error}", style="red")
        sys.exit(1)
    except OSError as error:  # of standard output; all other files have errors of their own
        # What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            console.say(f"dagrec: the result cannot be written: {error.strerror}", style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
