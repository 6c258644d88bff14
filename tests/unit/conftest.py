"""Fixtures of the unit tests: nothing here reaches a network, and no test sees another's activities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from pydantic_ai import models

from paigeant_celery.activities.context import StepOutput, WorkflowContext
from paigeant_celery.activities.port import StepLimits
from paigeant_celery.activities.registry import registry
from paigeant_celery.core.message import PaigeantMessage
from paigeant_celery.core.slip import (
    ActivitySpec,
    ExecutedStep,
    FunctionSpec,
    RegisteredActivity,
    RoutingSlip,
    name_steps,
)
from paigeant_celery.store.earlier import executed_step
from paigeant_celery.testing import workflow_harness

__all__ = ["workflow_harness"]

# A loaded machine makes single examples slow; nothing is written to disk.
settings.register_profile(
    "unit", database=None, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep your own settings, and every model that costs money, out of the tests."""
    monkeypatch.delenv("PAIGEANT_TRANSPORT", raising=False)
    monkeypatch.delenv("PAIGEANT_REDIS_URL", raising=False)
    monkeypatch.setattr(models, "ALLOW_MODEL_REQUESTS", False)


@pytest.fixture(scope="session")
def make_message() -> Callable[..., PaigeantMessage]:
    """Make messages whose next step follows others with the given outputs."""

    def make(
        *steps: ActivitySpec | FunctionSpec,
        outputs: tuple[object, ...] = (),
        registered: tuple[RegisteredActivity, ...] = (),
        **fields: object,
    ) -> PaigeantMessage:
        executed = tuple(
            ExecutedStep(
                step_id=f"earlier-{place}",
                place=str(place),
                kind="agent",
                activity="earlier",
                attempt=1,
                started_at=NOON,
                finished_at=NOON,
                output=output,
            )
            for place, output in enumerate(outputs)
        )
        slip = RoutingSlip(itinerary=name_steps(steps or (ActivitySpec("writer", "write"),)), executed=executed)
        return PaigeantMessage(
            message_id=f"w-1.{len(executed)}",
            correlation_id="w-1",
            created_at=NOON,
            sent_at=NOON,
            slip=slip,
            registered_activities=registered,
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def make_context(make_message: Callable[..., PaigeantMessage]) -> Callable[..., WorkflowContext]:
    """Make the context of a step, without a hop around it."""

    def make(message: PaigeantMessage | None = None, *, previous_output: StepOutput | None = None) -> WorkflowContext:
        message = message or make_message()

        async def read(record: ExecutedStep) -> object:
            return {"read": record.step_id}

        async def read_data(digest: str) -> str:
            return f"data of {digest}"

        return WorkflowContext(
            correlation_id=message.correlation_id,
            hop_id=message.message_id,
            step_id=message.step.step_id or "",
            activity=message.step.activity,
            attempt=1,
            deadline=message.deadline,
            variables=message.variables,
            previous_output=previous_output,
            message=message,
            read_output=read,
            read_data=read_data,
            read_step=partial(asyncio.to_thread, executed_step, None, "w", message.slip),
        )

    return make


@pytest.fixture(scope="session")
def limits() -> StepLimits:
    """Limits that tests of something else do not reach."""
    return StepLimits(max_visits=16, max_output_size=16 * 1024 * 1024)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"
