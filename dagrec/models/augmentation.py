"""How the contexts of training are varied before a sequence network reads them."""

from __future__ import annotations

from pydantic import Field

from dagrec.types import Options


class Augmentation(Options):
    """Probabilities of three changes that leave the right answer as it is; all 0: no change.

    None of them touches the last node of a context, which decides what may follow.
    """

    node_mask: float = Field(
        0.0, ge=0, lt=1, description="that a node before the last is read as the unknown node"
    )
    crop: float = Field(
        0.0, ge=0, le=1, description="that a context loses some of its oldest nodes, not its last"
    )
    reorder: float = Field(
        0.0,
        ge=0,
        le=1,
        description="that the upstream DAG is read in another order of the nodes that no link orders; "
        "for contexts that are read from it",
    )

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.node_mask > 0 or self.crop > 0 or self.reorder > 0
