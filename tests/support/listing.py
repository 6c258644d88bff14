"""What must stand in the index of workflows on Redis, from their records."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["AGE", "check_listing"]

HOP_LETTERS = {"queued": "q", "running": "r", "waiting": "t", "suspended": "s", "parked": "q"}
WORKFLOW_LETTERS = {"completed": "c", "failed": "f", "parked": "p", "cancelled": "x"}
CLOSED = ("done", "failed", "cancelled")
LAST = 2**53 - 1
AGE = len(str(LAST))  # digits of an age

Record = Mapping[str, str]


def check_listing(
    listed: Collection[str], ended: Collection[str], workflows: Mapping[str, Record], hops: Mapping[str, Record]
) -> None:
    """Check that each workflow is listed as its record says, and each open wait, and nothing else.

    What has expired may still be listed, if it is to leave.
    """
    texts = {text for text in listed if text.startswith("i")}
    about = {text[1:].split(" ", 1)[0]: text[1:].split(" ", 1)[1] for text in texts}
    assert len(about) == len(texts), "listing: a workflow is listed twice"
    assert set(ended) <= texts, f"listing: {set(ended) - texts} are to leave, but are not listed"
    assert set(workflows) <= set(about), f"listing: {set(workflows) - set(about)} are not listed"
    expected = set[str]()
    for name, text in about.items():
        state = text[: 1 + AGE]
        activity, step = text[2 + AGE :].split(":", 1)
        expected |= {f"i{name} {state}:{activity}:{step}", f"s{state}{name}", f"a{activity}:{state}{name}"}
        if name not in workflows:
            assert f"i{name} {text}" in ended, f"listing: {name} never leaves the list"
            continue
        record = workflows[name]
        hop = hops.get(record["hop"], {})
        hop_state = "queued" if "given_back" in hop and hop.get("state") == "waiting" else hop.get("state", "")
        letter = WORKFLOW_LETTERS.get(record["state"]) or HOP_LETTERS.get(hop_state, "?")
        assert state == f"{letter}{LAST - int(record['created_at'])}", f"listing: {name} is listed as {text}"
        assert (f"i{name} {text}" in ended) == (letter in "cfx"), f"listing: {name} leaves the list at a wrong time"
    waits = {
        f"n{fields[f':name:{token}']}\0{fields.get(':age', '')}{token}"
        for fields in hops.values()
        if fields.get("state") not in CLOSED
        for token in fields.get(":open", "").split()
        if f":name:{token}" in fields  # some tests have tokens with spaces, which ours never have
    }
    others = {text for text in set(listed) - expected if " " not in text}
    assert others == {text for text in waits if " " not in text}, "listing: waits"
    assert expected <= set(listed), f"listing: {expected - set(listed)} are missing"
