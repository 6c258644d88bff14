"""Which step each event is about."""

from __future__ import annotations

from typing import Any

import pytest

from paigeant_celery import for_each, parallel
from paigeant_celery.core.settings import Settings
from paigeant_celery.testing import WorkflowHarness
from tests.support.branched_steps import dispatched, gather, load, read


@pytest.fixture(autouse=True)
def loaded(own_registry: None) -> None:
    """Let each test find the steps."""
    load()


def block() -> Any:
    return parallel({"x": for_each(read.activity(), over=["a", "fail"], step_id="inner")}, step_id="outer")


def test_each_event_tells_the_path_of_its_step(workflow_harness: WorkflowHarness) -> None:
    """A log of twenty branches is readable only if each line says which one it is about."""
    handle = dispatched(workflow_harness, gather.activity(), block())

    found = [(event.type, event.path) for event in handle.events_so_far()]

    assert found == [
        ("started", "gather"),
        ("claimed", "gather"),
        ("completed", "gather"),
        ("claimed", "outer"),
        ("branches_opened", "outer"),
        ("suspended", "outer"),
        ("claimed", "outer/x/inner"),
        ("branches_opened", "outer/x/inner"),
        ("suspended", "outer/x/inner"),
        ("claimed", "outer/x/inner/0/read"),
        ("completed", "outer/x/inner/0/read"),
        ("branch_completed", "outer/x/inner/0/read"),
        ("claimed", "outer/x/inner/1/read"),
        ("failed", "outer/x/inner/1/read"),
        ("branch_failed", "outer/x/inner/1/read"),
        ("joined", "outer/x/inner"),
        ("claimed", "outer/x/inner"),
        ("failed", "outer/x/inner"),
        ("branch_failed", "outer/x/inner"),
        ("joined", "outer"),
        ("claimed", "outer"),
        ("failed", "outer"),
        ("workflow_failed", "outer"),
    ]


def test_a_failure_inside_a_block_tells_both_paths(workflow_harness: WorkflowHarness) -> None:
    """The path is that of the step which is over, and the field that of the one in which it began."""
    handle = dispatched(workflow_harness, gather.activity(), block())

    (failed,) = [event for event in handle.events_so_far() if event.type == "workflow_failed"]

    assert (failed.path, failed.fields["step"]) == ("outer", "outer/x/inner/1/read")


def test_a_reader_who_goes_on_from_a_cursor_still_gets_paths(workflow_harness: WorkflowHarness) -> None:
    """The store is asked about hops whose beginning was read before; nothing is known of closed ones in branches."""
    waits = for_each([read.activity(), read.activity()], over=["a", "signal"], step_id="all")
    handle = dispatched(workflow_harness, gather.activity(), gather.activity(), waits)
    events = handle.events_so_far()

    late = [
        (event.type, event.hop_id, event.path)
        for before in events
        if before.type == "claimed"
        for event in handle.events_so_far(after=before.cursor)[:1]
    ]

    assert late == [
        ("completed", "w.0", "gather"),
        ("completed", "w.1", "gather-2"),
        ("branches_opened", "w.2", "all"),
        ("completed", "w.2-0.0", "all/0/read"),
        ("asked", "w.2-1.0", "all/1/read"),
        ("completed", "w.2-0.1", "all/0/read-2"),
    ]
    over = next(event for event in events if event.type == "branch_completed")
    before = events[events.index(over) - 1].cursor
    assert [event.path for event in handle.events_so_far(after=before)][:1] == [""]


def test_the_store_is_asked_once_about_a_hop(
    workflow_harness: WorkflowHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading events stays as cheap as it was."""
    handle = dispatched(workflow_harness, for_each(read.activity(), over=["signal"] * 3, step_id="all"))
    events = handle.events_so_far()
    asked: list[str] = []
    hop = workflow_harness.store.hop

    def counted(hop_id: str) -> Any:
        asked.append(hop_id)
        return hop(hop_id)

    monkeypatch.setattr(workflow_harness.store, "hop", counted)
    handle.events_so_far()
    assert asked == []
    first = next(event for event in events if event.hop_id == "w.0-0.0")
    handle.events_so_far(after=first.cursor)
    assert asked == ["w.0-0.0"]


def test_steps_whose_records_have_left_the_message_keep_their_paths() -> None:
    """A long workflow tells them as a short one does."""
    handle = dispatched(WorkflowHarness(Settings(inline_log_size=0)), *[gather.activity()] * 9)

    paths = [event.path for event in handle.events_so_far()]

    assert "" not in paths
    assert paths[:2] == ["gather", "gather"]
