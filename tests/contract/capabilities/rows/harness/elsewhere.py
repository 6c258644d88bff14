"""What stands for servers that somebody else runs: tools over MCP, sandboxes, browsers, other engines."""

from __future__ import annotations

from typing import Any

from fastmcp.client.transports.memory import FastMCPTransport
from mcp.server import MCPServer

from tests.contract.capabilities.row import Made
from tests.contract.capabilities.rows.capabilities import acting
from tests.contract.capabilities.rows.harness.offered import of, row
from tests.contract.capabilities.rows.tools import call
from tests.contract.capabilities.world import World

__all__ = ["ROWS"]


def over_mcp(path: str) -> Any:
    """Return what makes an agent that calls a tool of such a server, which stands in the process."""

    def make(world: World) -> Made:
        server = MCPServer("server")

        @server.tool()
        def look(word: str) -> dict[str, str]:
            world.did("look")
            return {"found": word}

        given = of(path)(client=FastMCPTransport(server), **({"account_id": "one"} if path == "StackOne" else {}))
        name = f"{prefix}_look" if (prefix := getattr(given, "tool_prefix", None)) else "look"
        return acting(world, given, answers=(call(name, word="wren"), call("act"), "done"))

    return make


OVER_MCP = {path: path.rpartition(".")[2] for path in (
    "DayAI", "github.GitHub", "Grain", "linear.Linear", "logfire_mcp.LogfireMCP", "notion.Notion", "Ordinal", "PostHog",
    "Pylon", "slack.Slack", "StackOne",
)}  # fmt: skip

UNTRIED = {
    "it is another engine; one engine records a step": (
        "AbsurdDurability", "AWSLambdaDurability", "PGTaskDurability", "RenderWorkflows",
    ),
    "it needs a sandbox on the machine or from a provider; its calls are those of a workspace": (
        "BoxLiteSandbox", "BubblewrapSandbox", "DaytonaSandbox", "DockerSandbox", "E2BSandbox", "ModalSandbox",
        "SmolSandbox", "SpritesSandbox", "SSHWorkspace",
    ),
    "it needs a browser": ("BrowserUse", "PlaywrightBrowser"),
    "it needs the provider's service; its tools are recorded as all are": (
        "ExaAgent", "ExaSearch", "GoogleWorkspace", "LocalStack", "Macroscope", "ManagedPrompt",
        "PromptInjectionDefender", "Researcher", "YouResearch", "YouSearch",
    ),
}  # fmt: skip

ROWS = [
    *(
        row(name=f"`{path.rpartition('.')[2]}`", make=over_mcp(path), of=(path.rpartition(".")[2],))
        for path in OVER_MCP
    ),
    *(row(name=f"`{name}`", of=(name,), untried=why) for why, names in UNTRIED.items() for name in names),
]
