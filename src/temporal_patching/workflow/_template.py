"""How a class that defines nothing still is a workflow, and one that defines all still cannot hang.

``@workflow.defn`` refuses an inherited ``run``, and the SDK only hands the input to an ``__init__`` that
has exactly ``run``'s parameters. So each subclass gets both of its own when it is defined. They take
the raw payload and any number of arguments, and structure by hand: then rubbish and wrong arity end
the workflow with a message, instead of failing its task for ever.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

from temporalio import workflow
from temporalio.common import RawValue

from ..exceptions import InvalidRequest
from ..models._wire import WireType
from ._failures import as_failure, raise_as_failure, wait_undisturbed
from ._raw import read

RequestT = TypeVar("RequestT", bound=WireType)
ResultT = TypeVar("ResultT", bound=WireType)

Run = Callable[..., Awaitable[Any]]


class TemplateWorkflow(Generic[RequestT, ResultT]):
    """Base of the three workflows: one request in, one result out, whatever happens."""

    _request_type: ClassVar[type[Any]]
    _result_type: ClassVar[type[Any]]

    __request: RequestT | None = None
    __refusal: BaseException | None = None

    def __init__(self, *arguments: object) -> None:
        super().__init__()
        try:
            self.__request = _accepted(arguments, self._request_type)
        except InvalidRequest as refusal:
            self._refuse(refusal)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        provide(cls)

    @property
    def _request(self) -> RequestT:
        """The request. Raises why it was refused; handlers use ``_accepted_request``."""
        if self.__request is None:
            raise self.__refusal or InvalidRequest(
                [f"{type(self).__name__}.__init__ must call super().__init__(request)"]
            )
        return self.__request

    def _refuse(self, error: BaseException) -> None:
        self.__request, self.__refusal = None, error

    @property
    def _accepted_request(self) -> RequestT | None:
        return self.__request

    async def _execute(self, request: RequestT) -> ResultT:
        raise NotImplementedError


def provide(cls: type[TemplateWorkflow[Any, Any]]) -> None:
    """Gives the class what the SDK wants to find on it: ``run`` and ``__init__``, both guarded."""
    own_init = cls.__dict__.get("__init__")
    if own_init is not None and not hasattr(own_init, "__temporal_workflow_init"):
        raise InvalidRequest(
            [
                f"{cls.__name__}.__init__ must be decorated with @workflow.init, take the parameters of "
                "run and call super().__init__(request); or leave it out"
            ]
        )
    own_run = next(
        (each for each in cls.__dict__.values() if hasattr(each, "__temporal_workflow_run")), None
    )
    if own_run is not None:
        signature = inspect.signature(own_run)
        setattr(cls, own_run.__name__, _guarded(own_run))
    else:
        wanted = inspect.signature(own_init) if own_init is not None else _RAW
        signature = wanted.replace(return_annotation=cls._result_type)
        _place(cls, "run", workflow.run, _guarded(_run_request), signature, own_init)
    if own_init is not None:
        cls.__init__ = _guarded_init(own_init)  # type: ignore[method-assign]
    else:
        _place(
            cls, "__init__", workflow.init, _init_of(cls), signature.replace(return_annotation=None)
        )


_RAW = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=RawValue),
    ]
)


async def _run_request(self: TemplateWorkflow[Any, Any], *_: object) -> Any:
    return await self._execute(self._request)


def _init_of(cls: type[Any]) -> Callable[..., None]:
    def init(self: Any, *arguments: object) -> None:
        super(cls, self).__init__(*arguments)

    return init


def _guarded_init(own_init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(own_init)
    def guarded(self: TemplateWorkflow[Any, Any], *arguments: object) -> None:
        try:
            _only(arguments, self._request_type)
            own_init(self, *arguments)
        except BaseException as error:
            self._refuse(as_failure(error))

    return guarded


def _guarded(run: Run) -> Run:
    @functools.wraps(run)
    async def guarded(self: TemplateWorkflow[Any, Any], *arguments: object) -> Any:
        try:
            self._request  # noqa: B018 - raises why it was refused
            result = await run(self, *arguments)
        except BaseException as error:
            raise_as_failure(error)
        finally:
            # An operator whose update is under way gets an answer, not AcceptedUpdateCompletedWorkflow.
            if workflow.in_workflow() and not workflow.all_handlers_finished():
                await wait_undisturbed(workflow.all_handlers_finished)
        return result

    return guarded


def _place(
    cls: type,
    name: str,
    decorate: Callable[[Any], Any],
    function: Callable[..., Any],
    signature: inspect.Signature,
    written: Callable[..., Any] | None = None,
) -> None:
    made = cast("Any", function)
    made.__doc__ = (
        made.__doc__ or "Carries out the request. Made for each class when it is defined."
    )
    # What the SDK looks at: where it stands, and what it takes. What it really takes is anything.
    made.__name__, made.__qualname__ = name, f"{cls.__qualname__}.{name}"
    made.__module__ = cls.__module__
    made.__dict__.pop("__wrapped__", None)
    if written is not None:  # its annotations may be texts, which only make sense where it stands
        made.__wrapped__ = written
    made.__signature__ = signature
    made.__annotations__ = {
        each.name: each.annotation
        for each in signature.parameters.values()
        if each.annotation is not inspect.Parameter.empty
    } | {"return": signature.return_annotation}
    setattr(cls, name, decorate(made))


def _accepted(arguments: tuple[object, ...], wanted: type[Any]) -> Any:
    return read(_only(arguments, wanted), wanted)


def _only(arguments: tuple[object, ...], wanted: type[Any]) -> object:
    if len(arguments) != 1:
        raise InvalidRequest(
            [f"takes exactly one {wanted.__name__} (got {len(arguments)} arguments)"], what="input"
        )
    return arguments[0]
