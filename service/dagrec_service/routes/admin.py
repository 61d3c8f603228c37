"""Administration: another bundle, now."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Depends, HTTPException

from dagrec.errors import StoreError
from dagrec.recommend.check import self_check
from dagrec_service.access import administrator
from dagrec_service.holder import Holder
from dagrec_service.routes.common import Held, problems
from dagrec_service.schemas import Live

router = APIRouter(prefix="/admin", dependencies=[Depends(administrator)], responses=problems(403, 409))


@router.post("/reload")
async def reload(held: Held) -> Live:
    """Take the bundle that the store calls live, at once. Refused (409): the one before goes on."""
    return await _load(held)


@router.post("/rollback")
async def rollback(held: Held) -> Live:
    """Make the bundle live that was published before the live one, in the store as well."""
    try:
        await asyncio.to_thread(held.store.rollback, check=self_check)
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
    return await _load(held)


async def _load(held: Holder) -> Live:
    try:
        return Live(version=await asyncio.to_thread(held.load))
    except StoreError as error:
        raise HTTPException(409, str(error)) from None
