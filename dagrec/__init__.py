"""dagrec recommends the next service of a composition (a workflow DAG) that somebody is building.

>>> import dagrec
>>> data = dagrec.read("data/compositions.json")
>>> model = dagrec.fit(data, "markov")
>>> model.recommend(["table_1000000", "service_301"], k=1).services
['service_301']

Everything is imported when it is first used: ``import dagrec`` itself loads no torch, scipy or FastAPI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagrec import models
    from dagrec.api.data import read
    from dagrec.api.model import Model, Recommendations, fit, load
    from dagrec.api.report import Report, evaluate
    from dagrec.api.tuning import Tuning, tune
    from dagrec.data.compositions import Composition, Node
    from dagrec.data.dataset import Dataset
    from dagrec.data.objects import from_dataframe, from_networkx, from_paths
    from dagrec.errors import DagrecError

_MODULES = {
    "Composition": "dagrec.data.compositions",
    "DagrecError": "dagrec.errors",
    "Dataset": "dagrec.data.dataset",
    "Model": "dagrec.api.model",
    "Node": "dagrec.data.compositions",
    "Recommendations": "dagrec.api.model",
    "Report": "dagrec.api.report",
    "Tuning": "dagrec.api.tuning",
    "evaluate": "dagrec.api.report",
    "fit": "dagrec.api.model",
    "from_dataframe": "dagrec.data.objects",
    "from_networkx": "dagrec.data.objects",
    "from_paths": "dagrec.data.objects",
    "load": "dagrec.api.model",
    "read": "dagrec.api.data",
    "tune": "dagrec.api.tuning",
}
"""Name -> the module that has it."""

__all__ = [
    "Composition",
    "DagrecError",
    "Dataset",
    "Model",
    "Node",
    "Recommendations",
    "Report",
    "Tuning",
    "evaluate",
    "fit",
    "from_dataframe",
    "from_networkx",
    "from_paths",
    "load",
    "models",
    "read",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dagrec")
    if name == "models":
        return import_module("dagrec.models")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    from dagrec.errors import did_you_mean

    raise AttributeError(f"dagrec has no attribute {name!r}{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
