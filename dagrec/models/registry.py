"""The registry of recommenders. Classes are imported on first use, so torch loads only if needed.

It has the recommenders of dagrec, and those that other installed packages add as plug-ins.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module

from pydantic import ValidationError

from dagrec.errors import ConfigError, did_you_mean, missing_package
from dagrec.models.base import Recommender, Traits
from dagrec.plugins import Plugins
from dagrec.types import Options

MODELS: dict[str, str] = {
    "popularity": "dagrec.models.counting.popularity:Popularity",
    "markov": "dagrec.models.counting.markov:Markov",
    "vsknn": "dagrec.models.counting.vsknn:VSKNN",
    "stan": "dagrec.models.counting.stan:STAN",
    "gru4rec": "dagrec.models.sequence.gru4rec:GRU4Rec",
    "sasrec": "dagrec.models.sequence.sasrec:SASRec",
    "gpt": "dagrec.models.sequence.gpt:GPT",
    "bert4rec": "dagrec.models.sequence.bert4rec:BERT4Rec",
    "nextitnet": "dagrec.models.sequence.nextitnet:NextItNet",
    "fpmc": "dagrec.models.sequence.fpmc:FPMC",
    "dagset": "dagrec.models.dag.dagset:DagSet",
    "dagnn": "dagrec.models.dag.dagnn:DAGNN",
    "directed_dagnn": "dagrec.models.dag.directed_dagnn:DirectedDAGNN",
    "dag_gnn": "dagrec.models.dag.dag_gnn:DagGnn",
    "deepdag": "dagrec.models.dag.deepdag:DeepDAG",
    "srgnn": "dagrec.models.dag.srgnn:SRGNN",
    "dagcn": "dagrec.models.dag.dagcn:DAGCN",
    "graph_transformer": "dagrec.models.dag.graph_transformer:GraphTransformer",
    "dagformer": "dagrec.models.dag.dagformer:DAGformer",
    "gru4rec_branches": "dagrec.models.dag.gru4rec_branches:GRU4RecBranches",
    "bprmf": "dagrec.models.factorisation.bprmf:BPRMF",
    "gmf": "dagrec.models.factorisation.gmf:GMF",
    "mlp": "dagrec.models.factorisation.mlp:MLP",
    "neumf": "dagrec.models.factorisation.neumf:NeuMF",
    "ease": "dagrec.models.linear.ease:EASE",
    "ridge": "dagrec.models.linear.ridge:Ridge",
    "itemknn": "dagrec.models.linear.itemknn:ItemKNN",
    "ials": "dagrec.models.factorisation.ials:IALS",
    "lightgcn": "dagrec.models.bipartite.lightgcn:LightGCN",
    "pinsage": "dagrec.models.bipartite.pinsage:PinSage",
    "gcnii": "dagrec.models.bipartite.gcnii:GCNII",
    "layergcn": "dagrec.models.bipartite.layergcn:LayerGCN",
    "dgr": "dagrec.models.bipartite.dgr:DGR",
    "groupshuffle": "dagrec.models.bipartite.groupshuffle:GroupShuffle",
    "svdgcn_s": "dagrec.models.bipartite.svdgcn_s:SVDGCNS",
    "svdgcn_b": "dagrec.models.bipartite.svdgcn_b:SVDGCNB",
    "owner_gru": "dagrec.models.hybrid.owner_gru:OwnerGRU",
    "pagt": "dagrec.models.hybrid.pagt:PAGT",
    "ensemble": "dagrec.models.hybrid.ensemble:Ensemble",
    "blend": "dagrec.models.hybrid.blend:Blend",
    "auto": "dagrec.models.hybrid.auto:Auto",
    "ur4rec": "dagrec.models.hybrid.ur4rec:UR4Rec",
    "cache": "dagrec.models.hybrid.cache:Cache",
    "ranker": "dagrec.models.hybrid.ranker:Ranker",
}
"""Name -> import path of the class, for the recommenders of dagrec."""


def checked_class(name: str, value: object) -> type[Recommender]:
    """Return the class of a plug-in. Raises :class:`ConfigError` if it is no valid recommender."""
    if not isinstance(value, type) or not issubclass(value, Recommender):
        raise ConfigError(f"must be a class derived from Recommender, found {value!r:.80}")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(value.__abstractmethods__))
        raise ConfigError(f"{value.__name__} must define {missing}, found that it does not")
    expected = {"name": str, "paper": str, "traits": Traits}
    for attribute, class_ in expected.items():
        found = getattr(value, attribute, None)
        if not isinstance(found, class_):
            raise ConfigError(
                f"{value.__name__}.{attribute} must be a {class_.__name__}, found {found!r:.80}"
            )
    if value.name != name:
        raise ConfigError(
            f"{value.__name__}.name must be the name of the entry point, found {value.name!r:.80}"
        )
    config = getattr(value, "Config", None)
    if not isinstance(config, type) or not issubclass(config, Options):
        raise ConfigError(
            f"{value.__name__}.Config must be a class derived from Options, found {config!r:.80}"
        )
    try:
        config()
    except ValidationError:
        raise ConfigError(
            f"{value.__name__}.Config must have defaults, found a hyperparameter without a valid one"
        ) from None
    return value


PLUGINS: Plugins[type[Recommender]] = Plugins("dagrec.models", "recommender", MODELS, checked_class)
"""The recommenders of other installed packages."""


def model_names() -> list[str]:
    """The names of all recommenders. Plug-ins are not imported, so some may not be usable."""
    return [*MODELS, *PLUGINS.entries]


def usable_models() -> list[str]:
    """The names of the recommenders of dagrec and of usable plug-ins, which are imported."""
    return [*MODELS, *PLUGINS.usable()]


def recommender_class(name: str) -> type[Recommender]:
    """Return the class of a recommender.

    Raises :class:`ConfigError` for an unknown name and for a plug-in that cannot be used.
    """
    if name not in MODELS:
        if name in PLUGINS.entries:
            return PLUGINS.get(name)
        nearest = did_you_mean(name, model_names()) or f"; there are {', '.join(model_names())}"
        raise ConfigError(f"no recommender {name!r}{nearest}")
    module, _, attribute = MODELS[name].partition(":")
    try:
        class_: type[Recommender] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise missing_package(f"recommender {name!r}", error, "train") from error
    return class_


def class_names() -> dict[str, str]:
    """Class name -> registered name. Plug-ins are not imported."""
    plugins = {plugin.attribute: name for name, plugin in PLUGINS.entries.items()}
    return plugins | {path.partition(":")[2]: name for name, path in MODELS.items()}


def family(name: str) -> str:
    """The family of a recommender, such as ``counting``: the name of its folder, or ``plug-in``."""
    return MODELS[name].split(".")[2] if name in MODELS else "plug-in"


def plugin_packages(model: Recommender) -> dict[str, str]:
    """The plug-ins that a recommender is or may contain, by its configuration: name -> package."""
    if not PLUGINS.entries:
        return {}
    named = {model.name, *_texts(model.config.model_dump(mode="json"))}
    return {name: plugin.package for name, plugin in PLUGINS.entries.items() if name in named}


def _texts(value: object) -> Iterator[str]:
    """All keys and texts within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


RECOMMENDER = "recommender"
"""The key among the hyperparameters that names the recommender if its label does not."""


def recommender_name(label: str, options: Mapping[str, object]) -> str:
    """The registered name of a recommender that is configured under a label."""
    return str(options.get(RECOMMENDER, label))


def create_labelled(label: str, options: Mapping[str, object], *, seed: int = 0) -> Recommender:
    """Return an unfitted recommender from its label and hyperparameters in a configuration."""
    hyperparameters = {key: value for key, value in options.items() if key != RECOMMENDER}
    return create(recommender_name(label, options), hyperparameters, seed=seed)


def create(name: str, options: dict[str, object] | None = None, *, seed: int = 0) -> Recommender:
    """Return an unfitted recommender with these hyperparameters; the others keep their defaults.

    Raises :class:`ConfigError`, which names the hyperparameter, for an unknown name or an invalid
    value.
    """
    class_ = recommender_class(name)
    return class_(class_.configure(options or {}), seed=seed)
