"""Plots of results, as PNG bytes. They need matplotlib (the extra ``viz``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dagrec.errors import missing_package
from dagrec.evaluation.curves import Training
from dagrec.evaluation.projection import Points, pca, tsne
from dagrec.graph.upstream import Upstream
from dagrec.models.attention import Attention
from dagrec.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Result = Mapping[str, Any]
Colour = Literal["kind", "popularity"]
KINDS = {"service": "tab:blue", "other": "tab:orange"}
MAX_LABELS = 40
MAX_LABEL_LENGTH = 26


def intervals(result: Result, metric: str) -> bytes:
    """Plot the mean and the interval of a metric for each model, with the reference lines."""
    labels = sorted(result["models"], key=lambda m: result["models"][m]["metrics"][metric]["mean"])
    figure, axes = _figure(7, 1.4 + 0.32 * len(labels))
    for position, label in enumerate(labels):
        estimate = result["models"][label]["metrics"][metric]
        axes.plot([estimate["low"], estimate["high"]], [position, position], color="tab:blue", lw=2)
        axes.plot(estimate["mean"], position, "o", color="tab:blue")
    for name, style in (("random", ":"), ("popularity", "--")):
        value = result["reference"][name][metric]
        axes.axvline(value, linestyle=style, color="gray", label=name)
    if metric == "accuracy":
        best = result["reference"]["oracle_context"]
        axes.axvline(best, linestyle="-", color="tab:green", label="best function of the context")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"{metric} (95 % interval)")
    axes.legend(fontsize="small")
    return _png(figure)


def cost(result: Result) -> bytes:
    """Plot accuracy against the time of fitting."""
    figure, axes = _figure(6, 4)
    for label, model in result["models"].items():
        accuracy = model["metrics"]["accuracy"]
        mean = accuracy["mean"]
        seconds = max(model["seconds"]["fit"], 1e-4)
        error = [[mean - accuracy["low"]], [accuracy["high"] - mean]]
        axes.errorbar(seconds, mean, yerr=error, fmt="o", capsize=3)
        axes.annotate(label, (seconds, mean), xytext=(5, 5), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("seconds to fit")
    axes.set_ylabel("accuracy")
    return _png(figure)


def calibration(result: Result) -> bytes:
    """Plot accuracy against confidence in ten bins. Perfect calibration is the diagonal."""
    figure, axes = _figure(5, 4.5)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for label, model in result["models"].items():
        bins = model["breakdown"]["confidence"]
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", label=label)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")
    return _png(figure)


def groups(result: Result, name: str, title: str, max_groups: int = 25) -> bytes:
    """Plot the accuracy in the first groups of a breakdown, with one bar per model."""
    labels = list(result["models"])
    order = [g["group"] for g in result["models"][labels[0]]["breakdown"][name]][:max_groups]
    figure, axes = _figure(max(6, 0.45 * len(order) + 2), 4)
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        accuracy = {g["group"]: g["accuracy"] for g in result["models"][label]["breakdown"][name]}
        positions = [p + i * width - 0.4 + width / 2 for p in range(len(order))]
        axes.bar(positions, [accuracy[g] for g in order], width, label=label)
    counts = {g["group"]: g["examples"] for g in result["models"][labels[0]]["breakdown"][name]}
    axes.set_xticks(range(len(order)), [f"{g}\n{counts[g]}" for g in order])
    if any(len(g) > 8 for g in order):
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel(f"{title} (below: test examples of all repeats)")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")
    return _png(figure)


def curves(trainings: Sequence[Training]) -> bytes:
    """Plot the loss (solid) and the validation value (dashed) of each epoch, and the learning rate."""
    figure = _blank(7, 5.5)
    loss, rate = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    for training in trainings:
        epochs = [line.epoch for line in training.lines]
        (curve,) = loss.plot(epochs, [line.loss for line in training.lines], label=training.label)
        validated = [line for line in training.lines if line.validation is not None]
        loss.plot(
            [line.epoch for line in validated],
            [line.validation for line in validated],
            "--",
            color=curve.get_color(),
        )
        rate.plot(epochs, [line.learning_rate for line in training.lines], color=curve.get_color())
    loss.set_ylabel("loss; dashed: validation")
    loss.legend(fontsize="small")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    return _png(figure)


def attention(result: Attention, position: int, upstream: Upstream) -> bytes:
    """Plot the attention weights of the last layer, averaged over the heads.

    On the left are the weights of the row at ``position``, the frontier, on its upstream DAG. On the
    right are all weights, for the sequence of nodes that the network read.
    """
    import networkx

    matrix = result.weights[-1].mean(axis=0)
    # The weights of a key that occurs several times are assigned in the order of its occurrences.
    weights_of = {key: [w for k, w in zip(result.nodes, matrix[position], strict=True) if k == key]
                  for key in result.nodes}  # fmt: skip
    colours = [weights_of[key].pop(0) if weights_of.get(key) else 0.0 for key in upstream.keys]
    dag = networkx.DiGraph()
    for node, level in enumerate(upstream.levels):
        dag.add_node(node, subset=level)
    dag.add_edges_from((p, node) for node, parents in enumerate(upstream.parents) for p in parents)
    figure = _blank(max(9, 1.1 * len(result.nodes) + 5), max(4, 0.4 * len(result.nodes) + 2))
    graph, grid = figure.subplots(1, 2)
    networkx.draw_networkx(
        dag,
        networkx.multipartite_layout(dag),
        ax=graph,
        labels={node: f"{key}\n{colours[node]:.2f}" for node, key in enumerate(upstream.keys)},
        node_color=colours,
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors=["red" if node == len(upstream.keys) - 1 else "gray" for node in dag],
        node_size=900,
        font_size=7,
    )
    graph.set_title("attention of the frontier (red)", fontsize="small")
    graph.margins(0.2)
    graph.set_axis_off()
    image = grid.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    grid.set_xticks(range(len(result.nodes)), result.nodes, rotation=90, fontsize=7)
    grid.set_yticks(range(len(result.nodes)), result.nodes, fontsize=7)
    grid.set_xlabel("key")
    grid.set_ylabel("query")
    grid.set_title("all attention weights", fontsize="small")
    figure.colorbar(image, ax=grid, shrink=0.7)
    return _png(figure)


def embedding(points: Points, title: str, colour: Colour, *, seed: int = 0) -> bytes:
    """Plot vectors in two dimensions, by PCA and t-SNE. The size of a point shows its frequency.

    The most frequent nodes are labelled unless their labels would overlap.
    """
    figure = _blank(13, 6.6)
    by_pca, by_tsne = pca(points.vectors), tsne(points.vectors, seed=seed)
    shares = " + ".join(f"{share:.0%}" for share in by_pca.shares)
    layouts = {
        f"PCA ({shares} of the variance)": by_pca.points,
        f"t-SNE (perplexity {by_tsne.perplexity:.0f}, KL divergence {by_tsne.kl:.2f})": by_tsne.points,
    }
    frequency = np.log10(points.counts + 1)
    sizes = 14 + 160 * np.square(frequency / max(float(frequency.max()), 1.0))
    rare_last = np.argsort(-points.counts, kind="stable")  # draws small points over large ones
    for axes, (name, coordinates) in zip(figure.subplots(1, 2), layouts.items(), strict=True):
        x, y = coordinates[rare_last].T
        kinds = [KINDS[points.kinds[i]] for i in rare_last]
        dots = axes.scatter(
            x,
            y,
            sizes[rare_last],
            c=kinds if colour == "kind" else frequency[rare_last],
            cmap=None if colour == "kind" else "viridis_r",
            alpha=0.75,
            edgecolors="white",
            linewidths=0.6,
        )
        axes.set_title(name, fontsize="medium")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.06)
        axes.spines[:].set_color("lightgray")
    figure.suptitle(title)
    if colour == "popularity":
        bar = figure.colorbar(dots, ax=figure.axes, shrink=0.6, pad=0.01)
        bar.set_label("training examples with the node")
        powers = [0, *(10**power for power in range(1 + int(frequency.max())))]
        ticks = [tick for tick in powers if tick >= points.counts.min()]
        bar.set_ticks(np.log10(np.add(ticks, 1)).tolist(), labels=[f"{tick:,}" for tick in ticks])
    else:
        for kind in dict.fromkeys(points.kinds):
            name = f"{kind} ({points.kinds.count(kind):,})"
            axes.scatter([], [], color=KINDS[kind], label=name)
        axes.legend(loc="best", fontsize="small", framealpha=0.9)
    figure.draw_without_rendering()  # computes the layout, which the labels need
    labelled = rare_last[:MAX_LABELS]
    names = [short_name(points.keys[i]) for i in labelled]
    for axes, coordinates in zip(figure.axes, layouts.values(), strict=False):
        _label(axes, names, coordinates[labelled], 3 + np.sqrt(sizes[labelled]) / 2)
    return _png(figure)


def short_name(key: str) -> str:
    """Return the most informative part of a key: ``fastqc`` of ``toolshed/repos/fastqc/0.72``."""
    parts = [part for part in key.split("/") if part[:1].isalpha()] or [key]
    name = parts[-1].rpartition(".")[2] or key
    return name if len(name) <= MAX_LABEL_LENGTH else f"{name[: MAX_LABEL_LENGTH - 1]}…"


def _label(axes: Axes, names: Sequence[str], coordinates: Floats, offsets: Floats) -> None:
    """Write names beside points, in order. Names that would overlap others are left out."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white", alpha=0.8)]
    occupied: list[Bbox] = []
    for name, (x, y), offset in zip(names, coordinates.tolist(), offsets.tolist(), strict=True):
        for side, distance in (("left", offset), ("right", -offset)):
            text = axes.annotate(
                name,
                (x, y),
                xytext=(distance, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=7,
                path_effects=halo,
            )
            text.set_in_layout(False)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in occupied):
                occupied.append(box)
                break
            text.remove()


def report_plots(result: Result) -> dict[str, bytes]:
    """Return the plots of a report: file name -> PNG, in order."""
    return {
        "accuracy.png": intervals(result, "accuracy"),
        "mrr.png": intervals(result, "mrr"),
        "cost.png": cost(result),
        "calibration.png": calibration(result),
        "services.png": groups(result, "service", "recall by target service"),
        "lengths.png": groups(result, "length", "nodes in the context"),
        "supports.png": groups(result, "support", "training examples with this last node"),
    }


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _blank(width, height)
    return figure, figure.subplots()


def _blank(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_package("a plot", error, "viz") from None
    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the matplotlib version in the metadata, equal results give equal bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


__all__: Sequence[str] = [
    "attention",
    "calibration",
    "cost",
    "curves",
    "embedding",
    "groups",
    "intervals",
    "report_plots",
]
