"""Clients that take their time: those that send a byte now and then, those that read nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from load_tests.generator import get, post

PERIOD_S = 0.1
PROMISED_BYTES = 100_000
# Of a large answer, on one connection: more than fits between a client and the service.
NUM_UNREAD = 100


@asynccontextmanager
async def slow_people(host: str, port: int, num_clients: int) -> AsyncIterator[None]:
    """So many of them ask at this address while the block runs, half of either kind."""
    kinds = (_send_slowly, _read_nothing)
    clients = [asyncio.create_task(kinds[i % 2](host, port)) for i in range(num_clients)]
    try:
        yield
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _send_slowly(host: str, port: int) -> None:
    """Again and again, as it is cut off in the middle."""
    while True:
        _, writer = await asyncio.open_connection(host, port)
        try:
            with suppress(OSError):
                for byte in post("/v1/densepose", bytes(PROMISED_BYTES)):
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(PERIOD_S)
        finally:
            writer.close()


async def _read_nothing(host: str, port: int) -> None:
    # The limit is what is read ahead.
    _, writer = await asyncio.open_connection(host, port, limit=1)
    try:
        writer.write(get("/openapi.json") * NUM_UNREAD)
        await asyncio.Event().wait()
    finally:
        writer.close()
