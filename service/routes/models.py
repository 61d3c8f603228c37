"""What is live: the models, and what was measured of them."""

from __future__ import annotations

from fastapi import APIRouter

from service.routes.common import PROBLEMS, Held
from service.schemas import ModelInfo, Models

router = APIRouter()


@router.get("/models", responses={503: PROBLEMS[503]})
async def get_models(held: Held) -> Models:
    """The models of the live bundle, with what was measured of them."""
    manifest = held.bundle.manifest
    return Models(
        version=manifest.version,
        mask=held.bundle.mask.value,
        models=[
            ModelInfo(
                name=label,
                recommender=entry.recommender,
                champion=label == manifest.champion,
                parameters=entry.parameters,
                metrics=entry.metrics,
            )
            for label, entry in manifest.models.items()
        ],
    )
