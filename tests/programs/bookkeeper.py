"""Steps that start processes: an agent with the tools of an MCP server, and functions that pass on their streams."""

from __future__ import annotations

import asyncio
import faulthandler
import subprocess
import sys
from pathlib import Path

from pydantic_ai.mcp import MCPToolset, StdioTransport
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from paigeant_celery import PaigeantAgent, activity

ABACUS = Path(__file__).with_name("abacus.py")


def sum_up(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    answers = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    if answers:
        return ModelResponse(parts=[TextPart(f"the sum is {answers[0]}")])
    return ModelResponse(parts=[ToolCallPart("add", {"a": 2, "b": 3})])


abacus = MCPToolset(StdioTransport(sys.executable, [str(ABACUS)]), id="abacus")
bookkeeper = PaigeantAgent(FunctionModel(sum_up), toolsets=[abacus])


@activity
def post() -> int:
    """Pass both streams on to a process, and write bytes."""
    print("a line of the step")
    sys.stderr.buffer.write(b"bytes of the step\n")
    sys.stderr.buffer.flush()
    faulthandler.dump_traceback(file=sys.stderr)
    script = "import sys; print('out of the process'); print('errors of the process', file=sys.stderr)"
    return subprocess.run([sys.executable, "-c", script], stdout=sys.stdout, stderr=sys.stderr).returncode


@activity
async def post_later() -> int:
    """Start a process from the event loop, which does not run in the main thread."""
    script = "print('out of the async process')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=sys.stderr, stderr=sys.stderr)
    return await process.wait()
