import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from model_store.catalogue import load_catalogue
from service.api.access import Access
from service.api.application import create_application
from service.api.backend import Backend
from service.api.densepose import Limits, Threads
from service.api.origins import Origins
from service.datatypes import ModelStatus
from service.imaging.decoders import Decoders
from service.metrics import Metrics
from tests.integration.stand_in import StandIn

WIDTH, HEIGHT = 8, 10
LIMITS = {
    "timeout_ms": 30_000,
    "upload_timeout_ms": 15_000,
    "max_body_bytes": 1_000_000,
    "max_pixels": 1_000_000,
    "max_inflight_bytes": 100_000_000,
    "max_answer_bytes": 50_000_000,
}


class CountingExecutor(ThreadPoolExecutor):
    """Notes how many jobs there were at once, waiting or running."""

    num_jobs = 0
    most_jobs = 0

    def submit(self, *job, **kwargs):
        self.num_jobs += 1
        self.most_jobs = max(self.most_jobs, self.num_jobs)
        future = super().submit(*job, **kwargs)
        future.add_done_callback(self._note_end)
        return future

    def _note_end(self, _):
        self.num_jobs -= 1


@dataclass
class Service:
    """The application around a stand-in, and a client that asks it."""

    app: FastAPI
    client: TestClient
    device: StandIn
    metrics: Metrics
    decoders: CountingExecutor
    encoders: CountingExecutor
    pictures: Decoders
    health: dict[str, tuple[bool, str]] = field(default_factory=dict)

    @property
    def inflight_bytes(self) -> float:
        """What the ledger of all requests has."""
        return self.metrics.registry.get_sample_value("densepose_inflight_bytes")

    def concurrent_client(self):
        transport = httpx2.ASGITransport(self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://test")

    def ask(self, content=None, *, params=None, **headers):
        content = picture() if content is None else content
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            "/v1/densepose", content=content, params=params, headers={"accept": "*/*"} | headers
        )


def picture(size=(WIDTH, HEIGHT), file_format="PNG", **options) -> bytes:
    width, height = size
    pixels = np.arange(width * height * 3).reshape(height, width, 3) % 251
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, file_format, **options)
    return file.getvalue()


def build_service(
    *,
    cards=None,
    default_model="demo",
    access=None,
    cors_origins=(),
    allowed_hosts=("*",),
    **changes,
) -> Service:
    """A service of its own; the changes are to LIMITS."""
    cards = load_catalogue() if cards is None else cards
    device, metrics = StandIn(), Metrics({"version": "test"})
    health = {"readiness": (True, "ready"), "liveness": (True, "alive")}
    decoders, encoders = CountingExecutor(max_workers=4), CountingExecutor(max_workers=4)
    pictures = Decoders(decoders, num_usual=2, num_large=1, metrics=metrics)
    backend = Backend(
        cards=lambda: cards,
        status_of=lambda card: ModelStatus("stored" if card.url else "ready"),
        load=device.loads.append,
        unload=device.unloads.append,
        queue=device.queue(),
        readiness=lambda: health["readiness"],
        liveness=lambda: health["liveness"],
        is_draining=lambda: device.is_draining,
    )
    app = create_application(
        backend=backend,
        default_model=default_model,
        limits=Limits(**LIMITS | changes),
        metrics=metrics,
        threads=Threads(decoders, encoders, pictures),
        access=access or Access(),
        origins=Origins(cors_origins, allowed_hosts),
    )
    return Service(app, TestClient(app), device, metrics, decoders, encoders, pictures, health)


@pytest.fixture
def make_service() -> Iterator:
    services = []

    def make(**changes) -> Service:
        services.append(build_service(**changes))
        return services[-1]

    yield make
    for service in services:
        service.decoders.shutdown()
        service.encoders.shutdown()
        service.pictures.close()


@pytest.fixture
def service(make_service) -> Service:
    return make_service()
