"""docs/runbook.md: each situation is made by real workers on a real server, and each command in the page is typed.

The commands are read from the page, and what they print is compared with it, but for ids, times and hosts. After a
change of what a command prints, `RUNBOOK=write python -m pytest -n 0 tests/acceptance/test_runbook.py` writes into the
page what a situation prints where it differs, all of it, so that its ids and times are of one run; look at the
difference. `RUNBOOK=all` writes every situation anew.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import redis

from paigeant_celery import ActivitySpec, DeadLetters, FunctionSpec, Inbox, parallel, sleep_for, wait_for
from paigeant_celery.activities.registry import registry
from tests.support.processes import eventually
from tests.support.runbook import PAGE, Situation, replaced, situations
from tests.support.scenes import WITHIN, Scene
from tests.support.servers import RedisServer, redis_server
from tests.support.versions import reading_no_blocks

TEXT = PAGE.read_text(encoding="utf-8")
SITUATIONS = {each.title: each for each in situations(TEXT)}
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")

A_RUN, A_DAY = timedelta(minutes=10), timedelta(hours=23)  # what sleeps in a scene goes on after a day

SCENES: dict[str, Callable[[Scene], None]] = {}


def scene(title: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register the scene of a situation, by the title that it has in the page."""

    def register(play: Callable[[Scene], None]) -> Callable[[Scene], None]:
        SCENES[title] = play
        return play

    return register


GATHER, DRAFT = ActivitySpec("gather", "What did order 17 want?"), ActivitySpec("draft", "Say we are sorry.")
LETTER = FunctionSpec("letter", {"customer": "Ann", "text": "your parcel is on its way."})
SEND = FunctionSpec("send", {"to": "ann@example.org"})


@scene("Something is wrong, and you do not know what")
def something_is_wrong(shop: Scene) -> None:
    shop.deploys(("Dear {customer}", "Dear {costumer}"), ("RETRY_AFTER = 10.0", "RETRY_AFTER = 600.0"))
    shop.starts_worker()
    well = shop.dispatches(GATHER, DRAFT, SEND, correlation_id="order-16")
    shop.until(well, "completed")
    parked = shop.dispatches(GATHER, LETTER, SEND)
    shop.until(parked, "parked")
    unserved = shop.dispatches(GATHER, ActivitySpec("draftr", "Say we are sorry."), correlation_id="order-18")
    shop.until(unserved, "queued", step="draftr")
    asking = shop.dispatches(ActivitySpec("refund", "Pay order 19 back."), correlation_id="order-19")
    shop.until(asking, "suspended")
    shop.has("busy")
    retried = shop.dispatches(DRAFT, SEND, correlation_id="order-20")
    shop.until(retried, "retrying")
    shop.types("paigeant list")
    shop.types("paigeant stats")
    shop.types("paigeant check")


@scene("A worker was killed")
def a_worker_was_killed(shop: Scene) -> None:
    closed = shop.has("closed")
    killed = shop.starts_worker()
    order = shop.dispatches(DRAFT, SEND)
    shop.until(order, "running")
    killed.kill()
    eventually(lambda: order.status_sync().stuck, within=WITHIN)
    shop.types("paigeant show order-17")
    shop.types("paigeant agents", ends=1)

    shop.starts_worker(name="another")
    eventually(lambda: "claimed" in [event.type for event in order.events_so_far()][3:], within=WITHIN)
    closed.unlink()
    shop.until(order, "completed")
    shop.types("paigeant show order-17")


@scene("A step fails on every attempt")
def a_step_fails_on_every_attempt(shop: Scene) -> None:
    shop.deploys(("Dear {customer}", "Dear {costumer}"))
    wrong = shop.starts_worker()
    order = shop.dispatches(GATHER, LETTER, SEND)
    shop.until(order, "parked")
    shop.types("paigeant list --state parked --since 1h")
    shop.types("paigeant letters list")
    shop.types("paigeant show order-17 --errors")

    others = [shop.dispatches(LETTER, SEND, correlation_id=f"order-{number}") for number in (18, 19)]
    for other in others:
        shop.until(other, "parked")
    assert wrong.terminate() == 0
    shop.deploys()
    shop.starts_worker(name="fixed")
    shop.types("paigeant retry order-17")
    shop.until(order, "completed")
    shop.types("paigeant show order-17")
    shop.types("paigeant list --state parked --activity letter")
    for other in others:
        shop.until(other, "completed")


@scene("A step was asked for the wrong thing")
def a_step_was_asked_for_the_wrong_thing(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(GATHER, ActivitySpec("draft", "Say we are story."), SEND)
    shop.until(order, "completed")
    shop.types("paigeant result order-17 --step draft")
    shop.types("paigeant fork order-17 --from draft")
    corrected = shop.handle("order-17-again")
    shop.until(corrected, "completed")
    shop.types("paigeant show order-17-again")
    shop.types("paigeant result order-17-again --step draft")

    shop.types("paigeant export order-17")
    shop.edits("order-17.json", "Say we are story.", "Say we are sorry.")
    shop.edits("order-17.json", "ann@example.org", "ben@example.org")
    shop.types("paigeant fork order-17 --from draft --document order-17.json")
    shop.until(shop.handle("order-17-mended"), "completed")
    shop.types("paigeant show order-17-mended")

    later = shop.dispatches(wait_for("paid"), ActivitySpec("draft", "Say we are story."), correlation_id="order-18")
    shop.until(later, "suspended")
    shop.types("paigeant export order-18")
    shop.edits("order-18.json", "Say we are story.", "Say we are sorry.")
    shop.types("paigeant lint order-18.json")
    shop.types("paigeant diff order-18 order-18.json", ends=1)
    shop.types("paigeant import order-18 order-18.json")
    shop.types("paigeant signal order-18 paid")
    shop.until(later, "completed")
    shop.types("paigeant result order-18")


@scene("A step waits for an approval")
def a_step_waits_for_an_approval(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(ActivitySpec("refund", "Pay order 17 back."))
    shop.until(order, "suspended")
    shop.types("paigeant show order-17")
    listed = shop.types("paigeant inbox")
    (token,) = re.findall(r"^order-17\.0~\S+$", listed, re.MULTILINE)
    shop.types("paigeant approve", TOKEN=token)
    shop.until(order, "completed")
    shop.types("paigeant show order-17")

    other = shop.dispatches(ActivitySpec("refund", "Pay order 18 back."), correlation_id="order-18")
    shop.until(other, "suspended")
    shop.types("paigeant deny", TOKEN=other.pending_sync()[0].token)
    shop.until(other, "completed")
    shop.types("paigeant approve", TOKEN=token, ends=1)


@scene("A step waits on a queue that nobody serves")
def a_step_waits_on_a_queue_that_nobody_serves(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(GATHER, ActivitySpec("draftr", "Say we are sorry."), SEND)
    shop.until(order, "queued", step="draftr")
    shop.types("paigeant list --state queued")
    shop.types("paigeant show order-17 --no-events")
    shop.types("paigeant activities")
    shop.types("paigeant agents")
    shop.types("paigeant cancel order-17")

    shop.types("paigeant export order-17")
    shop.types("paigeant lint order-17.json", ends=1)
    shop.edits("order-17.json", "draftr", "draft")
    shop.types("paigeant run --document order-17.json")
    shop.until(shop.handle("order-17-again"), "completed")
    shop.types("paigeant show order-17-again --no-events")


@scene("A step is tried again because its provider answers 429")
def a_step_is_tried_again(shop: Scene) -> None:
    busy = shop.has("busy")
    shop.starts_worker()
    order = shop.dispatches(DRAFT, SEND)
    shop.until(order, "retrying")
    shop.types("paigeant list --state retrying --activity draft")
    shop.types("paigeant show order-17 --no-events")
    busy.unlink()
    shop.types("paigeant retry order-17", ends=1)
    shop.until(order, "completed")
    shop.types("paigeant show order-17")


@scene("A message was refused and is a dead letter")
def a_message_was_refused(shop: Scene) -> None:
    shop.deploys(("customer: str, text: str", "customer: str"), ("customer=customer, text=text", "customer=customer"))
    old = shop.starts_worker()
    order = shop.dispatches(LETTER, SEND)
    shop.until(order, "parked")
    listed = shop.types("paigeant letters list")
    letter = listed.splitlines()[1].split()[0]
    shop.types("paigeant letters show", LETTER=letter)

    assert old.terminate() == 0
    shop.deploys()
    shop.starts_worker(name="new")
    shop.types("paigeant letters redrive", LETTER=letter)
    shop.until(order, "completed")
    shop.types("paigeant show order-17 --no-events")

    with redis.Redis.from_url(shop.server.url) as client:
        client.lpush("paigeant.draft", "no message of Celery's")
    (refused,) = eventually(lambda: DeadLetters(shop.transport).list(), within=WITHIN)
    shop.types("paigeant letters list")
    shop.types("paigeant letters drop", LETTER=refused.letter_id)


@scene("Redis was restarted")
def redis_was_restarted(shop: Scene) -> None:
    closed = shop.has("closed")
    worker = shop.starts_worker()
    order = shop.dispatches(DRAFT, SEND)
    shop.until(order, "running")
    shop.server.stop()
    shop.types("paigeant show order-17", ends=5)
    shop.types("paigeant check", ends=1)
    shop.server.start()
    closed.unlink()
    shop.until(order, "completed")
    shop.types("paigeant show order-17")
    assert worker.running

    with redis.Redis.from_url(shop.server.url) as client:
        client.flushall()
    shop.types("paigeant show order-17", ends=3)


@scene("Redis is full")
def redis_is_full(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(wait_for("paid"), SEND)
    shop.until(order, "suspended")
    with redis.Redis.from_url(shop.server.url) as client:
        client.config_set("maxmemory", "900kb")
        shop.types("paigeant signal order-17 paid", ends=5)
        shop.types("paigeant check", ends=1)
        shop.types("paigeant show order-17 --no-events")
        client.config_set("maxmemory", "0")
    shop.types("paigeant signal order-17 paid")
    shop.until(order, "completed")
    shop.types("paigeant show order-17 --no-events")


@scene("A step waits for workers of a newer version")
def a_step_waits_for_newer_workers(shop: Scene) -> None:
    old = shop.starts_worker(package=reading_no_blocks(shop.made.folder / "older"))
    order = shop.dispatches(parallel({"ann": SEND, "ben": SEND}))
    eventually(lambda: order.status_sync().failure, within=WITHIN)
    shop.types("paigeant show order-17")
    assert old.terminate() == 0
    shop.starts_worker(name="new")
    shop.until(order, "completed")
    shop.types("paigeant show order-17 --no-events")


@scene("The code changed while a step was under way")
def the_code_changed(shop: Scene) -> None:
    worker = shop.starts_worker()
    orders = [shop.dispatches(ActivitySpec("refund", "Pay it back."), correlation_id=f"order-{n}") for n in (17, 18)]
    for order in orders:
        shop.until(order, "suspended")
    assert worker.terminate() == 0
    shop.deploys(("def pay_back(order: int, euros: int)", "def pay_back(order: int, euros: int, by: str = '')"))
    worker = shop.starts_worker(name="changed")
    for order in orders:
        Inbox(shop.transport).approve_sync(order.pending_sync()[0].token)
        shop.until(order, "parked")
    shop.types("paigeant show order-17 --no-events")

    shop.types("paigeant retry order-18")
    shop.until(orders[1], "suspended")
    shop.types("paigeant show order-18 --no-events")
    assert worker.terminate() == 0
    shop.deploys()
    shop.starts_worker(name="again")
    shop.types("paigeant retry order-17")
    shop.until(orders[0], "completed")
    shop.types("paigeant show order-17 --no-events")


@scene("A block has branches that are parked")
def a_block_has_parked_branches(shop: Scene) -> None:
    worker = shop.starts_worker()
    wrong = FunctionSpec("send", {"to": "ben at example.org"})
    order = shop.dispatches(GATHER, parallel({"ann": SEND, "ben": wrong}, step_id="mails"), DRAFT)
    shop.until(order, "parked")
    shop.types("paigeant show order-17 --no-events")
    assert worker.terminate() == 0
    shop.deploys(('    if "@" not in to', '    to = to.replace(" at ", "@")\n    if "@" not in to'))
    shop.starts_worker(name="fixed")
    shop.types("paigeant retry order-17 mails/ben")
    shop.until(order, "completed")
    shop.types("paigeant show order-17 --no-events")


@scene("A workflow waits for a signal or a time")
def a_workflow_waits(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(wait_for("paid"), SEND)
    later = shop.dispatches(GATHER, sleep_for(86400), SEND, correlation_id="order-18")
    shop.until(order, "suspended")
    shop.until(later, "suspended")
    shop.types("paigeant show order-17 --no-events")
    shop.types("paigeant signal order-17 paid")
    shop.until(order, "completed")
    shop.types("paigeant show order-17")
    shop.types("paigeant show order-18 --no-events")
    shop.types("paigeant cancel order-18")


@scene("A workflow costs too much")
def a_workflow_costs_too_much(shop: Scene) -> None:
    shop.has("closed")
    worker = shop.starts_worker()
    research = ActivitySpec("research", "Why is order 17 late?")
    order = shop.dispatches(research, SEND, offers=[research])
    eventually(lambda: len(order.status_sync().executed) == 7 and order.status_sync().running, within=WITHIN)
    shop.types("paigeant show order-17 --no-events")
    shop.types("paigeant cancel order-17")
    worker.wait_for_log("workflow cancelled, and its run too", within=WITHIN)
    shop.types("paigeant show order-17 --no-events")


@scene("The broker moved")
def the_broker_moved(shop: Scene) -> None:
    shop.configures(paigeant_store_url=shop.server.url)
    worker = shop.starts_worker()
    assert worker.terminate() == 0
    order = shop.dispatches(GATHER, SEND)
    with redis.Redis.from_url(shop.server.url) as client:
        assert client.llen("paigeant.gather") == 1, "its message is not on the old broker"
    with redis_server() as moved:
        shop.names[f"127.0.0.1:{moved.port}"] = "new-broker:6379"
        shop.configures(broker_url=moved.url)
        shop.types("worker", ends=1)
        shop.types("paigeant check", ends=1)
        shop.types("paigeant rebind --yes")
        shop.starts_worker(name="moved")
        order = shop.handle("order-17")
        shop.until(order, "completed")
        shop.types("paigeant show order-17")


@scene("A step ends its worker")
def a_step_ends_its_worker(shop: Scene) -> None:
    shop.starts_worker(pool="prefork")
    order = shop.dispatches(FunctionSpec("picture", {"text": "a cat"}), SEND)
    shop.until(order, "parked")
    shop.types("paigeant show order-17")
    shop.has("more memory")
    shop.types("paigeant retry order-17")
    shop.until(order, "completed")
    shop.types("paigeant show order-17 --no-events")


@scene("A worker lives and does nothing")
def a_worker_does_nothing(shop: Scene) -> None:
    closed = shop.has("closed")
    worker = shop.starts_worker(pool="prefork")
    order = shop.dispatches(DRAFT, SEND)
    shop.until(order, "running")
    shown = shop.types("paigeant show order-17 --no-events")
    (pid,) = re.findall(r"\bpid (\d+)", shown)[:1]
    os.kill(int(pid), signal.SIGSTOP)
    shop.types("paigeant ready", ends=1)
    worker.kill()
    shop.starts_worker(name="another")
    closed.unlink()
    shop.until(order, "completed")
    shop.types("paigeant ready")
    shop.types("paigeant show order-17 --no-events")


@scene("A workflow failed")
def a_workflow_failed(shop: Scene) -> None:
    shop.starts_worker()
    order = shop.dispatches(GATHER, DRAFT, SEND, usage_limits={"total_tokens_limit": 2000})
    shop.until(order, "failed")
    shop.types("paigeant list --state failed --since 1h")
    shop.types("paigeant show order-17")
    shop.types("paigeant retry order-17", ends=1)
    shop.types("paigeant fork order-17 --from draft")
    again = shop.handle("order-17-again")
    shop.until(again, "completed")
    shop.types("paigeant show order-17-again")


@pytest.mark.parametrize("title", sorted({*SITUATIONS, *SCENES}))
def test_each_situation_looks_and_ends_as_the_page_says(
    title: str, own_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    """Whoever is on call at night types what stands there, and has nobody to ask."""
    assert title in SITUATIONS, f"docs/runbook.md has no situation {title!r}"
    assert title in SCENES, f"no scene shows what docs/runbook.md says of {title!r}"
    situation = next(each for each in situations(PAGE.read_text(encoding="utf-8")) if each.title == title)
    with registry.isolated():  # a dispatcher that knows nothing of the shop's agents, nor of those of other tests
        shop = Scene(situation, own_redis(*DURABLE), tmp_path)
        try:
            SCENES[title](shop)
            shop.is_over()
        finally:
            shop.made.remove()


def test_no_command_stands_in_the_page_that_is_not_typed() -> None:
    """A command in a sentence is typed as well, and a wrong one would be as bad there."""
    typed = " ".join(" ".join(shown.command for shown in each.shown) for each in SITUATIONS.values())
    sentences = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    in_sentences = set(re.findall(r"`((?:celery|paigeant) [^`]+)`", sentences))

    assert {each for each in in_sentences if each not in typed} == set()
    assert len(re.findall(r"^```", TEXT, re.MULTILINE)) == 2 * sum(len(each.shown) for each in SITUATIONS.values())


def test_what_is_printed_keeps_its_columns_under_the_names_of_the_page() -> None:
    """A table whose columns have slipped is hard to read, and harder at night."""
    printed = "worker     ready  serves\ncelery@vm  no     draft\nother@vm   yes\n\ncelery@vm: it is /tmp/x  y\n"

    assert replaced(printed, {"@vm": "@web-1", "/tmp/x": "/srv/shop"}) == (
        "worker        ready  serves\ncelery@web-1  no     draft\nother@web-1   yes\n"
        "\ncelery@web-1: it is /srv/shop  y\n"
    )


def test_all_that_a_situation_prints_is_of_one_run() -> None:
    """An id that is another one three lines below makes people doubt what they typed."""
    for situation in SITUATIONS.values():
        printed = "\n".join(line for shown in situation.shown for line in shown.output)
        times = sorted(re.findall(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d):\d\d", printed))
        moments = [datetime.fromisoformat(time) for time in times]
        late = [moment for moment in moments if moment - moments[0] > A_RUN]
        assert all(moment - moments[0] >= A_DAY for moment in late), f"{situation.title}: {moments[0]} and {late}"


def test_the_table_leads_to_each_situation() -> None:
    """One looks for what one sees, and has never heard of our words."""
    table = re.findall(r"^\|.*\[(\d+)\]\(#([\w-]+)\)", TEXT, re.MULTILINE)

    anchors = {str(each.number): anchor(each) for each in SITUATIONS.values()}
    assert dict(table) == anchors
    assert [each.number for each in SITUATIONS.values()] == list(range(len(SITUATIONS)))


def anchor(situation: Situation) -> str:
    """Return the anchor that GitHub gives to the heading of a section."""
    words = f"{situation.number}. {situation.title}".lower()
    return re.sub(r"[^\w -]", "", words).replace(" ", "-")
