"""Errors: rebuilt wherever they travel, told apart by family, and clear about what to do."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.backends.base import Backend
from celery.utils.serialization import get_pickleable_exception, get_pickled_exception

import paigeant_celery
from paigeant_celery import testing
from paigeant_celery.core import errors
from paigeant_celery.core.errors import (
    ConfigurationError,
    DuplicateActivity,
    EmptyItinerary,
    HopFailed,
    HopLost,
    HopUnknown,
    IllegalEvent,
    InvalidInput,
    MessageError,
    NewerMessage,
    NonDeterminismError,
    NotPublished,
    NotRecorded,
    NotSent,
    NotSerializable,
    NoWorkflow,
    OutdatedVersion,
    PaigeantError,
    Paused,
    RemoteTraceback,
    ReplayedError,
    StoreCorrupt,
    StoreRequired,
    TransientError,
    UnknownActivity,
    UnknownTransport,
    UnknownWorkflow,
    Unreachable,
    UsageError,
    WaitInsideStep,
    WorkerEnded,
    WorkflowCancelled,
    WorkflowConflict,
    WorkflowError,
    WorkflowFailed,
    WorkflowParked,
)
from paigeant_celery.core.hop_failures import hop_failed

SAMPLES = [
    PaigeantError("text"),
    UsageError("text"),
    TransientError("text"),
    InvalidInput("invalid_deps", "deps.zip", "no number"),
    InvalidInput("too_large", "", "too large"),
    EmptyItinerary(),
    EmptyItinerary("empty_itinerary", "slip", "nothing"),
    WorkflowConflict("w"),
    StoreRequired("status"),
    UnknownWorkflow("w", "memory://"),
    UnknownActivity("writr", "1 loaded: writer", ("writer", "waiter")),
    UnknownActivity("x", "0 loaded: none"),
    DuplicateActivity("x", "a.py:1", "b.py:2"),
    ConfigurationError(["one"]),
    ConfigurationError(("one", "two")),
    UnknownTransport("kafka"),
    NoWorkflow(),
    WaitInsideStep("critic", "w"),
    NotSerializable("output_not_serializable", "a Pool has no JSON form"),
    Paused("tools_deferred", "the run asks for approval of 'delete'"),
    IllegalEvent("Completed", "3", "the workflow stands at place '4'"),
    MessageError("malformed"),
    NewerMessage("newer_version", "slip.itinerary[1]", "this version does not know the kind"),
    MessageError("unknown_field", "slip.x", "this version does not know the field"),
    Unreachable("broker", "redis://host:6379/0", "ConnectionError"),
    Unreachable("store", "redis://host:6379/0", "LOADING", True, "wait"),
    Unreachable("broker", "redis://host:6379/0", "MessageNacked", True),
    NotSent("broker", "redis://host:6379/0", "ConnectionError"),
    NotSent("broker", "redis://host:6379/0", "MessageNacked", True),
    NotPublished("w", "cannot reach the broker"),
    NotPublished("w", "the broker is there but refuses", True),
    NotRecorded("w", "cannot reach the store"),
    WorkerEnded("memory://localhost//"),
    StoreCorrupt("paigeant:w", "is a list"),
    OutdatedVersion("redis://host/0", "paigeant", 2, 1),
    HopFailed("w.2", "critic", "ValueError"),
    WorkflowFailed("w", "critic", "ValueError", "no"),
    WorkflowFailed("w", None, "malformed", "no"),
    WorkflowParked("w", "critic", "ValueError", "no"),
    WorkflowCancelled("w"),
    WorkflowError("w"),
    RemoteTraceback("KeyError"),
    HopLost("w.2"),
    HopUnknown("w.2"),
    NonDeterminismError("critic", "the model call in step 1 of run 'critic:0'", "its model changed"),
    ReplayedError("OwnError", "no"),
]

USAGE = {
    UsageError, InvalidInput, EmptyItinerary, WorkflowConflict, StoreRequired, UnknownWorkflow, UnknownActivity,
    DuplicateActivity, ConfigurationError, UnknownTransport, NoWorkflow, NotSerializable, WaitInsideStep,
}  # fmt: skip
MESSAGE = {MessageError, NewerMessage}
TRANSIENT = {TransientError, Unreachable, NotSent, NotPublished, NotRecorded, WorkerEnded}
OTHERS = {
    PaigeantError, StoreCorrupt, OutdatedVersion, IllegalEvent, HopFailed, WorkflowFailed, WorkflowParked,
    WorkflowCancelled, HopLost, HopUnknown, NonDeterminismError, Paused, ReplayedError, RemoteTraceback, WorkflowError,
}  # fmt: skip


def every_class() -> set[type[PaigeantError]]:
    found = (getattr(errors, name) for name in errors.__all__)
    return {value for value in found if issubclass(value, PaigeantError)}


def same(one: object, other: BaseException) -> bool:
    return (type(one), getattr(one, "args", None), str(one), vars(one)) == (
        type(other),
        other.args,
        str(other),
        vars(other),
    )


def test_each_class_has_a_sample_and_a_family() -> None:
    """A new error is checked here with all the others, and somebody has decided whether it is retried."""
    listed = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PaigeantError)}

    assert listed == every_class() == {type(sample) for sample in SAMPLES}
    assert every_class() == USAGE | MESSAGE | TRANSIENT | OTHERS


def test_the_three_families_do_not_overlap() -> None:
    """The class alone decides whether to correct the call, give up the message or try again."""
    families = (UsageError, MessageError, TransientError)

    by_family = {family: {cls for cls in every_class() if issubclass(cls, family)} for family in families}

    assert by_family == {UsageError: USAGE, MessageError: MESSAGE, TransientError: TRANSIENT}


def test_a_wrong_value_is_a_value_error_for_code_that_does_not_know_us() -> None:
    """Web frameworks turn `ValueError` into a refusal of the request."""
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(EmptyItinerary, InvalidInput)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_rebuilt_from_its_arguments(error: PaigeantError) -> None:
    """Celery rebuilds an error as `cls(*args)`; one that cannot be would lose its class and its text."""
    assert same(type(error)(*error.args), error)
    assert json.loads(json.dumps(error.args)) == list(error.args)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: PaigeantError) -> None:
    """A prefork child hands its errors to the parent as pickles."""
    assert same(pickle.loads(pickle.dumps(error)), error)
    assert same(copy.copy(error), error)
    assert same(get_pickled_exception(get_pickleable_exception(error)), error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_a_result_backend(error: PaigeantError) -> None:
    """The caller of `AsyncResult.get()` catches the class that was raised in the worker."""
    backend = Backend(Celery(set_as_current=False), serializer="json")
    stored = json.loads(json.dumps(backend.prepare_exception(error)))

    assert same(backend.exception_to_python(stored), error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("invalid_deps", "deps.zip", "no number"), "invalid_deps at `deps.zip`: no number"),
        (InvalidInput("too_large", "", "too large"), "too_large: too large"),
        (MessageError("malformed"), "malformed"),
        (MessageError("malformed", "slip"), "malformed at `slip`"),
        (
            UnknownActivity("writr", "1 loaded: writer", ["writer"]),
            "no activity 'writr' is loaded; searched 1 loaded: writer; did you mean 'writer'?",
        ),
        (ConfigurationError(["one"]), "configuration: one"),
        (ConfigurationError(["one", "two"]), "configuration, 2 mistakes: one | two"),
        (WorkflowFailed("w", "critic", "ValueError", "no"), "workflow w failed at step 'critic': ValueError: no"),
        (WorkflowFailed("w", None, "malformed", "no"), "workflow w failed: malformed: no"),
    ],
)
def test_an_error_says_what_happened_and_where(error: PaigeantError, text: str) -> None:
    """The text alone, in a log, is enough to act on."""
    assert str(error) == text


NAMELESS = ("no name", "__Hidden", "HopFailed", "cache")  # of no class of its own: nobody would find it by such a name


@pytest.mark.parametrize("name", ["KeyError", "output_too_large", "StoreCorrupt", *NAMELESS])
def test_the_error_of_a_failed_hop_has_the_name_of_the_error_of_its_step(name: str) -> None:
    """Monitors group by class; nobody wants all failures in one group."""
    error = hop_failed("w.2", "critic", name)
    backend = Backend(Celery(set_as_current=False), serializer="json")
    stored = json.loads(json.dumps(backend.prepare_exception(error)))

    assert isinstance(error, HopFailed)
    assert type(error).__name__ == (name if name not in NAMELESS else "HopFailed")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), backend.exception_to_python(stored)):
        assert same(again, error)
    assert same(get_pickled_exception(get_pickleable_exception(error)), error)


def test_what_flower_shows_of_a_failed_hop_holds_no_text_of_the_error() -> None:
    """The text of an error may quote a prompt or a customer; Flower's pages are open."""
    shown = HopFailed("w.2", "critic", "ValueError")

    assert str(shown) == "hop w.2 (step 'critic') failed with ValueError; the handle of the workflow has the text"


def docstrings() -> Iterator[tuple[str, str]]:
    """The docstrings of public names, and of public methods and properties of public classes, with their names."""
    for module in (paigeant_celery, testing):
        for name in module.__all__:
            thing = getattr(module, name)
            yield name, inspect.getdoc(thing) or ""
            members = vars(thing) if inspect.isclass(thing) else ()
            shown = (member for member in members if not member.startswith("_"))
            yield from ((f"{name}.{member}", inspect.getdoc(getattr(thing, member)) or "") for member in shown)


def test_each_error_that_a_public_docstring_names_is_a_public_name() -> None:
    """What the documentation tells people to catch can be imported from where they import the rest."""
    named = {
        (where, word) for where, text in docstrings() for word in re.findall(r"`(\w+)`", text) if word in errors.__all__
    }

    assert {
        ("WorkflowDispatcher.dispatch_workflow", "NotRecorded"),
        ("WorkflowHandle.status", "UnknownWorkflow"),
    } < named
    assert [(where, word) for where, word in sorted(named) if word not in paigeant_celery.__all__] == []
    assert all(getattr(paigeant_celery, word) is getattr(errors, word) for _, word in named)
