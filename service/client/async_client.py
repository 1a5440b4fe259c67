"""The client for asyncio."""

import asyncio
from types import TracebackType
from typing import Self, Unpack

import httpx2

from service.client.answers import Answer
from service.client.client import (
    MAX_ANSWER_BYTES,
    MAX_RETRIES,
    TIMEOUT_S,
)
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
from service.client.errors import OutOfTime, Refused, ServerUnreachable
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


class AsyncDensePose:
    """A DensePose server, or a load balancer before several; tasks of one loop share it.

    >>> import asyncio
    >>> async def describe_all(paths):
    ...     async with AsyncDensePose("http://127.0.0.1:8000") as densepose:
    ...         return await asyncio.gather(*(densepose.describe(path) for path in paths))
    >>> answers = asyncio.run(describe_all(["photo.jpg", "photo.jpg"]))
    >>> [answer.model for answer in answers]
    ['demo', 'demo']
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        transport: httpx2.AsyncBaseTransport | None = None,
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
        self._http = httpx2.AsyncClient(
            base_url=check_address(url),
            headers={**HEADERS, **key_headers(api_key)},
            transport=transport,
            limits=LIMITS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(
        self, image: Picture, *, timeout_s: float | None = None, **wishes: Unpack[Wishes]
    ) -> Answer:
        """What is in the image: bytes or the path of a file, or uint8 [H, W, 3], R, G, B.

        Raises:
            DensePoseError: by its class, what went wrong.
            OSError: the file cannot be read.
        """
        question = await asyncio.to_thread(ask_about, image, wishes)
        content = await self._send(question, timeout_s)
        return await asyncio.to_thread(read_answer, content, max_bytes=self._max_answer_bytes)

    async def fetch(
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
        question = await asyncio.to_thread(ask_about, image, wishes, accept=accept)
        return await self._send(question, timeout_s)

    async def models(self) -> Models:
        """The models that are served. Raises: `DensePoseError`."""
        return read_models(await self._send(Request("GET", "/v1/models")))

    async def model(self, name: str) -> Model:
        """One model, by its id or an alias. Raises: `DensePoseError`."""
        return read_model(await self._send(model_named(name)))

    async def load(self, name: str) -> Model:
        """Have a model loaded, with the admin key; its state tells how far it is.

        Raises:
            DensePoseError: by its class, what went wrong.
        """
        return read_model(await self._send(change_of(name, "load")))

    async def unload(self, name: str) -> Model:
        """Have a model leave the device, with the admin key. Raises: `DensePoseError`."""
        return read_model(await self._send(change_of(name, "unload")))

    async def parts(self) -> tuple[Part, ...]:
        """The 24 charts of the body. Raises: `DensePoseError`."""
        return read_parts(await self._send(Request("GET", "/v1/parts")))

    async def renders(self) -> tuple[Render, ...]:
        """The presets that `render` can be. Raises: `DensePoseError`."""
        return read_renders(await self._send(Request("GET", "/v1/renders")))

    async def readiness(self) -> Health:
        """Whether the server should be asked now, and why not. Raises: `DensePoseError`."""
        return await self._probe("/readyz")

    async def liveness(self) -> Health:
        """Whether the server does what it should, and why not. Raises: `DensePoseError`."""
        return await self._probe("/livez")

    async def _probe(self, path: str) -> Health:
        try:
            return read_health(await self._send(Request("GET", path), max_retries=0))
        except Refused as error:
            return illness_in(error)

    async def _send(
        self, request: Request, timeout_s: float | None = None, max_retries: int | None = None
    ) -> bytes:
        attempts = Attempts(
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            max_retries=self._max_retries if max_retries is None else max_retries,
            is_safe=request.is_safe,
        )
        while True:
            try:
                return await self._attempt(request, attempts)
            except (Refused, ServerUnreachable) as error:
                await asyncio.sleep(attempts.pause_s(error))

    async def _attempt(self, request: Request, attempts: Attempts) -> bytes:
        left_s = attempts.left_s()
        try:
            # The HTTP library's own limits are those of a single read.
            async with asyncio.timeout(left_s):
                return await self._exchange(request.build(self._http, left_s), attempts)
        except TimeoutError:
            raise OutOfTime("The server did not answer in time.") from None

    async def _exchange(self, built: httpx2.Request, attempts: Attempts) -> bytes:
        with translated():
            response = await self._http.send(built, stream=True)
            try:
                collector = Collector(
                    response, max_bytes=self._max_answer_bytes, deadline_s=attempts.deadline_s
                )
                async for chunk in response.aiter_raw():
                    collector.add(chunk)
            finally:
                await response.aclose()
        return collector.content()
