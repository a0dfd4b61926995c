"""Endpoints that make something, made safe to repeat: the answer is kept by Idempotency-Key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from aimass_cloud.api.services import Services
from aimass_cloud.store.records import ApiKeyRecord, StoredAnswer
from aimass_cloud.usecases.idempotency import fingerprint

IdempotencyKey = Annotated[str, Header(description="The same key with the same request gives the same answer again")]


def once(
    services: Services, caller: ApiKeyRecord, key: str, parts: list[str], status: int, make: Callable[[], BaseModel]
) -> Response:
    """What ``make`` gives as JSON answer; for a repeated key the answer of the first time."""

    def answer() -> StoredAnswer:
        return StoredAnswer(status=status, body=make().model_dump_json().encode(), content_type="application/json")

    kept, is_repeated = services.idempotency.once(caller.id, key, fingerprint(parts), answer)
    headers = {"idempotent-replayed": "true"} if is_repeated else {}
    return Response(kept.body, kept.status, headers, kept.content_type)


def body_parts(path: str, body: BaseModel) -> list[str]:
    """What tells a JSON request from another one."""
    return ["POST", path, json.dumps(body.model_dump(mode="json"), sort_keys=True)]
