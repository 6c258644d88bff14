"""The commands that take or write a workflow as a document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from paigeant_celery import PaigeantAgent, StepPolicy, Unreachable, WorkflowHandle, activity, install, wait_for
from paigeant_celery.activities.registry import registry
from paigeant_celery.cli import paigeant
from paigeant_celery.core.errors import NotPublished, NotRecorded
from paigeant_celery.testing import WorkflowHarness, workflow_harness

__all__ = ["workflow_harness"]

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Give each test an empty registry."""
    with registry.isolated():
        yield


@pytest.fixture
def agents(own_registry: None) -> list[Any]:
    """A writer who cannot write poems, and a function."""

    def write(messages: list[Any], _: object) -> ModelResponse:
        if "poem" in str(messages[-1].parts[-1].content):
            raise LookupError("it knows no poems")
        return ModelResponse(parts=[TextPart("a text")])

    def note(text: str = "") -> str:
        return text

    policy = StepPolicy(max_attempts=1)
    return [PaigeantAgent(FunctionModel(write), name="writer", policy=policy), activity(note)]


@pytest.fixture
def call(workflow_harness: WorkflowHarness) -> Iterator[Call]:
    """Call a command of an app whose store is that of the harness."""
    with ExitStack() as stack:
        app = stack.enter_context(Celery("shop", broker="memory://documents//", set_as_current=False))
        install(app, store=workflow_harness.store)

        def made(*arguments: str, stdin: str | None = None) -> Result:
            return CliRunner().invoke(paigeant, arguments, obj=SimpleNamespace(app=app), input=stdin)

        yield made


def parked(harness: WorkflowHarness, agents: list[Any]) -> str:
    """Return the id of a workflow whose writer failed at a wrong prompt, with a function before and after it."""
    writer, note = agents
    steps = [note.activity(text="first"), writer.activity("Write a poem."), note.activity(text="last")]
    handle = harness.dispatch(steps)
    assert asyncio.run(harness.deliver()) == ["completed", "parked"]
    return handle.correlation_id


def test_a_wrong_prompt_is_corrected_at_night(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call, tmp_path: Path
) -> None:
    """Export, correct a line, compare, import, retry: only the failed step is run again."""
    correlation_id, file = parked(workflow_harness, agents), tmp_path / "slip.yaml"
    exported = call("export", correlation_id, "--yaml")
    assert exported.exit_code == 0
    file.write_text(exported.stdout.replace("Write a poem.", "Write a letter."))

    compared, told = (call("diff", correlation_id, str(file), *more) for more in ((), ("--values",)))
    imported = call("import", correlation_id, str(file), "--by", "ann", "--values")

    change = '~ itinerary.writer.prompt: "Write a poem." -> "Write a letter."'
    assert (compared.exit_code, compared.stdout) == (1, "~ itinerary.writer.prompt: changed\n")
    assert (told.exit_code, told.stdout) == (1, f"{change}\n")
    assert imported.exit_code == 0, imported.output
    assert imported.stdout.splitlines() == [
        change,
        f"workflow {correlation_id} has these steps to come now; retry it, or answer what it waits for",
        "its current step begins anew: what its attempts had recorded is discarded",
    ]
    assert call("retry", correlation_id).exit_code == 0
    workflow_harness.sweep()
    assert asyncio.run(workflow_harness.deliver()) == ["completed", "workflow_completed"]
    assert json.loads(call("result", correlation_id, "--json").stdout)["outputs"] == {
        "note": "first", "writer": "a text", "note-2": "last",
    }  # fmt: skip


def test_values_are_printed_only_for_those_who_ask_for_them(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """An incident is looked into on a shared screen, and prompts have what customers wrote."""
    correlation_id = parked(workflow_harness, agents)
    tree = json.loads(call("export", correlation_id).stdout)
    tree["itinerary"][1]["prompt"] = "Write a letter."
    tree["itinerary"].append({"agent": "writer", "prompt": "Confidential."})
    edited = json.dumps(tree)

    def values_in(*arguments: str) -> list[bool]:
        printed = call(*arguments, stdin=edited).stdout
        return [each in printed for each in ("a poem", "a letter", "Confidential")]

    for form in ((), ("--json",)):
        assert values_in("diff", correlation_id, "-", *form) == [False] * 3
        assert values_in("diff", correlation_id, "-", *form, "--values") == [True] * 3
    assert json.loads(call("diff", correlation_id, "-", "--json", stdin=edited).stdout)["changes"] == [
        {"kind": "changed", "path": "itinerary.writer.prompt"}, {"kind": "added", "path": "itinerary.writer-2"},
    ]  # fmt: skip
    assert values_in("import", correlation_id, "-") == [False] * 3


def test_a_second_import_of_the_same_export_is_refused(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call, tmp_path: Path
) -> None:
    """Two people look at one incident: the second one is told, and nothing is overwritten."""
    correlation_id = parked(workflow_harness, agents)
    exported = call("export", correlation_id).stdout
    first, second = (exported.replace("a poem", each) for each in ("a letter", "a song"))
    assert call("import", correlation_id, "-", stdin=first).exit_code == 0

    refused = call("import", correlation_id, "-", "--json", stdin=second)

    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["error"]["code"] == "stale_revision"
    nothing = call("import", correlation_id, "-", stdin=call("export", correlation_id).stdout)
    assert (nothing.exit_code, nothing.stdout) == (0, "the document changes nothing\n")


def test_an_import_that_changes_what_ran_tells_all_findings(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """As people and as scripts read them."""
    correlation_id = parked(workflow_harness, agents)
    wrong = call("export", correlation_id).stdout.replace('"first"', '"other"', 1)

    shown = call("import", correlation_id, "-", stdin=wrong)
    told = call("import", correlation_id, "-", "--json", stdin=wrong)

    assert (shown.exit_code, told.exit_code) == (2, 2)
    remedy = "leave it as it was exported, or fork at 'note'"
    assert f"`itinerary[0]`: step 'note' has run, and stands here; {remedy} (invalid_document)" in shown.stderr
    document = json.loads(told.stdout)
    assert document["error"]["code"] == "invalid_document"
    assert document["findings"][0]["remedy"] == remedy


def test_an_export_is_json_for_scripts_and_has_content_only_where_it_was_asked_for(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """Outputs may be left out, and neither the token of a wait nor a trace is in it."""
    handle = workflow_harness.dispatch([agents[1].activity(text="confidential"), wait_for("go")])
    asyncio.run(workflow_harness.deliver())
    (wait,) = handle.pending_sync()

    whole, plan = (call("export", handle.correlation_id, "--json", *more) for more in ((), ("--no-outputs",)))

    tree = json.loads(whole.stdout)
    assert [step["step_id"] for step in tree["itinerary"]] == ["note", "wait-go"]
    assert tree["itinerary"][0]["ran"]["output"] == "confidential"
    assert tree["workflow"]["state"] == "suspended"
    assert "output" not in json.loads(plan.stdout)["itinerary"][0]["ran"]
    assert wait.token.partition("~")[2] not in whole.stdout
    assert call("export", "nobody").exit_code == 3


@pytest.mark.parametrize(
    ("text", "exits", "said"),
    [
        ("version: 1\nitinerary:\n- agent: writer\n  prompt: x\n", 0, "nothing is wrong with it"),
        ("version: 1\nitinerary:\n- agent: writr\n  prompt: x\n", 1, "did you mean 'writer'?"),
        ("version: 2\n", 1, "install the version of paigeant_celery that wrote it"),
        ("a: [", 1, "neither JSON nor YAML"),
    ],
)
def test_lint_says_what_is_wrong(
    agents: list[Any], call: Call, tmp_path: Path, text: str, exits: int, said: str
) -> None:
    """A pipeline stops at its exit code."""
    file = tmp_path / "slip.yaml"
    file.write_text(text)

    for found in (call("lint", str(file)), call("lint", "-", stdin=text)):
        assert (found.exit_code, said in found.stdout) == (exits, True)
    assert bool(json.loads(call("lint", str(file), "--json").stdout)["findings"]) == bool(exits)


def test_a_file_that_cannot_be_read_is_told(call: Call, tmp_path: Path) -> None:
    """It is no document, and no workflow either."""
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")

    for file in (str(tmp_path / "missing.yaml"), str(tmp_path / "latin"), str(tmp_path)):
        refused = call("lint", file, "--json")
        assert refused.exit_code == 2
        assert json.loads(refused.stdout)["error"]["code"] == "unreadable_file"


def test_equal_documents_differ_in_nothing(call: Call, tmp_path: Path) -> None:
    """Whatever form they have."""
    one, other = tmp_path / "one.yaml", tmp_path / "other.json"
    one.write_text("version: 1\nitinerary: [{agent: a, prompt: x}]\n")
    other.write_text('{"version": 1, "itinerary": [{"agent": "a", "prompt": "x"}]}')

    assert (same := call("diff", str(one), str(other))).exit_code == 0
    assert same.stdout == "nothing differs\n"
    assert call("diff", str(one), "nobody").exit_code == 3


def test_agents_and_prompts_on_the_command_line_are_a_workflow(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """Enough to try something out."""
    begun = call("run", "writer", "Write.", "writer", "Again.", "--id", "try", "--json")

    assert json.loads(begun.stdout) == {"correlation_id": "try"}
    tree = json.loads(call("export", "try").stdout)
    assert [(step["agent"], step["prompt"]) for step in tree["itinerary"]] == [
        ("writer", "Write."),
        ("writer", "Again."),
    ]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run"], "usage"),
        (["run", "writer"], "usage"),
        (["run", "writer", "x", "--document", "y"], "usage"),
        (["run", "writr", "x"], "unknown_agent"),
        (["run", "note", "x"], "unknown_agent"),
        (["run", "writer", ""], "empty_prompt"),
        (["run", "writer", "x", "--id", "a b"], "bad_correlation_id"),
    ],
)
def test_what_cannot_be_run_is_refused(agents: list[Any], call: Call, arguments: list[str], code: str) -> None:
    """Nothing is sent, and a typo waits for no worker."""
    refused = call(*arguments, "--json")

    assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (2, code)
    if arguments[1:2] == ["writr"]:  # some other app may have it
        assert call(*arguments, "--unchecked").exit_code == 0


def test_what_no_command_could_do_is_refused_before_anything_is_sent(agents: list[Any]) -> None:
    """Without a store nobody can wait, and whoever types a limit for that expects it to hold."""
    with Celery("shop", broker="memory://storeless//", set_as_current=False) as app:
        install(app)
        channel = app.connection_for_write().default_channel  # the memory of all tests of this process
        before = channel._size("paigeant.writer")
        for arguments, code in (
            (["run", "writer", "x", "--wait"], "store_required"), (["run", "writer", "x", "--timeout", "1"], "usage"),
        ):  # fmt: skip
            refused = CliRunner().invoke(paigeant, [*arguments, "--json"], obj=SimpleNamespace(app=app))
            assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (2, code)
            assert "correlation_id" not in json.loads(refused.stdout)
        assert channel._size("paigeant.writer") == before


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("error", "ends", "says"),
    [
        (NotRecorded("w", "the store is away"), 5, "nothing was sent: the store is away"),
        (NotPublished("w", "the broker is away"), 5, "A sweep of any worker sends it"),
        (Unreachable("store", "redis://here", "gone"), 5, "cannot reach the store"),
        (TimeoutError("it took too long"), 4, "it took too long"),
    ],
)
def test_an_error_of_a_run_says_how_to_repeat_it_without_a_second_workflow(
    workflow_harness: WorkflowHarness,
    agents: list[Any],
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    ends: int,
    says: str,
    named: bool,
) -> None:
    """It may be recorded, and run; a script that tries again must not pay for another one."""

    def fail(*_: object, correlation_id: str, **options: object) -> str:
        sent.append(correlation_id)
        raise error

    sent: list[str] = []
    monkeypatch.setattr("paigeant_celery.client.documents.dispatch_document_sync", fail)
    arguments = ("run", "writer", "Write.", *(("--id", "tea") if named else ()))

    told, read = call(*arguments), call(*arguments, "--json")

    assert (told.exit_code, read.exit_code) == (ends, ends)
    assert says in told.stderr
    assert (f"repeat the command with `--id {sent[0]}`; without it a second workflow" in told.stderr) is not named
    assert "repeat the command" in told.stderr
    assert json.loads(read.stdout)["correlation_id"] == sent[1]
    assert (sent == ["tea", "tea"]) is named


def test_a_run_under_the_id_of_another_workflow_names_it(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """A script that made the id twice finds out which one it is."""
    assert call("run", "writer", "Write.", "--id", "tea").exit_code == 0

    told, read = (
        call("run", "writer", "Other.", "--id", "tea"),
        call("run", "writer", "Other.", "--id", "tea", "--json"),
    )

    assert (told.exit_code, json.loads(read.stdout)["error"]["code"]) == (1, "workflow_conflict")
    assert json.loads(read.stdout)["correlation_id"] == "tea"
    assert "choose another `--id`, or look at it with `celery … paigeant show tea`" in told.stderr


def test_a_run_that_is_waited_for_too_long_names_its_workflow(
    workflow_harness: WorkflowHarness, agents: list[Any], call: Call
) -> None:
    """Nothing serves it here; whoever typed no id learns it, to wait again."""
    late = call("run", "writer", "Write.", "--wait", "--timeout", "0.1", "--json")

    found = json.loads(late.stdout)
    assert (late.exit_code, found["error"]["code"]) == (4, "timeout")
    assert late.stderr.startswith(f"workflow {found['correlation_id']}\n")
    assert f"repeat the command with `--id {found['correlation_id']}`" in found["error"]["text"]
    assert WorkflowHandle(found["correlation_id"], workflow_harness.transport).status_sync().state == "queued"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["note", "x"], "`note`: 'note' is of the kind `function`; functions and Celery tasks need `--document`"),
        (["writer", "x", "writr", "x"], "`writr`: no activity 'writr' is loaded; did you mean 'writer'?"),
        (["writer", ""], "`writer`: an agent needs a prompt"),
        (["writer", "x", "--id", "a b"], "`--id`: use 1 to 128"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_without_a_document(
    agents: list[Any], call: Call, arguments: list[str], says: str
) -> None:
    """Whoever typed agents and prompts has no document in which to look."""
    refused = call("run", *arguments)

    assert refused.stderr.startswith(f"Error: what was typed cannot be used:\n{says}")


@pytest.mark.parametrize(
    "command", [["diff", "{good}", "{bad}"], ["run", "--document", "{bad}"], ["import", "w", "{bad}"]]
)
def test_a_text_says_which_file_is_wrong(call: Call, agents: list[Any], tmp_path: Path, command: list[str]) -> None:
    """Of two, or of the one that a script chose."""
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"version": 1, "itinerary": [{"agent": "writer", "prompt": "x"}]}')
    bad.write_text('{"version": 1, "itinerary": []}')

    refused = call(*(each.format(good=good, bad=bad) for each in command))

    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"Error: {bad} cannot be used:\n`itinerary`: ")
    piped = call(*(each.format(good=good, bad="-") for each in command), stdin=bad.read_text())
    assert piped.stderr.startswith("Error: the document on the standard input cannot be used:\n")


def test_a_document_is_run(workflow_harness: WorkflowHarness, agents: list[Any], call: Call) -> None:
    """The same that a schedule sends."""
    text = "version: 1\ncorrelation_id: tea\nitinerary:\n- function: note\n"

    begun = call("run", "--document", "-", stdin=text)

    assert (begun.exit_code, begun.stdout) == (0, "tea\n")
