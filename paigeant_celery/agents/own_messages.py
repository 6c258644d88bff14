"""Messages that an earlier attempt of a hop saved: its next attempt, which makes the same runs, takes them as its own.

A step may keep the history of its runs itself, in a `ConversationStore` or in a table. What one attempt saved, the next
one reads, and gives to the run that replays it. Runs have the same id in every attempt, so pydantic-ai refuses such a
history. Here the run gets the history without its own messages, as it had at first, and then gives it back whole. If
the step did not read the history, but saves what was saved already, nothing is saved again.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_ai import Conversation, _agent_graph
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.run import AgentRunResult
from pydantic_ai.usage import RunUsage

from paigeant_celery.journal.hop_journal import HopJournal
from paigeant_celery.journal.scope import current_journal

try:  # since pydantic-ai 2.66
    from pydantic_ai._conversation_marks import mark_stored
    from pydantic_ai.conversation_store import ConversationEntry, ConversationStore
except ImportError:
    ConversationStore = None  # type: ignore[assignment, misc]

__all__ = ["give_back_own"]

# What differs in each attempt, of messages and of their parts.
FLEETING = ("timestamp", "failed_attempts")


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The history that a run was given, and from where on it was left out. `usage` is that of a `Conversation`."""

    messages: list[ModelMessage]
    start: int
    usage: RunUsage | None


_given: WeakKeyDictionary[HopJournal, dict[str, _Given]] = WeakKeyDictionary()


def give_back_own(journal: HopJournal, result: AgentRunResult[Any]) -> None:
    """Put what an earlier attempt saved of a run in the place of what its replay gave, if that is the same.

    Nothing of it is then saved again, and what was saved after it stays there.
    """
    given = _given.get(journal, {}).pop(result.run_id, None)
    if given is None:
        return
    state, after = result._state, given.messages[given.start :]
    own, new = [message for message in after if message.run_id == result.run_id], result.new_messages()
    state.conversation_unsaved = None  # so that a `ConversationStore` compares what it has with the whole
    missing = len(new) - len(own)  # the beginning of the run, if only the last messages were loaded
    if _written(new[-len(own) :]) == _written(own) and (missing == 0 or given.start == 0 < missing):
        state.message_history[:] = [*new[:missing], *given.messages]
        state.conversation_saved = given.usage is not None
        if given.usage is not None:
            vars(state.usage).update(vars(copy(given.usage)))
    elif _written(new[: len(own)]) == _written(own) == _written(after):
        state.message_history[:] = [*given.messages, *new[len(own) :]]


def _without_own(resolved: tuple[Any, ...], *, carried: bool) -> tuple[Any, ...]:
    """Return what a run is given, without messages of runs that this attempt of its hop has yet to begin.

    `carried` says whether it was given a `Conversation`, which has the usage of its messages.
    """
    journal, (history, usage, conversation_id, *stored) = current_journal(), resolved
    if journal is None or not history:
        return resolved
    start = next((at for at, message in enumerate(history) if journal.is_to_begin(message.run_id or "")), None)
    if start is None:
        return resolved
    given = _Given(messages=list(history), start=start, usage=copy(usage) if carried else None)
    _given.setdefault(journal, {})[history[start].run_id] = given
    if stored:  # since there are `ConversationStore`s: the revision, messages that are not stored yet, and a doubt
        revision, unsaved, _ = stored
        stored = [revision, None if unsaved is None else [], False]
    return history[:start], _usage_before(given) if carried else usage, conversation_id, *stored


def _usage_before(given: _Given) -> RunUsage | None:
    """Return the usage of a conversation before the messages that are left out."""
    if given.usage is None:
        return None
    spent = RunUsage()
    for message in given.messages[given.start :]:
        if isinstance(message, ModelResponse):
            spent.incr(message.usage)
            spent.requests += 1
    return given.usage - spent if given.usage.requests >= spent.requests else copy(given.usage)


def _written(messages: list[ModelMessage]) -> list[Any]:
    """Return messages as JSON, without what differs in each attempt."""
    tree: list[Any] = ModelMessagesTypeAdapter.dump_python(messages, mode="json", warnings=False)
    for message in tree:
        for part in (message, *message["parts"]):
            for name in FLEETING:
                part.pop(name, None)
    return tree


async def _is_saved(store: ConversationStore, saved: Conversation | AgentRunResult[Any], scope: str | None) -> bool:
    """Say whether an earlier attempt of this hop has saved the same, and if so let it go on from there."""
    journal = current_journal()
    conversation = saved.conversation if isinstance(saved, AgentRunResult) else saved
    if journal is None or not journal.resumes:
        return False
    own = [message for message in conversation.messages if (message.run_id or "").startswith(f"{journal.hop_id}:")]
    kept = await store.load(conversation.conversation_id, scope=scope) if own else None
    if kept is None or kept.revision is None:
        return False
    runs = {message.run_id for message in own}
    stored = [message for message in kept.messages if message.run_id in runs]
    if _written(stored[-len(own) :]) != _written(own):
        return False
    if isinstance(saved, AgentRunResult):
        saved._conversation_saved(kept.revision)
    else:
        saved.revision = kept.revision
        mark_stored(saved, saved.messages)
    return True


def _watch_saves() -> None:
    """Have each save of a conversation looked at first. Nothing changes outside a hop and in its first attempt."""
    save = ConversationStore.save

    @wraps(save)
    async def save_once(
        self: ConversationStore, conversation: Conversation | AgentRunResult[Any], *, scope: str | None = None
    ) -> list[ConversationEntry]:
        return [] if await _is_saved(self, conversation, scope) else await save(self, conversation, scope=scope)

    ConversationStore.save = save_once  # type: ignore[method-assign]


def _watch_histories() -> None:
    """Have each run's history looked at first. Nothing changes for runs outside a hop.

    No hook of a capability sees a history before pydantic-ai has refused it.
    """
    resolve: Callable[..., tuple[Any, ...]] = _agent_graph.resolve_conversation

    @wraps(resolve)
    def resolve_conversation(conversation: Conversation | None, **given: Any) -> tuple[Any, ...]:
        return _without_own(resolve(conversation, **given), carried=conversation is not None)

    _agent_graph.resolve_conversation = resolve_conversation


_watch_histories()
if ConversationStore is not None:
    _watch_saves()
