#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0: the JSON form of `DeferredToolResults`, in which an approval comes back from a page or a queue,
# is read leniently where a decision is meant. An approval whose `override_args` is misspelt loses it, and the tool runs
# with the arguments that the model chose, not with those that the person typed. A result `{"kind": "tool-failed"}`
# without its `message` is not refused either: it is read as a plain value, so the model is told that the call
# succeeded and returned that object. `RequestInput` reads the decision in the same way.
#
# Seen on 2026-11-29 with Python 3.11.7 on Linux. Exits with 1 if this version behaves in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check pydantic-ai-slim==2.68.0
"$work/env/bin/python" - <<'PYTHON'
import sys

from pydantic import TypeAdapter
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

refunded, shown = [], []


def answer(messages, info):
    returns = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    shown.extend((part.tool_name, part.outcome, part.content) for part in returns)
    if returns:
        return ModelResponse(parts=[TextPart("done")])
    calls = [ToolCallPart("refund", {"euros": 900}, "r"), ToolCallPart("lookup", {}, "l")]
    return ModelResponse(parts=calls)


agent = Agent(FunctionModel(answer), output_type=[str, DeferredToolRequests])


@agent.tool_plain(requires_approval=True)
def refund(euros: int) -> str:
    refunded.append(euros)
    return "refunded"


@agent.tool_plain
def lookup() -> str:
    from pydantic_ai import CallDeferred

    raise CallDeferred


first = agent.run_sync("Refund order 17.")
assert isinstance(first.output, DeferredToolRequests)
decision = {
    "approvals": {"r": {"kind": "tool-approved", "override_arg": {"euros": 90}}},  # not `override_args`
    "calls": {"l": {"kind": "tool-failed"}},  # no `message`
}
results = TypeAdapter(DeferredToolResults).validate_python(decision)
agent.run_sync(message_history=first.all_messages(), deferred_tool_results=results)
print("the person typed 90, refunded:", refunded)
print("what the model was shown:", shown)
lookup_shown = next((outcome, content) for name, outcome, content in shown if name == "lookup")
sys.exit(refunded != [900] or lookup_shown != ("success", {"kind": "tool-failed"}))
PYTHON
