"""A server of the Model Context Protocol that speaks over its standard streams; not loaded by workers, but started."""

from __future__ import annotations

import sys

from mcp.server import MCPServer

server = MCPServer("abacus")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    print("the abacus adds", file=sys.stderr, flush=True)
    return a + b


if __name__ == "__main__":
    server.run("stdio")
