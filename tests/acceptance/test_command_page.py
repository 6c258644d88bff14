"""The JSON of every command has the shape that `docs/commands.md` shows, of real workflows in each state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from paigeant_celery import DeadLetters, FunctionSpec, activity
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.documents import read_document
from tests.support.command_page import differences, documented, unseen
from tests.support.vault import Vault, command_names, filled_vault

pytestmark = pytest.mark.together

Found = Iterator[Any]
DOCUMENT = json.dumps({"version": 1, "itinerary": [{"function": "nothing"}]})


@pytest.fixture(scope="module")
def vault(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with filled_vault(redis_url, tmp_path_factory.mktemp("vault")) as vault:
        yield vault


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Let commands find an activity, and no others."""

    def nothing() -> None: ...

    with registry.isolated():
        kept = activity(nothing)
        yield
        assert registry.find("nothing") is kept


def documents(vault: Vault, *arguments: str, stdin: str | None = None) -> Found:
    """Yield what a command prints with `--json`; it must have done what it was asked."""
    obj = SimpleNamespace(app=vault.transport.app, no_color=True)
    done = CliRunner().invoke(paigeant, [*arguments, "--json"], obj=obj, input=stdin)
    assert done.exit_code in (0, 1), (arguments, done.output)
    try:
        found = [json.loads(done.stdout)]
    except ValueError:
        found = [json.loads(line) for line in done.stdout.splitlines()]
    assert not any("error" in each for each in found), found
    yield from found


def of_each(*command: str, names: Sequence[str] = ()) -> Callable[[Vault], Found]:
    def found(vault: Vault) -> Found:
        for name in names or vault.workflows:
            yield from documents(vault, *command, vault.workflows[name].correlation_id)

    return found


def once(*arguments: str, stdin: str | None = None) -> Callable[[Vault], Found]:
    return lambda vault: documents(vault, *arguments, stdin=stdin)


def answering(command: str, *more: str, step: str = "teller") -> Callable[[Vault], Found]:
    """Answer what a workflow of its own waits for."""

    def found(vault: Vault) -> Found:
        spec = vault.agent(step) if step == "teller" else FunctionSpec(step, {"about": "tea"})
        handle = vault.dispatch(command, spec, state="suspended")
        (wait,) = handle.pending_sync()
        yield from documents(vault, command, wait.token, *more)

    return found


def letters(command: str) -> Callable[[Vault], Found]:
    def found(vault: Vault) -> Found:
        vault.dispatch(command, vault.agent("broken"), state="parked")
        letter = next(iter(DeadLetters(vault.transport).list()))
        yield from documents(vault, "letters", command, letter.letter_id)

    return found


def edited(*command: str, values: bool = False) -> Callable[[Vault], Found]:
    """Import a document with another prompt, or compare with it."""

    def found(vault: Vault) -> Found:
        handle = vault.dispatch("edited", vault.agent("broken"), vault.agent("clerk"), state="parked")
        (exported,) = documents(vault, "export", handle.correlation_id)
        exported["itinerary"][1]["prompt"] = "Another one."
        more = ["--values"] if values else []
        yield from documents(vault, *command, handle.correlation_id, "-", *more, stdin=json.dumps(exported))

    return found


def exported(vault: Vault) -> Found:
    """Yield what the page shows of each export; a step and a document have more fields if they are set."""
    for found in of_each("export")(vault):
        written = read_document(found)
        step = {name: found["itinerary"][0].get(name) for name in ("agent", "prompt", "step_id")}
        assert written.workflow is not None
        yield {"version": found["version"], "itinerary": [step], "workflow": found["workflow"]}


def forked(vault: Vault) -> Found:
    yield from documents(vault, "fork", vault.workflows["done"].correlation_id, "--from", "clerk-2")


def retried(vault: Vault) -> Found:
    handle = vault.dispatch("retried", vault.agent("broken"), state="parked")
    yield from documents(vault, "retry", handle.correlation_id, "broken")


def cancelled(vault: Vault) -> Found:
    handle = vault.dispatch("cancelled", FunctionSpec("stumble", {"text": ""}), state="retrying")
    yield from documents(vault, "cancel", handle.correlation_id)


def signalled(vault: Vault) -> Found:
    handle = vault.dispatch("signalled", FunctionSpec("stumble", {"text": ""}), state="retrying")
    yield from documents(vault, "signal", handle.correlation_id, "paid", "5")


CALLS: Mapping[str, Callable[[Vault], Found]] = {
    "activities": once("activities"),
    "agents": once("agents", "--timeout", "3"),
    "answer": answering("answer", "1", step="confirm"),
    "approve": answering("approve"),
    "cancel": cancelled,
    "check": once("check", "--timeout", "3"),
    "deny": answering("deny", "--by", "ann"),
    "diff": edited("diff"),
    "export": exported,
    "fork": forked,
    "graph": of_each("graph"),
    "import": edited("import"),
    "inbox": once("inbox"),
    "letters drop": letters("drop"),
    "letters list": once("letters", "list"),
    "letters redrive": letters("redrive"),
    "letters show": letters("show"),
    "lint": once("lint", "-", stdin=DOCUMENT.replace("nothing", "nothin")),
    "list": once("list"),
    "ready": once("ready", "-t", "10"),
    "rebind": once("rebind"),
    "replay dump": of_each("replay", "dump", names=("done", "parked", "approving")),
    "result": of_each("result", names=("done", "forked", "collected")),
    "retry": retried,
    "run": once("run", "--document", "-", stdin=DOCUMENT),
    "show": of_each("show"),
    "signal": signalled,
    "stats": once("stats"),
    "watch": of_each("watch", names=("done", "parked")),
}

# What these workflows do not have; other tests do.
NOT_HERE: Mapping[str, set[str]] = {
    "activities": {".nameless"},
    "answer": {".open"},
    "approve": {".open"},
    "deny": {".open"},
    "list": {".workflows[].stuck", ".workflows[].ahead"},
    "ready": {".workers[].findings"},
    "rebind": {".instead_of"},
    "replay dump": {".dump.waits", ".modules"},
    "result": {".cost"},
    "show": {".cost", ".steps[].cost", ".runner"},
    "signal": {".first", ".open"},
}


def shown(name: str) -> list[Any]:
    """Return what the page shows of a command: one document, or the lines of a stream."""
    match name:
        case "letters show":
            return [documented("letters list")[0]["letters"][0]]
        case "letters drop":
            return documented(name)[1:]
        case "watch":
            return documented(name)
        case _:
            return documented(name)[:1]


@pytest.mark.parametrize("name", sorted(command_names()))
def test_the_json_of_a_command_has_the_shape_of_the_page(vault: Vault, name: str) -> None:
    """A script is written by the page; a command without an example there, or without a call here, fails."""
    examples, found = shown(name), list(CALLS[name](vault))

    assert examples, "the page has no example"
    assert found
    for each in found:
        told = min((list(differences(example, each)) for example in examples), key=len)
        assert told == [], each
    if len(examples) == 1:
        missing = {path for path in unseen(examples[0], found) if path not in NOT_HERE.get(name, ())}
        assert missing == set(), "nothing that was compared has this"


def test_a_change_has_its_values_if_they_are_asked_for(vault: Vault) -> None:
    """As the text of the page says."""
    (found,) = edited("diff", values=True)(vault)

    assert [sorted(change) for change in found["changes"]] == [["after", "before", "kind", "path"]]
