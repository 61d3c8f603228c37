"""A route class with low overhead, which validates and serialises JSON with pydantic directly."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

JSON = "application/json"


class FastRoute(APIRoute):
    """Calls ``endpoint(body, request)``, where ``body`` is a pydantic model and the result a Response.

    FastAPI's own handler parses the JSON, validates the result and resolves dependencies, which takes
    three times as long as a prediction. It still handles each request that does not validate here, so
    that errors, and the OpenAPI document, are those of an ordinary route.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        default_handler = super().get_route_handler()
        endpoint = self.endpoint
        assert self.body_field is not None
        model: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != JSON:
                return await default_handler(request)
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError:
                return await default_handler(request)
            response: Response = await endpoint(body, request)
            return response

        return handle
