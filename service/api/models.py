"""Which models there are, what they can do, and where they are."""

from fastapi import APIRouter

from model_store.catalogue import ModelCard, find_model
from model_store.errors import UnknownModel
from service.api.backend import Backend, ModelStatus
from service.api.capabilities import outputs_of
from service.api.document import problem_responses
from service.api.errors import PROBLEM_OF
from service.api.schemas import ModelDescription, ModelList


def models_router(backend: Backend, default_model: str) -> APIRouter:
    """The routes below /v1/models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models() -> ModelList:
        """The models that are served here, and which is taken where none is named."""
        cards = backend.cards().values()
        return ModelList(
            default=default_model,
            models=[_describe(card, backend.status_of(card)) for card in cards],
        )

    # An alias may have a slash in it.
    @router.get("/{name:path}", responses=problem_responses([PROBLEM_OF[UnknownModel]]))
    async def show_model(name: str) -> ModelDescription:
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
        source=card.url,
        published=card.published,
        notice=card.notice,
        unused_arrays=status.unused_arrays,
    )
