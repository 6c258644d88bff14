"""What gives the model tools: files, commands, agents, notes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability, LocalWorkspace
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.usage import RequestUsage

from tests.contract.capabilities.row import Made
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.harness.offered import counting, of, row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


class Pace(AbstractCapability[Any]):
    """Lets tools beside a run end when its model has answered in a given step."""

    def __init__(self) -> None:
        self.answered: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: Any) -> Any:
        self.answered[ctx.run_step].set()
        return response


def saying(name: str, /, **arguments: Any) -> list[ToolCallPart]:
    return [ToolCallPart(name, arguments, f"{name}-{'-'.join(map(str, arguments.values()))[:40]}")]


def calling(world: World, *given: Any, answers: Any) -> Made:
    return acting(world, *given, answers=(*answers, call("act"), "done"))


def costing_one(parts: list[Any]) -> ModelResponse:
    """Return an answer that costs the same however long the ids in its prompt are."""
    return ModelResponse(parts=parts, usage=RequestUsage(input_tokens=1, output_tokens=1))


# Files and commands.


def files(world: World) -> Made:
    answers = (
        saying("write_file", path="note.txt", content="a wren\n"),
        saying("read_file", path="note.txt"),
        saying("list_directory", path="."),
        saying("search_files", pattern="wren"),
    )
    return calling(world, of("FileSystem")(), LocalWorkspace(world.folder), answers=answers)


def shell(world: World) -> Made:
    folder = world.folder / "nest"
    folder.mkdir(exist_ok=True)
    answers = (
        saying("run_command", command=f"cd {folder} && echo egg > eggs.txt"),
        saying("run_command", command="basename $PWD && cat eggs.txt"),
    )
    given = of("Shell")(persist_cwd=True)
    return calling(world, given, LocalWorkspace(world.folder), answers=answers)


def limits(world: World, *bands: Any) -> Made:
    given = of("ToolOutputLimits")(bands=bands, store=of("tool_output_limits.LocalFileStore")(world.folder))
    agent = acting(world, given, answers=(call("tell"), costing_one([TextPart("done")])))

    @agent.tool_plain
    def tell() -> str:
        world.did("tell")
        return "a wren " * 1000

    return agent


def truncated(world: World) -> Made:
    return limits(world, of("tool_output_limits.Band")(100, of("tool_output_limits.Truncate")(50)))


def spilled(world: World) -> Made:
    return limits(world, of("tool_output_limits.Band")(100, of("tool_output_limits.Spill")()))


def spilled_to_the_workspace(world: World) -> Made:
    given = of("ToolOutputLimits")(bands=[of("tool_output_limits.Band")(100, of("tool_output_limits.Spill")())])

    def read(messages: Any, info: Any) -> ModelResponse:
        word = str(messages[-1].parts[0].content).split("'")[1]
        return costing_one([ToolCallPart("read_tool_result", {"handle": word, "limit": 1}, "read")])

    answers = (call("tell"), read, costing_one([TextPart("done")]))
    agent = acting(world, given, LocalWorkspace(world.folder), answers=answers)

    @agent.tool_plain
    def tell() -> str:
        world.did("tell")
        return "a wren " * 1000

    return agent


def summarized(world: World) -> Made:
    shorter = of("tool_output_limits.Summarize")(model=world.model("wrens", name="summarizer"))
    return limits(world, of("tool_output_limits.Band")(100, shorter))


def repo_context(world: World) -> Made:
    (world.folder / "AGENTS.md").write_text("Be brief.")
    given = of("RepoContext")(home_dir=world.folder, expose_inventory_tool=True)
    return calling(world, given, LocalWorkspace(world.folder), answers=(call("inventory_agent_context"),))


def skills(world: World) -> Made:
    skill = world.folder / "looking"
    skill.mkdir(exist_ok=True)
    (skill / "SKILL.md").write_text("---\nname: looking\ndescription: How to look.\n---\nLook first.\n")
    given = of("Skills")(world.folder)
    return calling(world, given, LocalWorkspace(world.folder), answers=(saying("load_capability", id="looking"),))


def smart_search(world: World) -> Made:
    (world.folder / "wren.py").write_text("def wren():\n    return 'a wren'\n")
    judged = [ToolCallPart("final_result", {"entity": 0.9, "operation": 0.9}, "judged")]
    given = of("SmartSearch")(world.model(judged, name="judge"), id="search")
    return calling(world, given, LocalWorkspace(world.folder), answers=(saying("smart_search", query="wrens"),))


def docs(world: World) -> Made:
    (world.folder / "agents.md").write_text("# Agents\n")
    given = of("PydanticAIDocs")(local_docs_path=world.folder)
    return calling(world, given, LocalWorkspace(world.folder), answers=(saying("read_pyai_docs", topic="agents"),))


def coder(world: World) -> Made:
    answers = (saying("write_file", path="note.txt", content="a wren\n"), saying("read_file", path="note.txt"))
    return calling(world, of("Coder")(), LocalWorkspace(world.folder), answers=answers)


def creation(world: World) -> Made:
    code = (
        "from pydantic_ai.capabilities import AbstractCapability\n\n\n"
        "class Brief(AbstractCapability):\n    def get_instructions(self):\n        return 'Be brief.'\n"
    )
    answers = (saying("author_capability", name="brief", code=code), call("list_authored_capabilities"))
    return calling(world, of("CapabilityCreation")(world.folder), LocalWorkspace(world.folder), answers=answers)


# Notes.


def memory(world: World) -> Made:
    given = of("Memory")(counting(world, of("memory.InMemoryStore")))
    answers = (saying("write_memory", file="birds.md", content="wrens"), saying("search_memory", query="wrens"))
    return calling(world, given, answers=answers)


def planning(world: World) -> Made:
    plan = [{"content": "look", "status": "in_progress"}, {"content": "tell", "status": "pending"}]
    given = of("Planning")(store=counting(world, of("planning.InMemoryPlanStore")))
    return calling(world, given, answers=([ToolCallPart("write_plan", {"items": plan}, "plan")], call("read_plan")))


def conversation_search(world: World) -> Made:
    class Source:
        async def list_runs(self) -> Any:
            world.did("list runs")
            return []

        async def run_history(self, *, run_id: str) -> Any:
            world.did("run history")
            return [ModelRequest(parts=[UserPromptPart("wrens")]), ModelResponse(parts=[TextPart("yes")])]

    given = of("ConversationSearch")(Source(), scope="all")
    return calling(world, given, answers=(saying("search_conversation_history", query="wrens"),))


def step_persistence(world: World) -> Made:
    given = of("StepPersistence")(counting(world, of("step_persistence.InMemoryStepStore")))
    return acting(world, given, answers=(call("act"), "done"))


def step_persistence_of_frontiers(world: World) -> Made:
    store = counting(world, of("step_persistence.InMemoryStepStore"))
    given = of("StepPersistence")(store, agent_name="worker", capture_frontier=True)
    return acting(world, given, answers=(call("act"), "done"))


def step_persistence_in_files(world: World) -> Made:
    given = of("StepPersistence")(of("step_persistence.FileStepStore")(world.folder))
    return acting(world, given, answers=(call("act"), "done"))


def step_persistence_in_files_by_name(world: World) -> Made:
    given = of("StepPersistence")(of("step_persistence.FileStepStore")(world.folder), agent_name="worker")
    return acting(world, given, answers=(call("act"), "done"))


# Agents and people.


def helper(world: World, name: str = "helper") -> Any:
    agent: Agent[Any, Any] = Agent(
        world.model(call("look"), f"{name} says yes", name=name), name=name, description="Helps."
    )

    @agent.tool_plain
    def look() -> str:
        world.did(f"{name} looks")
        return "seen"

    return agent


def subagents(world: World) -> Made:
    given = of("SubAgents")([of("SubAgent")(helper(world))])
    return calling(world, given, answers=(saying("delegate_task", agent_name="helper", task="look"),))


def subagents_in_background(world: World) -> Made:
    given = of("SubAgents")([of("SubAgent")(helper(world))], task_control=of("subagents.TaskControl")())
    answers = (
        [ToolCallPart("delegate_task", {"agent_name": "helper", "task": "look", "background": True}, "d")],
        "waiting",
    )
    return acting(world, given, answers=(*answers, "done"))


def advisor(world: World) -> Made:
    return calling(
        world, of("Advisor")(world.model("yes", name="advisor")), answers=(saying("advisor", prompt="Now?"),)
    )


def workflow(world: World) -> Made:
    code = "await helper(task='look')"
    return calling(world, of("DynamicWorkflow")(agents=[helper(world)]), answers=(saying("run_workflow", code=code),))


def code_mode(world: World) -> Made:
    answers = (saying("run_code", code="x = await act()\nx + '!'"), saying("run_code", code="x + '?'"), "done")
    return acting(world, of("CodeMode")(), answers=answers)


def ask_user(world: World) -> Made:
    async def answer(request: Any) -> Any:
        world.did("ask")
        given = of("ask_user.AskUserAnswer")
        answers = [given(header=asked.header, selected=(asked.options[0].label,)) for asked in request.questions]
        return of("ask_user.AskUserResponse")(answers=tuple(answers))

    question = {"header": "Bird", "question": "Which?", "options": [{"label": "wren"}, {"label": "robin"}]}
    return calling(
        world,
        of("AskUser")(answerer=answer),
        answers=([ToolCallPart("ask_user_question", {"questions": [question]}, "ask")],),
    )


def background(world: World) -> Made:
    def end(messages: Any, info: Any) -> str:
        return "the result is here" if "a result" in str(messages[-1].parts) else "working on it"

    pace = Pace()
    agent: Agent[Any, Any] = Agent(world.model(call("compute"), end), capabilities=[of("BackgroundTools")(), pace])

    @agent.tool_plain(metadata={"background": True})
    async def compute() -> str:
        world.did("compute")
        await pace.answered[2].wait()
        return "a result"

    return agent


def background_beside_others(world: World) -> Made:
    def end(messages: Any, info: Any) -> str:
        told = str(messages)
        return "the results are here" if "a result" in told and "another one" in told else "working on it"

    pace = Pace()
    agent: Agent[Any, Any] = Agent(
        world.model(call("compute", "other"), call("look"), end), capabilities=[of("BackgroundTools")(), pace]
    )

    @agent.tool_plain(metadata={"background": True})
    async def compute() -> str:
        world.did("compute")
        await pace.answered[3].wait()
        return "a result"

    @agent.tool_plain(metadata={"background": True})
    async def other() -> str:
        world.did("other")
        await pace.answered[4].wait()
        return "another one"

    @agent.tool_plain
    async def look() -> str:
        world.did("look")
        return "seen"

    return agent


HANDLES = r"[^/'\s]+(?=/tell-\d\.\d)"  # the run's id within the name of what was spilled

ROWS = [
    row(name="`FileSystem`", make=files, of=("FileSystem",)),
    row(name="`Shell(persist_cwd=True)`", make=shell, of=("Shell",)),
    row(name="`ToolOutputLimits`, cut", make=truncated, of=("ToolOutputLimits",)),
    row(name="`ToolOutputLimits`, spilled to files", make=spilled, of=("ToolOutputLimits",), made_up=HANDLES),
    row(
        name="`ToolOutputLimits`, spilled to the workspace",
        make=spilled_to_the_workspace,
        of=("ToolOutputLimits",),
        made_up=HANDLES,
    ),
    row(name="`ToolOutputLimits`, summarized", make=summarized, of=("ToolOutputLimits",)),
    row(name="`RepoContext`", make=repo_context, of=("RepoContext",)),
    row(name="`Skills`", make=skills, of=("Skills",)),
    row(name="`SmartSearch`", make=smart_search, of=("SmartSearch",)),
    row(name="`PydanticAIDocs`, local", make=docs, of=("PydanticAIDocs",)),
    row(name="`Coder`", make=coder, of=("Coder",), anew=("content_hash",)),
    row(name="`CapabilityCreation`", make=creation, of=("CapabilityCreation",)),
    row(
        name="`Memory`",
        make=memory,
        of=("Memory",),
        anew=("replayed",),
        other="`replayed` in a result says that the attempt before had written it",
    ),
    row(name="`Planning`", make=planning, of=("Planning",), made_up=r"(?<=\[)[0-9a-f]{8}(?=\])"),
    row(name="`ConversationSearch`", make=conversation_search, of=("ConversationSearch",)),
    row(name="`StepPersistence`", make=step_persistence, of=("StepPersistence",)),
    row(name="`StepPersistence(capture_frontier=True)`", make=step_persistence_of_frontiers, of=("StepPersistence",)),
    row(
        name="`StepPersistence` in files",
        make=step_persistence_in_files,
        of=("StepPersistence",),
        refused="ValueError: invalid run_id: 'w.0:row:0'",
        why="`FileStepStore` takes no run id with a colon; give `agent_name`, or take another store",
    ),
    row(
        name="`StepPersistence(agent_name=…)` in files",
        make=step_persistence_in_files_by_name,
        of=("StepPersistence",),
    ),
    row(name="`SubAgents`", make=subagents, of=("SubAgents", "SubAgent")),
    row(
        name="`SubAgents(task_control=…)`",
        make=subagents_in_background,
        of=("SubAgents", "DelegationReports"),
        refused="UserError: `SubAgents` `task_control`",
        why="its tasks go on beside the run; the harness refuses it wherever calls are recorded",
    ),
    row(name="`Advisor`, local", make=advisor, of=("Advisor",)),
    row(name="`DynamicWorkflow`", make=workflow, of=("DynamicWorkflow",)),
    row(name="`CodeMode`", make=code_mode, of=("CodeMode",)),
    row(name="`AskUser`", make=ask_user, of=("AskUser",)),
    row(
        name="`AskUser(answerer=None)`",
        waits="tests/unit/agents/test_external_events.py::test_whoever_answers_sees_the_questions_of_a_tool_that_asks",
        of=("AskUser",),
    ),
    row(name="`BackgroundTools`", make=background, of=("BackgroundTools",)),
    row(name="`BackgroundTools` beside other tools", make=background_beside_others, of=("BackgroundTools",)),
]
