"""What a model is shown of a tool's result: the same in a plain run, in a hop and in each replay."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    computed_field,
    model_serializer,
)
from pydantic import dataclasses as pydantic_dataclasses
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import Hooks
from pydantic_ai.durable_exec import CallToolResult
from pydantic_ai.durable_exec._toolset import unwrap_tool_call_result
from pydantic_ai.exceptions import ToolFailed, UserError
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    BinaryImage,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
    UploadedFile,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.run import AgentRunResult
from typing_extensions import TypedDict

from paigeant_celery.agents.durability import CeleryDurability
from paigeant_celery.agents.tool_values import Array, result_of
from paigeant_celery.core.errors import HopLost, NotSerializable
from tests.support.journalled_hop import JournalledHop

pytestmark = pytest.mark.anyio


class Order(BaseModel):
    """A model with an alias, as the public interfaces of shops have them."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", serialize_by_alias=False)
    order_id: int = Field(alias="orderId")
    secret: SecretStr = SecretStr("hidden")

    @computed_field(alias="isPaid")  # type: ignore[prop-decorator]
    @property
    def is_paid(self) -> bool:
        """Say whether it is paid."""
        return True


class Nothing(BaseModel):
    """A model whose own serializer makes nothing of it."""

    @model_serializer
    def write(self) -> None:
        """Write nothing."""


class Pair(NamedTuple):
    """A tuple whose items have names."""

    first: int
    second: Order


class Color(enum.Enum):
    """An enum that is not text."""

    RED = "red"


class Word(enum.StrEnum):
    """An enum that is text."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum that is a number."""

    HIGH = 3


class Text(str):
    """Text of another class."""

    __slots__ = ()


@dataclasses.dataclass
class Holder:
    """A plain dataclass around a model."""

    order: Order
    data: bytes = b"\xff\x00"
    ratio: float = float("nan")


@pydantic_dataclasses.dataclass
class Checked:
    """A dataclass of pydantic's, with an alias."""

    order_id: Annotated[int, Field(alias="orderId")] = 1


class Row(TypedDict):
    """A mapping whose annotations say how to write it; at run time nothing knows of them."""

    number: Annotated[int, PlainSerializer(str)]


IMAGE = BinaryImage(b"\xff\x00", media_type="image/png", identifier="one")
PAPER = BinaryContent(b"%PDF", media_type="application/pdf", vendor_metadata={"a": [1]})
LINK = ImageUrl("https://example.com/a.png", force_download=True, vendor_metadata={"detail": "low"})
FILE = UploadedFile(file_id="f-1", provider_name="openai", media_type="text/plain")
LOOKALIKE = {"kind": "binary", "data": "aGk=", "media_type": "image/png"}
LINK_LOOKALIKE = {"kind": "image-url", "url": "https://example.com/a.png", "media_type": "image/png", "more": 1}
ORDER = Order(orderId=7, note="extra")  # type: ignore[call-arg]


VALUES: Mapping[str, Callable[[], Any]] = {
    "model": lambda: ORDER,
    "models": lambda: [ORDER, {"of": (ORDER,)}],
    "root": lambda: RootModel[list[Order]]([ORDER]),
    "root_of_text": lambda: RootModel[str]("text"),
    "nothing": Nothing,
    "nothings": lambda: [Nothing(), None, IMAGE],
    "one_nothing": lambda: [Nothing(), IMAGE],
    "none": lambda: None,
    "nones": lambda: [None],
    "dataclass": lambda: Holder(ORDER),
    "checked": Checked,
    "row": lambda: Row(number=1),
    "pair": lambda: Pair(1, ORDER),
    "tuple": lambda: (1, "two", {3: 4}),
    "empty_tuple": tuple,
    "empty_list": list,
    "empty_text": str,
    "set": lambda: {1.5},
    "frozen": lambda: frozenset({Color.RED}),
    "deque": lambda: deque([1, ORDER]),
    "ordered": lambda: OrderedDict(z=1, a=2),
    "counter": lambda: Counter("aab"),
    "keys": lambda: {1: 2, None: 3, b"\xff": 4, (1, 2): 5, 1.5: 6, Color.RED: 7, datetime.date(2020, 1, 1): 8},
    "text": lambda: "text",
    "texts": lambda: ["one", "two"],
    "subtext": lambda: Text("text"),
    "number": lambda: 7,
    "float": lambda: 1e22,
    "whole_float": lambda: 1.0,
    "small": lambda: 5e-324,
    "large": lambda: 10**40,
    "true": lambda: True,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "not_numbers": lambda: [float("nan"), {"a": float("inf")}],
    "one_not_a_number": lambda: [float("nan"), IMAGE],
    "bytes": lambda: b"abc",
    "bytes_that_are_no_text": lambda: b"\xff\xfe",
    "bytes_inside": lambda: {"a": [b"abc", bytearray(b"\xff")]},
    "enum": lambda: Color.RED,
    "enum_of_text": lambda: Word.RED,
    "enum_of_numbers": lambda: Level.HIGH,
    "enums": lambda: [Color.RED, Word.RED, Level.HIGH],
    "decimal": lambda: decimal.Decimal("1.50"),
    "decimals": lambda: [decimal.Decimal("1.50")],
    "time": lambda: datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "duration": lambda: datetime.timedelta(hours=1),
    "uuid": lambda: uuid.UUID(int=1),
    "path": lambda: Path("/a/b"),
    "secret": lambda: SecretStr("hidden"),
    "json": lambda: '{"a": 1}',
    "emoji": lambda: {"a": "\N{PILE OF POO}\u2028\x00"},
    "surrogate": lambda: "\ud800",
    "lists": lambda: [[1], [[2]], []],
    "lookalike": lambda: LOOKALIKE,
    "lookalikes": lambda: [LOOKALIKE, {"deep": LINK_LOOKALIKE}, LINK_LOOKALIKE],
    "lookalike_beside_its_file": lambda: [LINK, {**json.loads(json.dumps(LINK_LOOKALIKE)), "more": 2}],
    "tool_return_lookalike": lambda: {"kind": "tool-return", "return_value": 1},
    "results_lookalike": lambda: {"kind": "tool_return", "result": 1, "notes": {"files": [[]]}},
    "image": lambda: IMAGE,
    "images": lambda: [IMAGE, "between", LINK, {"a": 1}],
    "one_image": lambda: [IMAGE],
    "paper": lambda: PAPER,
    "files": lambda: [
        LINK,
        FILE,
        AudioUrl("https://example.com/a.mp3"),
        DocumentUrl("https://example.com/a"),
        VideoUrl("https://youtu.be/a"),
    ],
    "nested_files": lambda: {"a": IMAGE, "b": [LINK, {"c": FILE}], 1: 2},
    "tuple_with_a_file": lambda: (IMAGE, 1),
    "file_under_a_number": lambda: {1: IMAGE},
    "returned": lambda: ToolReturn(ORDER, content=["see", IMAGE, LINK], metadata={"a": 1}),
    "returned_bytes": lambda: ToolReturn(b"abc", content="see"),
    "returned_tuple": lambda: ToolReturn((1, IMAGE)),
    "returned_image": lambda: ToolReturn([IMAGE, LOOKALIKE], content=(IMAGE,)),
    "returned_nan": lambda: ToolReturn(float("nan")),
    "returned_nothing": lambda: ToolReturn(None, content="see"),
    "refused": lambda: raised(ModelRetry("again")),
    "failed": lambda: raised(ToolFailed("failed")),
    "invalid": lambda: Order.model_validate({"orderId": b"x", "a": ORDER}),
    "invalid_alias": lambda: RootModel[int].model_validate(ORDER),
    "invalid_items": lambda: RootModel[list[int]].model_validate([ORDER, (ORDER, Color.RED), {1: IMAGE}, [b"x"]]),
    "invalid_model": lambda: Order.model_validate(Nothing()),
    "invalid_deep": lambda: RootModel[dict[int, Order]].model_validate({1: {"orderId": float("nan")}, 2: {}}),
}  # fmt: skip


def raised(error: Exception) -> Any:
    """Raise an error as a tool does."""
    raise error


class Shown:
    """A model that calls every tool at once, and keeps what it is shown of each in every form that providers use."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}

    def model(self) -> FunctionModel:
        """Return the model."""

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            if len(messages) == 1:
                return ModelResponse(parts=[ToolCallPart(tool.name, {}, tool.name) for tool in info.function_tools])
            self.of = dict(self._parts(messages[2].parts))
            return ModelResponse(parts=[TextPart("done")])

        return FunctionModel(answer, model_name="local")

    def _parts(self, parts: Any) -> Iterator[tuple[str, Any]]:
        for number, part in enumerate(parts):
            if isinstance(part, ToolReturnPart):
                yield (
                    part.tool_name,
                    {
                        "text": part.model_response_str(),
                        "object": part.model_response_object(),
                        "items": part.content_items(mode="str"),
                        "json items": part.content_items(mode="jsonable"),
                        "text and files": part.model_response_str_and_user_content(),
                        "files": part.files,
                        "outcome": getattr(part, "outcome", None),
                        "metadata": part.metadata,
                    },
                )
            elif isinstance(part, UserPromptPart):
                yield f"prompt {number}", part.content if isinstance(part.content, str) else list(part.content)
            else:
                yield part.tool_name, part.model_response()


def agent_of(shown: Shown, values: Mapping[str, Callable[[], Any]], ran: list[str]) -> Agent[None, str]:
    """Return a durable agent with a tool for each value."""
    agent: Agent[None, str] = Agent(shown.model(), name="worker", retries=3, capabilities=[CeleryDurability[None]()])

    def tool_of(make: Callable[[], Any]) -> Callable[[RunContext[None]], Any]:
        def tool(ctx: RunContext[None]) -> Any:
            ran.append(str(ctx.tool_name))
            return make()

        return tool

    for name, make in values.items():
        agent.tool(tool_of(make), name=name)
    return agent


async def test_a_model_is_shown_the_same_in_a_plain_run_in_a_hop_and_in_each_replay() -> None:
    """What an agent concludes from its tools does not depend on where it runs, nor on whether a worker died."""
    shown, ran, hop = Shown(), list[str](), JournalledHop()
    agent = agent_of(shown, VALUES, ran)

    await agent.run("go")
    plain = shown.of
    with hop.attempt(cut_after=1 + len(VALUES)), pytest.raises(HopLost):
        await agent.run("go")
    in_hop = shown.of
    with hop.attempt() as again:
        await agent.run("go")
    replayed = shown.of
    shown.of = {}
    with hop.attempt():
        await agent.run("go")

    assert set(VALUES) <= set(plain)
    for name, expected in plain.items():
        assert (name, in_hop[name]) == (name, expected)
        assert (name, replayed[name]) == (name, expected)
    assert (again.replayed, again.made, shown.of) == (1 + len(VALUES), 1, {})
    assert Counter(ran) == dict.fromkeys(VALUES, 2)  # in the plain run and in the hop


async def test_a_history_says_what_that_of_a_plain_run_says() -> None:
    """Whoever reads a saved history finds models by the names of their fields, also after it was loaded again."""
    values = {
        name: VALUES[name] for name in ("model", "models", "root", "dataclass", "returned", "images", "lookalikes")
    }
    agent, hop = agent_of(Shown(), values, []), JournalledHop()

    def saved(result: AgentRunResult[str]) -> Any:
        parts = ModelMessagesTypeAdapter.dump_python(result.all_messages(), mode="json")[2]["parts"]
        return [{name: part[name] for name in part if name != "timestamp"} for part in parts]

    plain = saved(await agent.run("go"))
    with hop.attempt():
        in_hop = saved(await agent.run("go"))
    with hop.attempt():
        replayed = saved(await agent.run("go"))

    assert in_hop == plain
    assert replayed == plain


async def test_a_hook_sees_models_by_name_and_may_change_them() -> None:
    """What it changes is what the model is shown."""
    seen, shown = list[Any](), Shown()

    async def change(ctx: RunContext[None], **given: Any) -> Any:
        seen.append(copy.deepcopy(given["result"]))
        given["result"]["order_id"] = 8
        return given["result"]

    agent: Agent[None, str] = Agent(
        shown.model(), name="worker", capabilities=[CeleryDurability[None](), Hooks[None](after_tool_execute=change)]
    )
    agent.tool_plain(lambda: ORDER, name="tool")

    with JournalledHop().attempt():
        await agent.run("go")

    assert seen == [{"order_id": 7, "secret": "**********", "note": "extra", "is_paid": True}]
    assert shown.of["tool"]["object"]["order_id"] == 8


async def test_results_that_the_model_cannot_be_shown_are_refused() -> None:
    """A plain run fails with the next request; a hop says which tool it was."""
    for value in (object(), {"a": 1j * 1j, "b": object()}):
        agent = agent_of(Shown(), {"tool": lambda value=value: value}, [])  # type: ignore[misc]
        with JournalledHop().attempt() as journal, pytest.raises(NotSerializable, match="tool 'tool': a result has no"):
            await agent.run("go")
        assert journal.made == 1


async def test_a_list_of_returns_is_refused_as_in_a_plain_run() -> None:
    """Otherwise the model would be shown the inside of what should have been taken apart."""
    agent = agent_of(Shown(), {"tool": lambda: [ToolReturn(1)]}, [])

    with pytest.raises(UserError, match="ToolReturn"):
        await agent.run("go")
    with JournalledHop().attempt(), pytest.raises(UserError, match="ToolReturn"):
        await agent.run("go")


@pytest.mark.skipif(not hasattr(ToolReturn("a"), "tools"), reason="this pydantic-ai has no `ToolReturn.tools`")
@pytest.mark.parametrize("tools", ["search", 1, [1], [[]]])
async def test_names_of_tools_that_are_none_are_refused_as_in_a_plain_run(tools: Any) -> None:
    """Otherwise the model would be told that its arguments were wrong, and would call the tool again."""
    agent = agent_of(Shown(), {"tool": lambda: ToolReturn(1, tools=tools)}, [])

    for _ in range(2):
        with JournalledHop().attempt(), pytest.raises(UserError, match=r"`ToolReturn\.tools` must be a list"):
            await agent.run("go")


@pytest.mark.parametrize("kind", ["model", "tool"])
async def test_a_record_that_this_version_cannot_read_parks_the_step_and_is_not_quoted(kind: str) -> None:
    """A validation error would quote the answer, and that of a tool would pass for wrong arguments of the model."""
    hop, agent = JournalledHop(), agent_of(Shown(), {"tool": lambda: ToolReturn("kept")}, [])
    with hop.attempt():
        await agent.run("go")
        [[key, text], *_] = [item for item in hop.records.items() if f'"{kind}"' in item[0]]
        record = json.loads(text)
        record["result"] = {**record["result"], "parts": "secret", "kind": "secret"}
        hop.keep({key: json.dumps(record)})

    with hop.attempt(), pytest.raises(NotSerializable, match="cannot read its result back") as raised:
        await agent.run("go")
    assert "secret" not in str(raised.value)
    assert raised.value.__context__ is None


async def test_an_array_is_equal_to_its_list() -> None:
    """Code that reads a tuple's result as JSON still finds a list's items."""
    assert Array((1, [2])) == [1, [2]]
    assert Array((1,)) != [2]
    assert Array((1,)) != "1"
    assert hash(Array((1,))) == hash((1,))


def test_records_of_earlier_versions_are_read_as_before() -> None:
    """A hop that was begun before a deploy goes on after it, with the texts that its model saw."""
    codec = CeleryDurability()._tool_results
    old = {"kind": "tool_return", "result": {"order_id": 7, "image": LOOKALIKE}, "content_file_digests": []}
    returned = {"return_value": [1, LOOKALIKE], "content": "see", "metadata": None, "kind": "tool-return"}

    assert unwrap_tool_call_result(codec.load(old))["image"] == BinaryImage(b"hi", media_type="image/png")
    assert unwrap_tool_call_result(codec.load({**old, "result": returned})).content == "see"
    with pytest.raises(ModelRetry, match="again"):
        unwrap_tool_call_result(codec.load({"kind": "model_retry", "message": "again"}))


async def test_records_are_read_by_earlier_versions() -> None:
    """While a deploy goes on, a worker of the version before takes over a hop of this one."""
    before, now = CeleryDurability()._typed_result_codec(CallToolResult), CeleryDurability()._tool_results

    async def read_before(value: Any) -> Any:
        async def answer() -> Any:
            return value

        record = json.loads(json.dumps(now.dump(await result_of(answer()))))
        return unwrap_tool_call_result(before.load(record))

    assert await read_before(ORDER) == {"order_id": 7, "secret": "**********", "note": "extra", "is_paid": True}
    assert await read_before((1, IMAGE)) == [1, IMAGE]
    assert await read_before({"kind": "tool-return", "return_value": 1}) == {"kind": "tool-return", "return_value": 1}
    assert (await read_before(ToolReturn([LINK], content=[IMAGE]))).return_value == [LINK]
