"""Pictures of a result, as PNG bytes. Needs matplotlib (the extra ``viz``)."""

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
    """Each model's mean and interval of one metric, beside the lines to read it against."""
    labels = sorted(result["models"], key=lambda m: result["models"][m]["metrics"][metric]["mean"])
    figure, axes = _figure(7, 1.4 + 0.32 * len(labels))
    for position, label in enumerate(labels):
        found = result["models"][label]["metrics"][metric]
        axes.plot([found["low"], found["high"]], [position, position], color="tab:blue", lw=2)
        axes.plot(found["mean"], position, "o", color="tab:blue")
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
    """Accuracy against the seconds that fitting took."""
    figure, axes = _figure(6, 4)
    for label, model in result["models"].items():
        found = model["metrics"]["accuracy"]
        seconds = max(model["seconds"]["fit"], 1e-4)
        error = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
        axes.errorbar(seconds, found["mean"], yerr=error, fmt="o", capsize=3)
        axes.annotate(label, (seconds, found["mean"]), xytext=(5, 5), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("seconds to fit")
    axes.set_ylabel("accuracy")
    return _png(figure)


def calibration(result: Result) -> bytes:
    """Accuracy against the confidence of the first answer, in ten bins; the diagonal is perfect."""
    figure, axes = _figure(5, 4.5)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for label, model in result["models"].items():
        bins = model["breakdown"]["confidence"]
        axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", label=label)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")
    return _png(figure)


def groups(result: Result, name: str, title: str, most: int = 25) -> bytes:
    """Accuracy by the groups of a breakdown, the first ``most`` of them, a bar a model."""
    labels = list(result["models"])
    order = [g["group"] for g in result["models"][labels[0]]["breakdown"][name]][:most]
    figure, axes = _figure(max(6, 0.45 * len(order) + 2), 4)
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        found = {g["group"]: g["accuracy"] for g in result["models"][label]["breakdown"][name]}
        places = [p + i * width - 0.4 + width / 2 for p in range(len(order))]
        axes.bar(places, [found[g] for g in order], width, label=label)
    counts = {g["group"]: g["examples"] for g in result["models"][labels[0]]["breakdown"][name]}
    axes.set_xticks(range(len(order)), [f"{g}\n{counts[g]}" for g in order])
    if any(len(g) > 8 for g in order):
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel(f"{title} (below: test examples of all repeats)")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize="small")
    return _png(figure)


def curves(trainings: Sequence[Training]) -> bytes:
    """Loss (solid) and held-out value (dashed) of each epoch; below, the step size."""
    figure = _blank(7, 5.5)
    loss, rate = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    for training in trainings:
        epochs = [line.epoch for line in training.lines]
        (drawn,) = loss.plot(epochs, [line.loss for line in training.lines], label=training.label)
        held_out = [line for line in training.lines if line.validation is not None]
        loss.plot(
            [line.epoch for line in held_out],
            [line.validation for line in held_out],
            "--",
            color=drawn.get_color(),
        )
        rate.plot(epochs, [line.learning_rate for line in training.lines], color=drawn.get_color())
    loss.set_ylabel("loss; dashed: held out")
    loss.legend(fontsize="small")
    rate.set_ylabel("step size")
    rate.set_xlabel("epoch")
    return _png(figure)


def attention(found: Attention, place: int, upstream: Upstream) -> bytes:
    """The last layer's weights, mean over the heads.

    Left on the DAG upstream of the frontier, each node as dark as the weight that the frontier gave it;
    right who looked at whom in the sequence that was read.
    """
    import networkx

    matrix = found.weights[-1].mean(axis=0)
    # A key that occurs twice gets the weights in the order in which both readings have it.
    left = {key: [w for k, w in zip(found.nodes, matrix[place], strict=True) if k == key]
            for key in found.nodes}  # fmt: skip
    colours = [left[key].pop(0) if left.get(key) else 0.0 for key in upstream.keys]
    dag = networkx.DiGraph()
    for node, level in enumerate(upstream.levels):
        dag.add_node(node, subset=level)
    dag.add_edges_from((p, node) for node, parents in enumerate(upstream.parents) for p in parents)
    figure = _blank(max(9, 1.1 * len(found.nodes) + 5), max(4, 0.4 * len(found.nodes) + 2))
    drawn, grid = figure.subplots(1, 2)
    networkx.draw_networkx(
        dag,
        networkx.multipartite_layout(dag),
        ax=drawn,
        labels={node: f"{key}\n{colours[node]:.2f}" for node, key in enumerate(upstream.keys)},
        node_color=colours,
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors=["red" if node == len(upstream.keys) - 1 else "gray" for node in dag],
        node_size=900,
        font_size=7,
    )
    drawn.set_title("on the DAG (red: the frontier)", fontsize="small")
    drawn.margins(0.2)
    drawn.set_axis_off()
    image = grid.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    grid.set_xticks(range(len(found.nodes)), found.nodes, rotation=90, fontsize=7)
    grid.set_yticks(range(len(found.nodes)), found.nodes, fontsize=7)
    grid.set_xlabel("looked at")
    grid.set_ylabel("who looked")
    grid.set_title("on the sequence", fontsize="small")
    figure.colorbar(image, ax=grid, shrink=0.7)
    return _png(figure)


def embedding(points: Points, title: str, colour: Colour, *, seed: int = 0) -> bytes:
    """Vectors in two dimensions by PCA and t-SNE, side by side; a point is as large as it is frequent.

    The most frequent ones are labelled, as far as there is room.
    """
    figure = _blank(13, 6.6)
    linear, near = pca(points.vectors), tsne(points.vectors, seed=seed)
    shares = " + ".join(f"{share:.0%}" for share in linear.shares)
    drawn = {
        f"PCA ({shares} of the variance)": linear.points,
        f"t-SNE (perplexity {near.perplexity:.0f}, KL divergence {near.kl:.2f})": near.points,
    }
    frequency = np.log10(points.counts + 1)
    sizes = 14 + 160 * np.square(frequency / max(float(frequency.max()), 1.0))
    rare_last = np.argsort(-points.counts, kind="stable")  # small points lie on large ones
    for axes, (name, places) in zip(figure.subplots(1, 2), drawn.items(), strict=True):
        x, y = places[rare_last].T
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
        bar.set_label("training examples that a node occurs in")
        powers = [0, *(10**power for power in range(1 + int(frequency.max())))]
        marks = [mark for mark in powers if mark >= points.counts.min()]
        bar.set_ticks(np.log10(np.add(marks, 1)).tolist(), labels=[f"{mark:,}" for mark in marks])
    else:
        for kind in dict.fromkeys(points.kinds):
            name = f"{kind} ({points.kinds.count(kind):,})"
            axes.scatter([], [], color=KINDS[kind], label=name)
        axes.legend(loc="best", fontsize="small", framealpha=0.9)
    figure.draw_without_rendering()  # settles where everything stands
    most = rare_last[:MAX_LABELS]
    names = [short(points.keys[i]) for i in most]
    for axes, places in zip(figure.axes, drawn.values(), strict=False):
        _label(axes, names, places[most], 3 + np.sqrt(sizes[most]) / 2)
    return _png(figure)


def short(key: str) -> str:
    """The part of a key that tells most: ``fastqc`` of ``toolshed/repos/fastqc/0.72``."""
    parts = [part for part in key.split("/") if part[:1].isalpha()] or [key]
    name = parts[-1].rpartition(".")[2] or key
    return name if len(name) <= MAX_LABEL_LENGTH else f"{name[: MAX_LABEL_LENGTH - 1]}…"


def _label(axes: Axes, names: Sequence[str], places: Floats, offsets: Floats) -> None:
    """Write names beside places, the first ones first; what would cover another is left out."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="white", alpha=0.8)]
    written: list[Bbox] = []
    for name, (x, y), offset in zip(names, places.tolist(), offsets.tolist(), strict=True):
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
            if inside and not any(box.overlaps(other) for other in written):
                written.append(box)
                break
            text.remove()


def pictures(result: Result) -> dict[str, bytes]:
    """File name -> PNG, in the order of a report."""
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
        raise missing_package("a picture", error, "viz") from None
    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the metadata that names the version, equal results give equal bytes.
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
    "pictures",
]
