"""A route for short requests: pydantic reads and writes their JSON in one step each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

JSON = "application/json"


class FastRoute(APIRoute):
    """Calls ``endpoint(body, request)``, where ``body`` is a pydantic model, which answers a Response.

    FastAPI makes objects of the JSON, then models of the objects, and asks for dependencies in between:
    three times the cost of a prediction. Whatever is not plainly right goes that way all the same: it
    is refused, or answered, as by any other route, and the OpenAPI document is FastAPI's own.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        careful = super().get_route_handler()
        endpoint = self.endpoint
        assert self.body_field is not None
        model: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != JSON:
                return await careful(request)
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError:
                return await careful(request)
            answer: Response = await endpoint(body, request)
            return answer

        return handle
