"""The commands inspect, generate and formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.data.examples import ExampleOptions, extract
from dagrec.data.formats import PLUGINS, all_formats, read_composition
from dagrec.jobs.config import make_options


@opts.reads_compositions
def inspect(
    context: typer.Context,
    data: opts.Data,
    json: opts.Json = None,
) -> None:
    """Show statistics of DATA: compositions, paths, nodes, links, cycles, skipped compositions."""
    from dagrec.jobs.inspect import inspect as run

    config = opts.read_config(context)
    with console.progress() as progress:
        result = run(opts.read_data(data, config, progress), config.examples)
    if json is not None:
        console.write_json(json, result)
        return
    del result["problems"]  # already printed
    for name in ("first_time", "last_time"):
        result[name] = console.format_time(result[name])
    console.print_pairs(str(data), result)


def generate(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a parameter of the generator, such as predictability=0.8; can be repeated.",
        ),
    ] = None,
) -> None:
    """Generate synthetic compositions, and show the best accuracy that is possible on them."""
    from dagrec.data.synthetic import World, WorldOptions, dump

    world = World(make_options(WorldOptions, options or ()))
    documents = world.draw()
    compositions = [read_composition(document) for document in documents]
    examples, report = extract(compositions, ExampleOptions(max_paths=10**9))
    console.write_file(out, dump(documents))
    counts = {"compositions": len(compositions), "paths": report.paths, "pairs": report.pairs}
    best = round(world.best_accuracy(examples), 4)
    console.print_pairs(
        str(out), counts | {"best_possible_accuracy": best} | world.options.model_dump()
    )


def formats(json: opts.Json = None) -> None:
    """List the supported data formats, and how each handles a cycle."""
    found = [
        {
            "name": f.name,
            "about": f.description,
            "on_cycle": f.on_cycle,
            "package": PLUGINS.package(f.name) or "dagrec",
        }
        for f in all_formats().values()
    ]
    if json is not None:
        console.write_json(json, found)
        return
    # The packages are of interest if there are plug-ins.
    shown = ["name", "about", "on_cycle", *["package"] * (len(PLUGINS.entries) > 0)]
    console.print_table(
        "formats, detected from the content",
        [name.replace("_", " ") for name in shown],
        [[row[name] for name in shown] for row in found],
    )
