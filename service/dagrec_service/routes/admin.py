"""Administration: replace the live bundle at once."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, HTTPException

from dagrec.errors import StoreError
from dagrec.recommend.check import self_check
from dagrec_service.access import require_admin
from dagrec_service.holder import Holder
from dagrec_service.routes.common import HolderDep, problems
from dagrec_service.schemas import LiveBundle

router = APIRouter(prefix="/admin", dependencies=[Depends(require_admin)], responses=problems(403, 409))


@router.post("/reload")
async def reload(holder: HolderDep) -> LiveBundle:
    """Load the store's live bundle at once.

    If it is refused (409), the service keeps the current bundle.
    """
    return await _load(holder)


@router.post("/rollback")
async def rollback(holder: HolderDep) -> LiveBundle:
    """Roll back to the bundle that was published before the live one, in the store and the service."""
    try:
        await asyncio.to_thread(holder.store.rollback, check=self_check)
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
    return await _load(holder)


async def _load(holder: Holder) -> LiveBundle:
    try:
        return LiveBundle(version=await asyncio.to_thread(holder.load))
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
