"""Prompts, arguments, answers and errors are told to those who asked for content, and to nobody else.

A canary stands in each of them. What everybody may read, such as logs, lists and traces, must have none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from paigeant_celery import (
    DeadLetters,
    FunctionSpec,
    Inbox,
    WorkflowDispatcher,
)
from paigeant_celery.cli import paigeant
from paigeant_celery.core.errors import WorkflowError
from tests.support.flower_pages import flower_pages
from tests.support.vault import WITHIN, Vault, command_names, filled_vault

PARTS = ("prompt", "deps", "variable", "argument", "result", "answer", "item", "question", "payload", "signal", "new")
ERRORS = ("exception", "cause", "note")

# The commands by what they print. Each says what it needs: W the id of a workflow in each state, L that of a letter.
OPEN: Mapping[str, tuple[str, ...]] = {
    "activities": (),
    "agents": (),
    "check": (),
    "list": (),
    "show": ("W",),
    "graph": ("W",),
    "stats": (),
    "ready": (),
    "letters list": (),
    "letters show": ("L",),
    "diff": ("W", "W"),
}
CONTENT = {"export", "inbox", "replay dump", "result", "watch"}
# They print what they did, or only what they were given.
ACTS = {
    *("answer", "approve", "cancel", "deny", "fork", "import", "letters drop", "letters redrive", "lint", "rebind"),
    *("retry", "run", "signal"),
}

pytestmark = pytest.mark.together


@pytest.fixture(scope="module")
def vault(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with filled_vault(redis_url, tmp_path_factory.mktemp("vault")) as vault:
        yield vault


def printed(vault: Vault, *arguments: str, stdin: str | None = None, forms: Sequence[str] = ("", "--json")) -> str:
    """What a command prints, in both forms; it must have done what it was asked."""
    found = ""
    for form in forms:
        call, obj = [*arguments, *form.split()], SimpleNamespace(app=vault.transport.app, no_color=True)
        done = CliRunner().invoke(paigeant, call, obj=obj, input=stdin)
        assert done.exception is None or isinstance(done.exception, SystemExit), (call, done.exception)
        assert done.exit_code in (0, 1), (call, done.output)
        found += done.output
    return found


def arguments_of(vault: Vault, needs: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if needs == ("W",):
        yield from ((handle.correlation_id,) for handle in vault.workflows.values())
    elif needs == ("W", "W"):
        ids = [handle.correlation_id for handle in vault.workflows.values()]
        yield from zip(ids, [*ids[1:], ids[0]], strict=True)
    elif needs == ("L",):
        yield from ((letter.letter_id,) for letter in DeadLetters(vault.transport).list())
    else:
        yield ()


def test_each_command_says_whether_it_prints_content() -> None:
    """A new command must be put into one of the three groups, and those that print none are looked at below."""
    assert set(command_names()) == {*OPEN, *CONTENT, *ACTS}
    assert len({*OPEN, *CONTENT, *ACTS}) == len(OPEN) + len(CONTENT) + len(ACTS), "each is in one of them"


@pytest.mark.parametrize("name", OPEN)
def test_a_command_that_prints_no_content_has_no_canary(vault: Vault, name: str) -> None:
    """An incident is looked into on a shared screen."""
    calls = [(*name.split(), *more) for more in arguments_of(vault, OPEN[name])]
    texts = {" ".join(call): printed(vault, *call) for call in calls}

    assert texts
    assert {call: vault.found_in(text) for call, text in texts.items() if vault.found_in(text)} == {}
    if name == "show":
        assert "ValueError" in "".join(texts.values())


def test_a_command_that_acts_has_no_canary_of_others(vault: Vault) -> None:
    """Whoever is too late to answer, or edits a prompt, is told of the other one, and not what that one wrote."""
    asked = {"answer": FunctionSpec("confirm", {"about": "tea"}), "approve": vault.agent("teller")}
    late = []
    for name, step in asked.items():
        handle = vault.dispatch(name, step, state="suspended")
        (wait,) = handle.pending_sync()
        given = [json.dumps(vault.canary("payload"))] if name == "answer" else []
        late.append(printed(vault, name, wait.token, *given, "--by", "ann", forms=("",)))
        again = [*given, "--by", "bob"]
        late.append(printed(vault, name, wait.token, *again))
        late += [printed(vault, "deny", wait.token, "--by", "bob")] if name == "approve" else []
        vault.follow(name, handle, state="completed")
    waiting = vault.dispatch("edited", vault.agent("broken"), vault.agent("clerk"), state="parked")
    exported = printed(vault, "export", waiting.correlation_id, forms=("--json",))
    other = exported.replace(vault.canary("deps"), "none")

    edited = printed(vault, "import", waiting.correlation_id, "-", stdin=other, forms=("",))

    assert all("ann" in each for each in late[1:2] + late[3:])
    assert "itinerary.broken.deps.note: changed" in edited
    assert vault.found_in("".join([*late, edited])) == []
    values = printed(vault, "diff", waiting.correlation_id, "-", "--values", stdin=exported)
    assert "deps" in vault.found_in(values)


def test_whoever_runs_a_workflow_and_waits_for_it_gets_what_it_gave(vault: Vault) -> None:
    """They have dispatched it, and may see it; without `--wait` there is the id alone."""
    step = {"agent": "clerk", "prompt": vault.canary("prompt"), "deps": {"note": vault.canary("deps")}}
    document = json.dumps({"version": 1, "itinerary": [step]})
    run = ("run", "--document", "-", "--unchecked")

    begun = printed(vault, *run, stdin=document)
    ended = printed(vault, *run, "--wait", "--timeout", f"{WITHIN:g}", stdin=document)

    assert vault.found_in(begun) == []
    assert set(vault.found_in(ended)) == {"answer"}


def test_the_log_of_a_worker_has_no_canary(vault: Vault) -> None:
    """Logs are gathered where everybody searches; they say which error it was, and where in the code."""
    log = vault.worker.log()

    assert vault.found_in(log) == []
    assert "ValueError" in log
    assert "vault.py" in log


def test_what_stands_beside_an_envelope_in_a_message_has_no_canary(vault: Vault) -> None:
    """Tools that look into queues show headers, and so does Celery where it logs a message."""
    import redis

    dispatcher, queue = WorkflowDispatcher(), f"{vault.made.prefix}.nobody"
    dispatcher.dispatch_workflow_sync(vault.transport, itinerary=[vault.agent("nobody")])
    with redis.Redis.from_url(vault.made.first_url) as raw:
        (message,) = (json.loads(each) for each in raw.lrange(queue, 0, -1))
    beside = {name: part for name, part in message.items() if name != "body"}

    assert "workflow" in beside["headers"]["argsrepr"]
    assert vault.found_in(json.dumps(beside)) == []


def test_events_of_tasks_have_no_canary(vault: Vault) -> None:
    """Whatever listens to a broker's events, such as Flower, gets them."""
    told = json.dumps(vault.events.seen, default=str)

    assert "task-succeeded" in told
    assert vault.found_in(told) == []


def test_what_workers_say_of_themselves_has_no_canary(vault: Vault) -> None:
    """`celery inspect` is open to whoever reaches the broker."""
    inspect = vault.transport.app.control.inspect(timeout=5)
    told = [inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.stats(), inspect.registered()]
    told.append(inspect.query_task([f"{handle.correlation_id}.0" for handle in vault.workflows.values()]))

    assert all(part is not None for part in told)
    assert vault.foreign in json.dumps(told[2], default=str)
    assert vault.found_in(json.dumps(told, default=str)) == []


def test_spans_and_metrics_have_no_canary(vault: Vault) -> None:
    """They go to a service of somebody else."""
    told = vault.seen.read_text()

    assert "process " in told
    assert vault.found_in(told) == []


def test_events_of_workflows_have_no_canary_but_those_of_agents(vault: Vault) -> None:
    """Whoever watches an agent has asked for what it says; all else is for lists and timelines."""
    told = [event for handle in vault.workflows.values() for event in handle.events_so_far()]

    assert {"forked", "answered", "retrying", "parked", "branch_failed"} <= {event.type for event in told}
    assert vault.found_in(json.dumps([dict(event.fields) for event in told if event.type != "agent"])) == []
    assert "answer" in vault.found_in(json.dumps([dict(event.fields) for event in told if event.type == "agent"]))


def test_what_is_read_from_python_has_no_canary_when_it_is_printed(vault: Vault) -> None:
    """A value that a program logs as it is says where a workflow stands, and nothing that it holds."""
    values: list[object] = [*DeadLetters(vault.transport).list(), *Inbox(vault.transport).pending_sync()]
    for handle in vault.workflows.values():
        values += [handle, handle.status_sync(), *handle.pending_sync()]
        store = vault.transport.store
        assert store is not None
        values.append(store.workflow(handle.correlation_id))
        values.append(store.hop(f"{handle.correlation_id}.0"))

    assert vault.found_in("\n".join(map(repr, values))) == []


def test_pages_of_flower_have_no_canary_for_those_who_have_not_signed_in(vault: Vault) -> None:
    """Without a sign-in Flower shows names, states, times and sizes."""
    ids = [handle.correlation_id for handle in vault.workflows.values()]
    with flower_pages(vault.made, signs_in=False) as flower:
        pages = {
            path: flower.get(path)
            for path in (
                *("/tasks", "/workers", "/workflows"),
                *(f"/workflows/{each}" for each in ids),
                *(f"/task/{each}.0" for each in ids),
                *(f"/workflows/{each}/output?path=clerk" for each in ids),
            )
        }

    shown = {path for path, page in pages.items() if page.ok}
    assert {"/tasks", "/workers", "/workflows", *(f"/workflows/{each}" for each in ids)} <= shown
    assert {path: vault.found_in(page.text) for path, page in pages.items() if vault.found_in(page.text)} == {}


def test_the_page_of_a_workflow_has_no_secret_by_type_for_those_who_have_signed_in(vault: Vault) -> None:
    """They see outputs and errors. A token stays in the server: a page may be saved or sent on."""
    with flower_pages(vault.made) as flower:
        pages = {name: flower.get(f"/workflows/{each.correlation_id}") for name, each in vault.workflows.items()}
        found = {name: set(vault.found_in(page.text)) for name, page in pages.items()}

    assert all(page.ok for page in pages.values())
    assert {"answer", "exception", "question"} <= set().union(*found.values())
    assert {name for name, parts in found.items() if parts & {"typed", "token"}} == set()


def test_those_who_ask_for_content_get_it_without_what_is_secret_by_type(vault: Vault) -> None:
    """Otherwise nobody could look into anything; a `SecretStr` and what answers a wait are not even there."""
    names = ("done", "parked", "asking", "linked")
    done, parked, asking, linked = (vault.workflows[name].correlation_id for name in names)
    wanted = {
        "result": ((done,), {"answer"}),
        "replay dump": ((parked,), {"prompt", "deps", "variable", "argument", "answer"}),
        "watch": ((done,), {"answer", "argument", "result"}),
        "export": ((asking,), {"argument", "variable"}),
        "inbox": ((), {"question", "argument"}),
    }
    assert wanted.keys() == CONTENT
    for name, (arguments, parts) in wanted.items():
        found = set(vault.found_in(printed(vault, *name.split(), *arguments)))
        assert parts <= found, name
        assert not found & {"typed", *({"token"} if name != "inbox" else ())}, name
    for name in ("export", "replay dump", "watch"):  # an argument of the call of a tool has a token there
        told = printed(vault, *name.split(), linked)
        assert vault.found_in(told), name
        assert "token" not in vault.found_in(told), name
    with pytest.raises(WorkflowError) as error:
        vault.workflows["parked"].result_sync(timeout=0)
    assert vault.found_in(str(error.value)) == ["exception"]


def test_nothing_that_is_kept_has_a_secret_that_says_it_is_one(vault: Vault) -> None:
    """The store and the broker are read by whoever has their password."""
    import redis

    with redis.Redis.from_url(vault.made.first_url) as raw:
        kept = []
        for key in raw.scan_iter(f"{vault.made.prefix}*", count=1000):
            match raw.type(key):
                case b"hash":
                    kept += [text for pair in raw.hgetall(key).items() for text in pair]
                case b"stream":
                    kept += [text for _, fields in raw.xrange(key) for pair in fields.items() for text in pair]
                case b"string":
                    kept.append(raw.get(key))
                case b"list":
                    kept += raw.lrange(key, 0, -1)
    found = set(vault.found_in(b"\n".join(kept).decode(errors="replace")))

    assert set(PARTS) - {"signal"} <= found | {"new", "payload"}
    assert "typed" not in found
