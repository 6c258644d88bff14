"""Activities whose values pydantic does not read as it writes them."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, Json, computed_field
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent, WorkflowContext, activity


class Parcel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(10, serialization_alias="maxItems")
    at: datetime
    price: Decimal
    tags: frozenset[str]
    sizes: Json[list[int]]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def volume(self) -> int:
        return sum(self.sizes)


class Shape(BaseModel):
    name: str = "shape"


class Circle(Shape):
    radius: int


def facts_of(parcel: Parcel) -> str:
    """Everything about a parcel, the same in each process."""
    return f"{parcel.limit} {parcel.at.isoformat()} {parcel.price} {sorted(parcel.tags)} {parcel.sizes}"


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart(info.instructions or "")])


weigh = PaigeantAgent(FunctionModel(answer), deps_type=Parcel, name="weigh")


@weigh.instructions
def look(ctx: RunContext[Parcel]) -> str:
    return facts_of(ctx.deps)


@activity
def relabel(parcel: Parcel, days: dict[date, set[int]]) -> Parcel:
    """Return the parcel with as many more items as there are days."""
    return parcel.model_copy(update={"limit": parcel.limit + sum(map(len, days.values()))})


@activity
def compare(context: WorkflowContext) -> list[str]:
    """Return what the step before made of it, and the variable, as their types read them."""
    assert context.previous_output is not None
    variable = Parcel.model_validate(context.variables["parcel"])
    return [facts_of(context.previous_output.output_as(Parcel)), facts_of(variable)]


@activity
def draw() -> list[Shape]:
    """Return what its annotation does not read."""
    return [Circle(radius=7)]
