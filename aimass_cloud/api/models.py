"""``/v1/models``: upload, list, show, versions, aliases; and ``/upload``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from aimass.errors import InputError
from aimass_cloud.api import schemas
from aimass_cloud.api.auth import Caller
from aimass_cloud.api.paging import Cursor, Limit, cursor_of, key_of, number_of
from aimass_cloud.api.repeat import IdempotencyKey, once
from aimass_cloud.api.services import Given, Services
from aimass_cloud.api.uploads import Receivers, receive
from aimass_cloud.store.records import ApiKeyRecord
from aimass_cloud.usecases.package import UploadForm
from aimass_cloud.usecases.upload import Upload

router = APIRouter(tags=["models"])

Name = Annotated[str, Path(max_length=100)]
Alias = Annotated[str, Path(max_length=64)]
Number = Annotated[int, Path(ge=1, lt=2**63)]


def _form(file_field: str, required: list[str]) -> dict[str, Any]:
    """The form of an upload for the OpenAPI page; it is read as a stream, so FastAPI does not know it."""
    fields = {
        file_field: {"type": "string", "format": "binary", "description": "ONNX file, or tar.gz with one in it"},
        "manifest": {"type": "string", "description": 'JSON: {"name", "labels", "metrics", "batching": {"max_batch"}}'},
        "name": {"type": "string", "description": "Name of the model; else made from the file's name"},
        "files": {
            "type": "string",
            "format": "binary",
            "description": "Further files: external weights, by their name",
        },
    }
    schema = {"type": "object", "properties": fields, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "/v1/models",
    status_code=201,
    response_model=schemas.ModelVersion,
    openapi_extra=_form("model", ["model"]),
    summary="Upload a model: it is checked, signed and becomes the next version",
)
async def push_model(
    request: Request, services: Given, caller: Caller, idempotency_key: IdempotencyKey = ""
) -> Response:
    """Send the ONNX file as part ``model``, after an optional part ``manifest`` (JSON)."""
    return await _upload(request, services, caller, idempotency_key, "model")


@router.post(
    "/upload",
    status_code=201,
    response_model=schemas.ModelVersion,
    openapi_extra=_form("file", ["file"]),
    summary="Upload a model with nothing but its file",
)
async def upload_file(
    request: Request, services: Given, caller: Caller, idempotency_key: IdempotencyKey = ""
) -> Response:
    """As ``POST /v1/models`` with the file as part ``file``: ``curl -u any:KEY -F file=@digits.onnx .../upload``."""
    return await _upload(request, services, caller, idempotency_key, "file")


async def _upload(request: Request, services: Services, caller: ApiKeyRecord, key: str, file_field: str) -> Response:
    receivers: Receivers = request.app.state.receivers
    with receivers.place():
        upload = services.models.begin()
        try:
            form = await receive(request, services.models, upload, receivers, file_field)
            if not upload.fingerprints:
                hint = f"send the ONNX file as part {file_field!r}: curl -F {file_field}=@model.onnx"
                raise InputError("the upload has no model file", hint=hint)
            return await receivers.run(lambda: _publish(services, caller, key, upload, form))
        finally:
            await receivers.run(upload.close)


def _publish(services: Services, caller: ApiKeyRecord, key: str, upload: Upload, form: UploadForm) -> Response:
    def publish() -> schemas.ModelVersion:
        record = upload.publish(form, created_by=caller.name)
        return schemas.ModelVersion.of(record, tuple(upload.notes))

    return once(services, caller, key, ["upload", repr(form), *upload.fingerprints], 201, publish)


@router.get("/v1/models", summary="All models")
def list_models(services: Given, caller: Caller, limit: Limit = 100, cursor: Cursor = "") -> schemas.Models:
    """By name."""
    page = services.models.page(after=key_of(cursor), limit=limit)
    return schemas.Models(items=[schemas.Model.of(item) for item in page.items], next=cursor_of(page.next))


@router.get("/v1/models/{name}", summary="One model")
def show_model(services: Given, caller: Caller, name: Name) -> schemas.Model:
    """With its newest version and its aliases."""
    return schemas.Model.of(services.models.get(name))


@router.get("/v1/models/{name}/versions", summary="The versions of a model")
def list_versions(
    services: Given, caller: Caller, name: Name, limit: Limit = 100, cursor: Cursor = ""
) -> schemas.ModelVersions:
    """By number."""
    page = services.models.versions(name, after=number_of(cursor), limit=limit)
    items = [schemas.ModelVersion.of(item) for item in page.items]
    return schemas.ModelVersions(items=items, next=cursor_of(page.next))


@router.get("/v1/models/{name}/versions/{version}", summary="One version")
def show_version(services: Given, caller: Caller, name: Name, version: Number) -> schemas.ModelVersion:
    """With its manifest: inputs, outputs, files, variants, metrics, labels."""
    return schemas.ModelVersion.of(services.models.version(name, version))


@router.put("/v1/models/{name}/aliases/{alias}", summary="Point an alias at a version")
def set_alias(services: Given, caller: Caller, name: Name, alias: Alias, body: schemas.AliasRequest) -> schemas.Model:
    """Devices whose deployment names the alias follow at once."""
    return schemas.Model.of(services.models.set_alias(name, alias, body.version))


@router.delete("/v1/models/{name}/aliases/{alias}", status_code=204, summary="Take an alias away")
def remove_alias(services: Given, caller: Caller, name: Name, alias: Alias) -> None:
    """Refused while a deployment follows it."""
    services.models.remove_alias(name, alias)
