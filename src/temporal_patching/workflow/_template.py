"""How a class that defines nothing still is a workflow, and one that defines all still cannot hang.

``@workflow.defn`` refuses an inherited ``run``, and the SDK only hands the input to an ``__init__`` that
has exactly ``run``'s parameters. So each subclass gets both when it is defined, around those that it
has itself. They take the raw payload and any number of arguments, and structure by hand: then rubbish
and wrong arity end the workflow with a message, instead of failing its task for ever.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, TypeVar, cast, get_type_hints

from temporalio import workflow
from temporalio.common import RawValue

from ..exceptions import InvalidRequest
from ..models._wire import WireType
from ._failures import Failing, as_failure, wait_undisturbed
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

    def _continuation(self, error: BaseException) -> BaseException:
        """What continues it as new, with all that has come in since ``error`` was raised."""
        return error


def provide(cls: type[TemplateWorkflow[Any, Any]]) -> None:
    """Gives the class what the SDK wants to find on it: ``run`` and ``__init__``, both guarded."""
    own_init = cls.__dict__.get("__init__")
    if own_init is not None and not hasattr(own_init, "__temporal_workflow_init"):
        raise InvalidRequest(
            [
                f"{cls.__name__}.__init__ must be decorated with @workflow.init, take the request and call "
                "super().__init__(request); or leave it out"
            ]
        )
    own_run = next(
        (each for each in cls.__dict__.values() if hasattr(each, "__temporal_workflow_run")), None
    )
    for own in (own_init, own_run):
        if own is not None and len(inspect.signature(own).parameters) != 2:
            raise InvalidRequest(
                [f"{own.__qualname__} must take self and one {cls._request_type.__name__}"]
            )
    _place(cls, _guarded_run(own_run or _run_request), own_run, workflow.run)
    _place(cls, _guarded_init(own_init or _init_of(cls)), own_init, workflow.init)


async def _run_request(self: TemplateWorkflow[Any, Any], request: Any) -> Any:
    return await self._execute(request)


def _init_of(cls: type[Any]) -> Callable[..., None]:
    def init(self: Any, request: Any) -> None:
        cast("Any", super(cls, self)).__init__(request)

    return init


def _guarded_init(init: Callable[..., None]) -> Callable[..., None]:
    def guarded(self: TemplateWorkflow[Any, Any], *arguments: object) -> None:
        try:
            init(self, _accepted(arguments, self._request_type))
        except BaseException as error:
            self._refuse(as_failure(error))

    return guarded


def _guarded_run(run: Run) -> Run:
    async def guarded(self: TemplateWorkflow[Any, Any], *_: object) -> Any:
        with Failing() as failing:
            try:
                result = await run(self, self._request)
            except BaseException as error:
                if not failing.is_thrown_away(error):
                    await _handlers_finished()
                if isinstance(error, workflow.ContinueAsNewError):
                    raise self._continuation(error) from None
                raise
            await _handlers_finished()
            return result

    return guarded


async def _handlers_finished() -> None:
    # An operator whose update is under way gets an answer, not AcceptedUpdateCompletedWorkflow.
    if not workflow.all_handlers_finished():
        await wait_undisturbed(workflow.all_handlers_finished)


_RAW = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=RawValue),
    ]
)
"""What the SDK is told that ``run`` and ``__init__`` take. What they really take is anything."""


def _place(
    cls: type[TemplateWorkflow[Any, Any]],
    function: Callable[..., Any],
    own: Callable[..., Any] | None,
    decorate: Callable[[Any], Any],
) -> None:
    made = cast("Any", function)
    name = "run" if decorate is workflow.run else "__init__"
    made.__name__ = name if own is None else own.__name__
    made.__qualname__ = f"{cls.__qualname__}.{made.__name__}"
    made.__module__ = cls.__module__
    made.__doc__ = own.__doc__ if own is not None else None
    if made.__doc__ is None:
        made.__doc__ = "Carries out the request. Made for each class when it is defined."
    gives = _gives(own, cls._result_type) if name == "run" else None
    made.__signature__ = _RAW.replace(return_annotation=gives)
    made.__annotations__ = {"request": RawValue, "return": gives}
    setattr(cls, made.__name__, decorate(made))


def _gives(own_run: Callable[..., Any] | None, usual: type[Any]) -> Any:
    """What ``run`` returns: an own one may well return something of the user's."""
    if own_run is None:
        return usual
    try:
        return get_type_hints(own_run).get("return", usual)
    except Exception:  # a name that is only known once the module is complete
        return usual


def _accepted(arguments: tuple[object, ...], wanted: type[Any]) -> Any:
    if len(arguments) != 1:
        raise InvalidRequest(
            [f"takes exactly one {wanted.__name__} (got {len(arguments)} arguments)"], what="input"
        )
    return read(arguments[0], wanted)
