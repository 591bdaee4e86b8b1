"""What all tests share: servers, clients, names, and the checks that hold for the whole suite."""

from __future__ import annotations

import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
)
from temporalio.testing import WorkflowEnvironment

from tests.histories import Histories, RecordStarts, Test, Tests, complaint
from tests.servers import ServerProcess

FLEET = Path(__file__).parent / "fleet"

hypothesis.settings.register_profile("suite", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "nightly", hypothesis.settings.get_profile("suite"), max_examples=2000
)
hypothesis.settings.register_profile(  # for a suite that runs once for each mutant
    "few",
    hypothesis.settings.get_profile("suite"),
    max_examples=15,
    derandomize=True,
    database=None,
)
hypothesis.settings.load_profile("suite")


# Servers and clients


@dataclass
class Server:
    """A server of the suite, started when the first test asks for it."""

    environment: WorkflowEnvironment
    histories: Histories
    can_list: bool


@pytest.fixture(scope="session")
def _servers() -> list[Server]:
    return []


@pytest.fixture(scope="session")
def _tests() -> Tests:
    return Tests()


@pytest.fixture(scope="session")
def _dev_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # Not asynchronous, so that nothing can keep it from ending the server.
    process = ServerProcess("temporal", tmp_path_factory.mktemp("dev-server"))
    yield process
    process.kill()


@pytest.fixture(scope="session")
def _env_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess("temporal-test-server", tmp_path_factory.mktemp("time-skipping-server"))
    yield process
    process.kill()


@pytest_asyncio.fixture(scope="session")
async def dev(
    _dev_process: ServerProcess, _servers: list[Server], _tests: Tests
) -> AsyncIterator[WorkflowEnvironment]:
    """A real development server, one for the whole run."""
    histories = Histories(_tests)
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=_dev_process.path,
        dev_server_log_level="error",
        interceptors=[RecordStarts(histories)],
    )
    async with environment:
        _servers.append(Server(environment, histories, can_list=True))
        yield environment
        problems = await histories.read_all(environment.client, can_list=True)
    assert not problems, complaint(problems)


@pytest_asyncio.fixture(scope="session")
async def env(
    _env_process: ServerProcess, _servers: list[Server], _tests: Tests
) -> AsyncIterator[WorkflowEnvironment]:
    """A time-skipping server, one for the whole run: its clock is everybody's."""
    histories = Histories(_tests)
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=_env_process.path,
        interceptors=[RecordStarts(histories)],
    )
    async with environment:
        _servers.append(Server(environment, histories, can_list=False))
        yield environment
        problems = await histories.read_all(environment.client, can_list=False)
    assert not problems, complaint(problems)


@pytest_asyncio.fixture(autouse=True)
async def _tasks_fail_only_where_provoked(
    request: pytest.FixtureRequest, _servers: list[Server], _tests: Tests
) -> AsyncIterator[None]:
    """Fail the test whose workflows had a workflow task that failed or timed out."""
    marker = request.node.get_closest_marker("provokes_task_failure")
    _tests.begin(Test(request.node.nodeid, provokes=marker.args[0] if marker else None))
    yield
    problems: list[str] = []
    for server in _servers:
        if server.histories.unread:
            problems += await server.histories.read(server.environment.client)
    _tests.end()
    assert not problems, complaint(problems)


@pytest.fixture
def client(dev: WorkflowEnvironment) -> Client:
    """A client of the development server, with the default data converter."""
    return dev.client


class EncryptionCodec(PayloadCodec):
    """AES-GCM with one fixed key, as users of Temporal's encryption sample have it."""

    def __init__(self, key: bytes = bytes(range(32))) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._encrypted(payload.SerializeToString()) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._decrypted(payload) for payload in payloads]

    def _encrypted(self, plain: bytes) -> Payload:
        nonce = os.urandom(12)
        return Payload(
            metadata={"encoding": b"binary/encrypted"},
            data=nonce + self._cipher.encrypt(nonce, plain, None),
        )

    def _decrypted(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != b"binary/encrypted":
            return payload
        plain = self._cipher.decrypt(payload.data[:12], payload.data[12:], None)
        return Payload.FromString(plain)


CONVERTERS = {
    "default": lambda: DataConverter.default,
    "pydantic": lambda: pydantic_data_converter,
    "encrypted": lambda: replace(
        DataConverter.default,
        payload_codec=EncryptionCodec(),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    ),
}


def with_converter(client: Client, data_converter: DataConverter) -> Client:
    """Return a client of the same server, still recorded, with another data converter."""
    return Client(**{**client.config(), "data_converter": data_converter})


@pytest.fixture
def pydantic_client(client: Client) -> Client:
    """A client of the development server, with the SDK's pydantic converter."""
    return with_converter(client, CONVERTERS["pydantic"]())


@pytest.fixture
def encrypted_client(client: Client) -> Client:
    """A client of the development server that encrypts payloads and failures."""
    return with_converter(client, CONVERTERS["encrypted"]())


@pytest.fixture(params=sorted(CONVERTERS))
def any_client(request: pytest.FixtureRequest, client: Client) -> Client:
    """Runs the test once with each data converter that users have."""
    return with_converter(client, CONVERTERS[request.param]())


# Names


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A short name that no other test has, from the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def workflow_id(unique: str) -> str:
    """A workflow id that no other test has."""
    return unique


@pytest.fixture
def task_queue(unique: str) -> str:
    """A task queue that no other test has."""
    return f"{unique}-queue"


# The run as a whole


def pytest_configure() -> None:
    """Take SIGINT and SIGQUIT as in a terminal, and so the programs that tests start.

    A job that a script runs in the background ignores them, and hands that on to all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker that does not say why."""
    for item in items:
        for marker in item.iter_markers("provokes_task_failure"):
            if not (len(marker.args) == 1 and marker.args[0]) or marker.kwargs:
                raise pytest.UsageError(
                    f'{item.nodeid}: say why, as @pytest.mark.provokes_task_failure("the reason")'
                )


def _fleet_is_required(path: Path) -> bool:
    return os.environ.get("REQUIRE_FLEET") == "1" and FLEET in path.parents


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_FLEET=1, and this fleet test would be skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a fleet test that is required into a failure."""
    report = yield
    if _fleet_is_required(item.path):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a module of fleet tests that is required into a failure."""
    report = yield
    if _fleet_is_required(collector.path):
        _refuse_skip(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that must hold the fleet tests and did not collect any."""
    fleet = [item for item in getattr(session, "items", []) if FLEET in item.path.parents]
    if os.environ.get("REQUIRE_FLEET") == "1" and not fleet and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nREQUIRE_FLEET=1, and no fleet test was collected", file=sys.stderr)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    """End the process with the run's own exit status, past the interpreter's shutdown.

    A process that used the SDK may crash there (temporalio/sdk-python#300), which would turn a
    green run red. The summary is printed and everything is torn down when this is reached; an
    exception passes through and is shown as ever.
    """
    status = yield
    if hasattr(config, "workerinput"):
        return status
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(status or 0))
