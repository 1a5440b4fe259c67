"""The two clients, of which one waits and the other is for asyncio; what they ask is written once.

All questions are coroutines. Over `Waiting` none of them ever awaits anything that is not there
yet, so that the client for code that waits runs them to their end itself, without an event loop.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx2

from service.client.answers import Answer
from service.client.descriptions import Health, Model, Models, Part, Render
from service.client.errors import Refused, ServerUnreachable
from service.client.exchange import Awaiting, Request, Waiting, Way
from service.client.fields import parse_fields, read_list, read_object, read_value
from service.client.questions import Picture, Wishes, ask_about, change_of
from service.client.reading import read_answer
from service.client.retries import Attempts

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_S = 60.0
MAX_RETRIES = 8
MAX_ANSWER_BYTES = 2**30
UNAVAILABLE = 503


class Questions:
    """What can be asked of a server, whatever the way to it is."""

    def __init__(
        self, way: Way, *, timeout_s: float, max_retries: int, max_answer_bytes: int
    ) -> None:
        self._way = way
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._max_answer_bytes = max_answer_bytes

    async def close(self) -> None:
        """Close the connections."""
        await self._way.close()

    async def describe(
        self, image: Picture, *, timeout_s: float | None = None, **wishes: Unpack[Wishes]
    ) -> Answer:
        """What is in the image: bytes or the path of a file, or uint8 [H, W, 3], R, G, B.

        Raises:
            DensePoseError: by its class, what went wrong.
            OSError: the file cannot be read.
        """
        question = await self._way.aside(ask_about, image, wishes)
        content = await self._send(question, timeout_s)
        return await self._way.aside(read_answer, content, max_bytes=self._max_answer_bytes)

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
        question = await self._way.aside(ask_about, image, wishes, accept=accept)
        return await self._send(question, timeout_s)

    async def models(self) -> Models:
        """The models that are served. Raises: `DensePoseError`."""
        return read_object(Models, await self._tell(Request("GET", "/v1/models")))

    async def model(self, name: str) -> Model:
        """One model, by its id or an alias. Raises: `DensePoseError`."""
        return read_object(Model, await self._tell(Request("GET", f"/v1/models/{quote(name)}")))

    async def load(self, name: str) -> Model:
        """Have a model loaded, with the admin key; its state tells how far it is.

        Raises:
            DensePoseError: by its class, what went wrong.
        """
        return read_object(Model, await self._tell(change_of(name, "load")))

    async def unload(self, name: str) -> Model:
        """Have a model leave the device, with the admin key. Raises: `DensePoseError`."""
        return read_object(Model, await self._tell(change_of(name, "unload")))

    async def parts(self) -> tuple[Part, ...]:
        """The 24 charts of the body. Raises: `DensePoseError`."""
        return read_list(Part, await self._tell(Request("GET", "/v1/parts")), "parts")

    async def renders(self) -> tuple[Render, ...]:
        """The presets that `render` can be. Raises: `DensePoseError`."""
        return read_list(Render, await self._tell(Request("GET", "/v1/renders")), "renders")

    async def readiness(self) -> Health:
        """Whether the server should be asked now, and why not. Raises: `DensePoseError`."""
        return await self._probe("/readyz")

    async def liveness(self) -> Health:
        """Whether the server does what it should, and why not. Raises: `DensePoseError`."""
        return await self._probe("/livez")

    async def _probe(self, path: str) -> Health:
        try:
            told = parse_fields(await self._send(Request("GET", path), max_retries=0))
        except Refused as error:
            if error.status != UNAVAILABLE:
                raise
            return Health(is_well=False, reason=error.detail)
        status, reason = (read_value(str, told.get(name), name) for name in ("status", "reason"))
        return Health(status == "ok", reason)

    async def _tell(self, request: Request) -> dict[str, Any]:
        return parse_fields(await self._send(request))

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
                return await self._way.attempt(request, attempts, self._max_answer_bytes)
            except (Refused, ServerUnreachable) as error:
                await self._way.pause(attempts.pause_s(error))


class AsyncDensePose(Questions):
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
        super().__init__(
            Awaiting(url, api_key, transport),
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_answer_bytes=max_answer_bytes,
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


def _waiting(
    question: Callable[Concatenate[Questions, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["DensePose", P], T]:
    """The method that waits for the answer to a question."""

    @wraps(question)
    def wait(self: "DensePose", /, *args: P.args, **kwargs: P.kwargs) -> T:
        asking = question(self._questions, *args, **kwargs)
        try:
            asking.send(None)
        except StopIteration as end:
            answer: T = end.value
            return answer
        raise RuntimeError("a way that waits has awaited something")

    return wait


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
        self._questions = Questions(
            Waiting(url, api_key, transport),
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_answer_bytes=max_answer_bytes,
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

    close = _waiting(Questions.close)
    describe = _waiting(Questions.describe)
    fetch = _waiting(Questions.fetch)
    models = _waiting(Questions.models)
    model = _waiting(Questions.model)
    load = _waiting(Questions.load)
    unload = _waiting(Questions.unload)
    parts = _waiting(Questions.parts)
    renders = _waiting(Questions.renders)
    readiness = _waiting(Questions.readiness)
    liveness = _waiting(Questions.liveness)
