"""The client for code that waits."""

import time
from types import TracebackType
from typing import Self, Unpack

import httpx2

from service.client.answers import Answer
from service.client.descriptions import (
    Health,
    Model,
    Models,
    Part,
    Render,
    illness_in,
    read_health,
    read_model,
    read_models,
    read_parts,
    read_renders,
)
from service.client.errors import Refused, ServerUnreachable
from service.client.exchange import (
    HEADERS,
    LIMITS,
    Collector,
    Request,
    check_address,
    key_headers,
    translated,
)
from service.client.questions import Picture, Wishes, ask_about, change_of, model_named
from service.client.reading import read_answer
from service.client.retries import Attempts

TIMEOUT_S = 60.0
MAX_RETRIES = 8
MAX_ANSWER_BYTES = 2**30


class DensePose:
    """A DensePose server, or a load balancer before several; threads may share one.

    >>> with DensePose("http://127.0.0.1:8000") as densepose:
    ...     answer = densepose.describe("photo.jpg", outputs="iuv", min_score=0.7)
    >>> answer.iuv().shape == (*answer.size_hw, 3)
    True
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`timeout_s` is that of a whole call: its repetitions and the pauses between them too.

        Answers larger than `max_answer_bytes`, packed or unpacked, are not taken. `transport` is
        the HTTP library's, for certificates and proxies of one's own.

        Raises:
            ValueError: the address or the key cannot be one.
        """
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._max_answer_bytes = max_answer_bytes
        self._http = httpx2.Client(
            base_url=check_address(url),
            headers={**HEADERS, **key_headers(api_key)},
            transport=transport,
            limits=LIMITS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(
        self, image: Picture, *, timeout_s: float | None = None, **wishes: Unpack[Wishes]
    ) -> Answer:
        """What is in the image: bytes or the path of a file, or uint8 [H, W, 3], R, G, B.

        Raises:
            DensePoseError: by its class, what went wrong.
            OSError: the file cannot be read.
        """
        content = self._send(ask_about(image, wishes), timeout_s)
        return read_answer(content, max_bytes=self._max_answer_bytes)

    def fetch(
        self,
        image: Picture,
        accept: str,
        *,
        timeout_s: float | None = None,
        **wishes: Unpack[Wishes],
    ) -> bytes:
        """The answer as a file of a media type, such as "image/png" with render="viton".

        Raises:
            DensePoseError: by its class, what went wrong.
            OSError: the file cannot be read.
        """
        return self._send(ask_about(image, wishes, accept=accept), timeout_s)

    def models(self) -> Models:
        """The models that are served. Raises: `DensePoseError`."""
        return read_models(self._send(Request("GET", "/v1/models")))

    def model(self, name: str) -> Model:
        """One model, by its id or an alias. Raises: `DensePoseError`."""
        return read_model(self._send(model_named(name)))

    def load(self, name: str) -> Model:
        """Have a model loaded, with the admin key; its state tells how far it is.

        Raises:
            DensePoseError: by its class, what went wrong.
        """
        return read_model(self._send(change_of(name, "load")))

    def unload(self, name: str) -> Model:
        """Have a model leave the device, with the admin key. Raises: `DensePoseError`."""
        return read_model(self._send(change_of(name, "unload")))

    def parts(self) -> tuple[Part, ...]:
        """The 24 charts of the body. Raises: `DensePoseError`."""
        return read_parts(self._send(Request("GET", "/v1/parts")))

    def renders(self) -> tuple[Render, ...]:
        """The presets that `render` can be. Raises: `DensePoseError`."""
        return read_renders(self._send(Request("GET", "/v1/renders")))

    def readiness(self) -> Health:
        """Whether the server should be asked now, and why not. Raises: `DensePoseError`."""
        return self._probe("/readyz")

    def liveness(self) -> Health:
        """Whether the server does what it should, and why not. Raises: `DensePoseError`."""
        return self._probe("/livez")

    def _probe(self, path: str) -> Health:
        try:
            return read_health(self._send(Request("GET", path), max_retries=0))
        except Refused as error:
            return illness_in(error)

    def _send(
        self, request: Request, timeout_s: float | None = None, max_retries: int | None = None
    ) -> bytes:
        attempts = Attempts(
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            max_retries=self._max_retries if max_retries is None else max_retries,
            is_safe=request.is_safe,
        )
        while True:
            try:
                return self._attempt(request, attempts)
            except (Refused, ServerUnreachable) as error:
                time.sleep(attempts.pause_s(error))

    def _attempt(self, request: Request, attempts: Attempts) -> bytes:
        built = request.build(self._http, attempts.left_s())
        with translated():
            response = self._http.send(built, stream=True)
            try:
                collector = Collector(
                    response, max_bytes=self._max_answer_bytes, deadline_s=attempts.deadline_s
                )
                for chunk in response.iter_raw():
                    collector.add(chunk)
            finally:
                response.close()
        return collector.content()
