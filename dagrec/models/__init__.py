"""The recommenders. ``dagrec.models.GRU4Rec(epochs=20)`` creates one, ``dagrec models`` lists them.

>>> import dagrec
>>> dagrec.models.Markov(order=2).config.order
2
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported here because the registry is a module of this package.
    from dagrec.errors import did_you_mean
    from dagrec.models.registry import class_names, recommender_class

    names = class_names()
    if name in names:
        return recommender_class(names[name])
    raise AttributeError(f"dagrec.models has no recommender {name!r}{did_you_mean(name, names)}")


def __dir__() -> list[str]:
    from dagrec.models.registry import class_names

    return sorted(class_names())
