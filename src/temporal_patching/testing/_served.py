"""A fleet over a socket on loopback: a worker in another process may be killed, the truth stays."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, Protocol, final
from urllib.parse import urlsplit

from temporalio.exceptions import ApplicationError
from typing_extensions import override

from ..exceptions import HostUnreachable, InvalidRequest, OutcomeUnknown
from ..models import FleetHealth, FleetQuery, HostList, HostQuery, HostTask, Notice, StepResult
from ..models._wire import from_json, to_json
from ._activities import Opened, SimulatedSteps
from ._attempts import server_time
from ._hosts import SimulatedHost
from ._log import Effect, FleetTruth

SCHEME = "simulated"
LONGEST = 2**26
"""Bytes of one message: a whole log."""

CANCEL = b"cancel\n"


class Served(Protocol):
    """What is answered, by name of the call. JSON in, JSON out."""

    async def answer(self, call: str, given: Mapping[str, Any]) -> Any:
        """Does it."""


@asynccontextmanager
async def served(fleet: Served) -> AsyncGenerator[str, None]:
    """Answers on loopback until the block ends; gives the address, in which the key is."""
    key = secrets.token_urlsafe(16)
    calls: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        calls.add(task)
        try:
            await _serve(fleet, key, reader, writer)
        finally:
            calls.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=LONGEST)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"{SCHEME}://{key}@127.0.0.1:{port}"
    finally:
        server.close()
        left = list(calls)
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _serve(
    fleet: Served, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One call. A caller that is gone does not stop it: a host does not notice either."""
    try:
        asked = json.loads(await reader.readline())
        trusted = hmac.compare_digest(str(asked["key"]).encode(), key.encode())
    except (ValueError, TypeError, KeyError):
        return
    if not trusted:
        return
    doing = asyncio.ensure_future(fleet.answer(asked["call"], asked["given"]))
    listening = asyncio.ensure_future(reader.readline())
    try:
        await asyncio.wait({doing, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and listening.exception() is None and listening.result() == CANCEL:
            doing.cancel()
        answer: dict[str, Any]
        try:
            answer = {"answer": await doing}
        except asyncio.CancelledError:
            answer = {"error": {"kind": "cancelled"}}
        except BaseException as error:
            answer = {"error": _written(error)}
        with suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    finally:
        doing.cancel()
        listening.cancel()
        await asyncio.gather(doing, listening, return_exceptions=True)


def _written(error: BaseException) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, ApplicationError):
        said.update(message=error.message, type=error.type, final=error.non_retryable)
    return said


def _read(error: Mapping[str, Any]) -> BaseException:
    kind, message = error["kind"], error.get("message", "")
    if kind == "cancelled":
        return asyncio.CancelledError()
    if kind == "HostUnreachable":
        return HostUnreachable(message)
    if kind == "OutcomeUnknown":
        return OutcomeUnknown(message)
    return ApplicationError(
        message, type=error.get("type") or kind, non_retryable=bool(error.get("final"))
    )


@final
class ServedFleet(SimulatedSteps):
    """A fleet that lives in another process, as activities of this one. ``SimulatedFleet.at`` makes it."""

    def __init__(self, address: str, *, targets: Collection[str] = ()) -> None:
        parts = urlsplit(address)
        if parts.scheme != SCHEME or not (parts.username and parts.hostname and parts.port):
            raise InvalidRequest(
                [
                    f"'address' must be what SimulatedFleet.served() gives, {SCHEME}://…@127.0.0.1:… "
                    f"(got {address!r})"
                ]
            )
        self._key, self._host, self._port = parts.username, parts.hostname, parts.port
        self._targets = tuple(targets)

    def __repr__(self) -> str:
        return f"SimulatedFleet at {self._host}:{self._port}"

    async def truth(self) -> FleetTruth:
        """What is so now, and what was done until now."""
        found = await self._call("truth")
        return _Recorded(
            hosts=tuple(from_json(each, SimulatedHost) for each in found["hosts"]),
            log=tuple(from_json(each, Effect) for each in found["log"]),
            notices=tuple(from_json(each, Notice) for each in found["notices"]),
        )

    @override
    async def list_hosts(self, query: HostQuery) -> HostList:
        return from_json(await self._call("list_hosts", query=to_json(query)), HostList)

    @override
    async def check_fleet_health(self, query: FleetQuery) -> FleetHealth:
        return from_json(await self._call("check_fleet_health", query=to_json(query)), FleetHealth)

    @override
    async def notify(self, notice: Notice) -> None:
        await self._call("notify", notice=to_json(notice))

    @override
    async def _run(self, step: str, task: HostTask) -> StepResult:
        return from_json(await self._call("run", step=step, task=to_json(task)), StepResult)

    @override
    async def _open(self, step: str, task: HostTask) -> Opened:
        return from_json(await self._call("open", step=step, task=to_json(task)), Opened)

    @override
    async def _close(
        self, number: int, what: Literal["done", "failed", "cancelled"], answer: StepResult
    ) -> StepResult:
        given = await self._call("close", number=number, what=what, answer=to_json(answer))
        return from_json(given, StepResult)

    @override
    async def _listed(self, cluster: str, names: list[str]) -> None:
        await self._call("listed", cluster=cluster, names=names)

    async def _call(self, call: str, **given: Any) -> Any:
        when = server_time()
        given["when"] = None if when is None else to_json(when)
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=LONGEST)
        try:
            asked = {"key": self._key, "call": call, "given": given}
            writer.write(json.dumps(asked).encode() + b"\n")
            await writer.drain()
            try:
                line = await reader.readline()
            except asyncio.CancelledError:
                writer.write(CANCEL)
                with suppress(asyncio.TimeoutError, OSError):
                    await asyncio.wait_for(reader.readline(), 5)  # until it is in the log
                raise
        finally:
            writer.close()
        if not line:
            raise ApplicationError(f"{self!r} does not answer, or the key is another one")
        answer = json.loads(line)
        if "error" in answer:
            raise _read(answer["error"])
        return answer["answer"]


class _Recorded(FleetTruth):
    """What was so when it was asked for."""

    def __init__(
        self,
        hosts: tuple[SimulatedHost, ...],
        log: tuple[Effect, ...],
        notices: tuple[Notice, ...],
    ) -> None:
        self._hosts, self._log, self._notices = hosts, log, notices

    @property
    @override
    def hosts(self) -> tuple[SimulatedHost, ...]:
        return self._hosts

    @property
    @override
    def log(self) -> tuple[Effect, ...]:
        return self._log

    @property
    @override
    def notices(self) -> tuple[Notice, ...]:
        return self._notices
