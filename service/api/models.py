"""Which models there are, what they can do, and where they are."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Request

from model_store.catalogue import ModelCard, find_model
from model_store.errors import UnknownModel
from service.api.access import Access
from service.api.backend import Backend
from service.api.capabilities import outputs_of
from service.api.document import problem_responses
from service.api.errors import PROBLEM_OF
from service.api.schemas import ModelDescription, ModelList
from service.datatypes import ModelStatus
from service.errors import Forbidden, ForbiddenOrigin, Unauthorized

Name: TypeAlias = Annotated[
    str,
    Path(description="A model's id or alias.", openapi_examples={"demo": {"value": "demo"}}),
]
# Where a model's id leads.
OF_A_MODEL = {
    "show": {"operationId": "show_model", "parameters": {"name": "$response.body#/id"}},
    "load": {"operationId": "load_model", "parameters": {"name": "$response.body#/id"}},
    "unload": {"operationId": "unload_model", "parameters": {"name": "$response.body#/id"}},
    "ask": {"operationId": "answer", "parameters": {"query.model": "$response.body#/id"}},
}
OF_THE_LIST = {
    "show": {"operationId": "show_model", "parameters": {"name": "$response.body#/default"}},
    "load": {"operationId": "load_model", "parameters": {"name": "$response.body#/default"}},
    "ask": {"operationId": "answer", "parameters": {"query.model": "$response.body#/default"}},
}


def models_router(backend: Backend, default_model: str, access: Access) -> APIRouter:
    """The routes below /v1/models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])
    errors = (Unauthorized, Forbidden, ForbiddenOrigin, UnknownModel)
    problems = problem_responses([PROBLEM_OF[error] for error in errors])
    admin_problems = problems | {202: {"links": OF_A_MODEL}}
    unknown = problem_responses([PROBLEM_OF[UnknownModel]]) | {200: {"links": OF_A_MODEL}}

    @router.get("", responses={200: {"links": OF_THE_LIST}})
    async def list_models() -> ModelList:
        """The models that are served here, and which is taken where none is named."""
        cards = backend.cards().values()
        return ModelList(
            default=default_model,
            models=[_describe(card, backend.status_of(card)) for card in cards],
        )

    # An alias may have a slash in it; so what follows a name comes before a name alone.
    @router.post("/{name:path}/load", status_code=202, responses=admin_problems)
    async def load_model(name: Name, request: Request) -> ModelDescription:
        """Fetch and load a model; its state tells how far it is. Needs the admin key."""
        access.check_admin(request)
        card = find_model(backend.cards(), name)
        backend.load(card)
        return _describe(card, backend.status_of(card))

    @router.post("/{name:path}/unload", status_code=202, responses=admin_problems)
    async def unload_model(name: Name, request: Request) -> ModelDescription:
        """Free the memory that a model takes on the device. Needs the admin key."""
        access.check_admin(request)
        card = find_model(backend.cards(), name)
        backend.unload(card.id)
        return _describe(card, backend.status_of(card))

    @router.get("/{name:path}", responses=unknown)
    async def show_model(name: Name) -> ModelDescription:
        """One model, by its id or an alias."""
        card = find_model(backend.cards(), name)
        return _describe(card, backend.status_of(card))

    return router


def _describe(card: ModelCard, status: ModelStatus) -> ModelDescription:
    return ModelDescription(
        id=card.id,
        aliases=card.aliases,
        kind=card.kind,
        outputs=outputs_of(card),
        classes=card.class_names,
        meshes=tuple(card.architecture.meshes),
        state=status.state,
        bytes_on_disk=status.bytes_on_disk,
        bytes_on_host=status.bytes_on_host,
        bytes_on_device=status.bytes_on_device,
        licence=card.licence,
        source=card.source,
        published=card.published,
        notice=card.notice,
        unused_arrays=status.unused_arrays,
    )
