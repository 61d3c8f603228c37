"""The live bundle and its models, with their metrics."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

from dagrec_service.routes.common import HolderDep, problems
from dagrec_service.schemas import BundleInfo, ModelDetails, ModelInfo, Models

router = APIRouter()


@router.get("/models", responses=problems())
async def get_models(holder: HolderDep) -> Models:
    """The models of the live bundle, with their metrics."""
    bundle = holder.bundle
    manifest = bundle.manifest
    return Models(
        version=manifest.version,
        mask=bundle.mask.value,
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


@router.get("/models/{name}", responses=problems(404, 422))
async def get_model(name: str, holder: HolderDep) -> ModelDetails:
    """A model: its configuration, its metrics with intervals, and fingerprints of its data."""
    bundle = holder.bundle
    manifest = bundle.manifest
    if name not in manifest.models:
        raise HTTPException(
            404, f"model must be one of {', '.join(manifest.models)}, found {name!a}; see /models"
        )
    entry, model = manifest.models[name], bundle.models[name].recommender
    return ModelDetails(
        name=name,
        recommender=entry.recommender,
        champion=name == manifest.champion,
        parameters=entry.parameters,
        metrics=entry.metrics,
        version=manifest.version,
        paper=model.paper,
        intervals=entry.intervals,
        configuration=model.config.model_dump(mode="json"),
        seed=model.seed,
        temperature=entry.temperature,
        fit_seconds=entry.fit_seconds,
        data=str(manifest.data.get("fingerprint", "")),
        vocabulary=manifest.vocabulary,
        graph=manifest.graph,
    )


@router.get("/bundle", responses=problems())
async def get_bundle(holder: HolderDep) -> BundleInfo:
    """The live bundle: its contents, its data and its configuration."""
    bundle = holder.bundle
    manifest = bundle.manifest
    return BundleInfo(
        version=manifest.version,
        created=manifest.created,
        dagrec=manifest.dagrec,
        champion=manifest.champion,
        mask=bundle.mask.value,
        models=list(manifest.models),
        services=len(bundle.vocabulary.services),
        nodes=len(bundle.vocabulary.others),
        links=len(bundle.graph.observed.services),
        compositions=len(bundle.evidence.ids),
        data=manifest.data,
        vocabulary=manifest.vocabulary,
        graph=manifest.graph,
        config=manifest.config,
    )
