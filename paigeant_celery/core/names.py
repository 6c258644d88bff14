"""Names and words that appear on the wire, in the store, in logs and in Flower. A change here needs a version."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "ACTIONS",
    "ACTIVITY_NAME",
    "ACTIVITY_NAME_RULE",
    "AGENT_EVENTS",
    "ATTEMPT_HEADER",
    "CONVERSATION_RULE",
    "CORRELATION_ID",
    "CORRELATION_ID_RULE",
    "DISPATCH",
    "EVENTS",
    "FIRST_PLACE",
    "FLOW",
    "GIVEN_BACK_HEADER",
    "MAX_ATTEMPTS",
    "MAX_NAME_LENGTH",
    "MAX_QUEUE_LENGTH",
    "QUEUE_RULE",
    "REASONS",
    "SPEC_VERSION",
    "STEP_ID",
    "STEP_ID_RULE",
    "VERSION_HEADER",
    "Names",
    "conversation_fault",
    "block_of",
    "blocks_above",
    "hop_id",
    "inserting_place",
    "is_activity_name",
    "is_correlation_id",
    "is_free_name",
    "is_queue_name",
    "is_step_id",
    "name_fault",
    "next_place",
    "number_of",
    "queue_fault",
    "split_hop_id",
    "text_fault",
]

SPEC_VERSION = "1.5"
VERSION_HEADER = "paigeant_spec_version"
ATTEMPT_HEADER = "paigeant_attempt"  # beside the envelope, if no store counts the attempts
GIVEN_BACK_HEADER = "paigeant_given_back"  # how often it was put back on its queue, if no store knows the hop

MAX_NAME_LENGTH = 128  # characters; keeps keys, queues and task names short on every broker

MAX_QUEUE_LENGTH = 255  # bytes; AMQP's own limit

CORRELATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
STEP_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MADE_STEP_ID = re.compile(r".*-(0|[1-9][0-9]{0,8})\.[1-9][0-9]{0,8}")  # of an inserted step: NAME-PLACE.NUMBER
ACTIVITY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")

_SURROGATE = re.compile("[\ud800-\udfff]")

# The number of a step; inside a branch, the path to it: `3-1.0` is the first step of branch 1 of step 3.
_PLACE = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:-(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})){0,8}")

# What an error says about a text that is none of these.
CORRELATION_ID_RULE = "1 to 128 of A-Z, a-z, 0-9, '_' and '-'"
STEP_ID_RULE = "1 to 128 of A-Z, a-z, 0-9, '_', '-' and '.'"
ACTIVITY_NAME_RULE = "1 to 128 of A-Z, a-z, 0-9, '_' and '-', in parts joined by '.', with a letter or '_' first"
CONVERSATION_RULE = f"1 to {MAX_NAME_LENGTH} characters, not only spaces, and no control characters"
QUEUE_RULE = "1 to 255 bytes of UTF-8, not only spaces, no control characters, and not 'amq.' in front"

FIRST_PLACE = "0"

FLOW = "_flow"  # the activity of the steps that we run ourselves; every worker that serves steps serves it

DISPATCH = "dispatch"  # the task that dispatches a document; no activity has its name, because it would have its task

MAX_ATTEMPTS = 1000  # the highest number that a policy or setting allows


def is_correlation_id(text: str) -> bool:
    """Say whether `text` may identify a workflow."""
    return CORRELATION_ID.fullmatch(text) is not None


def is_step_id(text: str) -> bool:
    """Say whether `text` may identify a step of a workflow."""
    return STEP_ID.fullmatch(text) is not None


def inserting_place(step_id: str) -> int | None:
    """Return the place of the step that inserted this one, if the id has the form that inserted steps get."""
    found = _MADE_STEP_ID.fullmatch(step_id)
    return int(found[1]) if found is not None else None


def is_queue_name(text: str) -> bool:
    """Say whether `text` may name a queue on every broker."""
    return not queue_fault(text)


def queue_fault(text: str) -> str:
    """Say why `text` cannot name a queue on every broker, and what can; "" if it can."""
    if (fault := name_fault(text)) is not None:
        return f"the queue's name {fault}; it has {QUEUE_RULE}"
    if not text.strip():
        return f"the queue's name is empty; it has {QUEUE_RULE}"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return f"the queue's name contains a control character; it has {QUEUE_RULE}"
    if text.startswith("amq."):
        return f"the queue's name begins with 'amq.', which RabbitMQ keeps for itself; it has {QUEUE_RULE}"
    if (size := len(text.encode())) > MAX_QUEUE_LENGTH:
        return f"the queue's name is {size} bytes long; it has {QUEUE_RULE}"
    return ""


def conversation_fault(text: str) -> str:
    """Say why `text` cannot name a conversation, and what can; "" if it can."""
    if text_fault(text) is not None or any(unicodedata.category(character) == "Cc" for character in text):
        return f"has a character that no name can have; it has {CONVERSATION_RULE}"
    if not text.strip() or len(text) > MAX_NAME_LENGTH:
        return f"is empty or too long; it has {CONVERSATION_RULE}"
    return ""


def is_activity_name(text: str) -> bool:
    """Say whether `text` may name an activity; only ASCII, so that no two names look alike."""
    return len(text) <= MAX_NAME_LENGTH and ACTIVITY_NAME.fullmatch(text) is not None


def is_free_name(text: str) -> bool:
    """Say whether a user may give this name to an activity."""
    return is_activity_name(text) and text not in (FLOW, DISPATCH)


def hop_id(correlation_id: str, place: str) -> str:
    """Return the id of the hop at `place`; it is also the id of its Celery task."""
    return f"{correlation_id}.{place}"


def next_place(place: str) -> str:
    """Return the place after `place`, in the same branch."""
    branch, dot, number = place.rpartition(".")
    return f"{branch}{dot}{int(number) + 1}"


def block_of(hop_id: str) -> tuple[str, int] | None:
    """Return the id of the hop of the block that a hop is below, and the number of the branch; None if there is none.

    The hop of branch 1 of block `3` of a workflow is `workflow.3-1.0`.
    """
    above, dash, behind = hop_id.rpartition("-")
    number = behind.partition(".")[0]
    return (above, int(number)) if dash and "." in above and number.isdecimal() else None


def blocks_above(hop_id: str) -> Iterator[str]:
    """Yield the ids of the hops of all blocks that a hop is below, the innermost first."""
    while (found := block_of(hop_id)) is not None:
        hop_id = found[0]
        yield hop_id


def number_of(place: str) -> int:
    """Return the number of a step within its slip, from its place."""
    return int(place.rpartition(".")[2])


def split_hop_id(text: str) -> tuple[str, str] | None:
    """Return the correlation id and place of a hop id, or None if `text` is not one."""
    correlation_id, dot, place = text.partition(".")
    if (
        len(text) > MAX_QUEUE_LENGTH
        or not dot
        or not is_correlation_id(correlation_id)
        or _PLACE.fullmatch(place) is None
    ):
        return None
    return correlation_id, place


def text_fault(text: str) -> str | None:
    """Say why `text` cannot travel as JSON text, or return None if it can. Only names may have no NUL."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return None
    return "contains a lone surrogate"


def name_fault(text: str) -> str | None:
    """Say why `text` cannot be a name that the user chose freely, or return None if it can."""
    return "contains a NUL character" if "\0" in text else text_fault(text)


@dataclass(frozen=True)
class Names:
    """Task, queue and key names under one prefix."""

    prefix: str = "paigeant"

    def task(self, activity: str) -> str:
        """Return the name of the Celery task of an activity."""
        return f"{self.prefix}.{activity}"

    def queue(self, activity: str) -> str:
        """Return the queue of an activity that does not name one."""
        return f"{self.prefix}.{activity}"

    @property
    def dead_letters(self) -> str:
        """Return the queue of dead letters if there is no store; no activity has a queue of this name."""
        return f"{self.prefix}-dead-letters"

    def activity(self, task: str) -> str | None:
        """Return the activity of a task name, or None if the task runs none."""
        start = f"{self.prefix}."
        name = task[len(start) :] if task.startswith(start) else ""
        return name if name not in ("", DISPATCH) else None


# The words that others match on. The code writes each where it is used; a test compares these tables with the package.

# Why a call, a message or a hop was refused: the codes of errors, dead letters and failures.
REASONS: Mapping[str, str] = MappingProxyType(
    {
        "activity_not_allowed": "an agent wants to insert an activity that is not allowed or not registered",
        "answer_too_large": "an answer to a wait, or a signal, is larger than one may be",
        "attempts_exhausted": "the hop was begun as often as it may be, but no attempt ever ended",
        "bad_agent_name": "the name of an activity is empty, too long, or has characters that are not allowed",
        "bad_conversation": "the name or the id of a conversation is empty, too long, or has control characters",
        "bad_correlation_id": "a correlation id is empty, too long, or has characters that are not allowed",
        "bad_cursor": "the position to read on from is not a cursor",
        "bad_envelope": "the message around the envelope is not as we send it",
        "bad_step_id": "the id of a step is empty, too long, or has characters that are not allowed",
        "content_disallowed": "a message is not JSON, or is compressed with something other than gzip",
        "conversation_lost": "the store no longer has the history of the conversation that the step continues",
        "conversation_open": "the history of a conversation ends in a tool call without an answer",
        "conversation_too_large": "the history of a conversation is larger than `paigeant_max_conversation_size`",
        "deadline": "the deadline of the workflow passed before or during the step",
        "deadline_passed": "a workflow was dispatched with a deadline in the past, or before its own start",
        "duplicate_step_id": "two steps of a workflow have the same id",
        "empty_itinerary": "there is no step to run",
        "empty_prompt": "a step of an agent has no prompt",
        "expired": "the store does not know the workflow, and its message is too old for the workflow to be adopted",
        "fork_too_large": "a fork would copy more outputs and files than the store copies in one step",
        "inconsistent_slip": "the ids, places or digest of a message contradict each other or the store",
        "invalid_answer": "an answer to a wait, or a signal, is no JSON, or does not fit what the wait asks for",
        "invalid_arguments": "the arguments of a function or a task do not fit it, or would not come back from JSON",
        "invalid_block": "the branches, the join or another part of a block make no sense",
        "invalid_deps": "the deps of an agent do not fit the type that reads them, or would not come back from JSON",
        "invalid_document": "a document of a slip is neither JSON nor YAML, or a part of it is not as it has to be",
        "invalid_envelope": "an envelope is not strict JSON, or one of its fields has a wrong value",
        "invalid_input": "an argument of a call has a wrong type or value",
        "invalid_limit": "the limit of an agent's insertions is not a valid number",
        "invalid_over": "what a `for_each` goes over is no list, or there is nothing where it points at",
        "invalid_policy": "the policy of a step makes no sense",
        "invalid_prompt": "a part of a prompt is no content that pydantic-ai takes",
        "invalid_queue": "the name of a queue is no text, is empty or too long, or has a NUL",
        "invalid_task": "Celery does not accept the message as a valid task",
        "invalid_text": "a text has a lone surrogate, or a name has a NUL: not every broker and store can keep it",
        "invalid_usage_limits": "the usage limits of a workflow make no sense",
        "invalid_variables": "the variables of a workflow are not a mapping, or would not come back from JSON",
        "invalid_wait": "the name of a wait, the time that it may take, or who answers it makes no sense",
        "loop_limit": "with the inserted steps the workflow would be longer than `paigeant_max_steps`",
        "malformed": "what arrived is not a message of Celery's protocol",
        "naive_datetime": "a deadline, or another time, has no time zone",
        "newer_version": "only a newer version can read the message or its journal; a worker of that version takes it",
        "not_awaited": "a signal was sent to a branch in which nothing waits for it",
        "not_begun": "a fork would begin behind steps that have not ended",
        "not_kept": "an older version ran a step, and kept nothing of what it was asked for",
        "not_recorded": "nothing is recorded of a step, or it is none of an agent, so that it cannot be replayed",
        "output_not_serializable": "the output of a step has no JSON form that is read back as it is",
        "output_too_large": "the output of a step is larger than `paigeant_max_output_size`",
        "response_pending": "the output of a step is a response that the provider still works on, and no result",
        "result_not_serializable": "a result inside a run has no JSON form, so it cannot be recorded",
        "result_too_large": "a result inside a run is too large to be recorded",
        "secret_without_encryption": "a pydantic secret would have travelled as asterisks",
        "stale_revision": "a workflow has moved on, or somebody has edited it, since the document was exported",
        "step_begun": "the current step has opened branches or is suspended, and cannot become another one",
        "store_corrupt": "a record of the store is not as this version writes it",
        "store_lost": "the store has lost its data, and the message does not carry all that its workflow needs",
        "store_required": "a step needs a store, and the worker that got it has none",
        "too_deep": "JSON has too many levels",
        "too_large": "a message is larger than `paigeant_max_message_size`",
        "too_many_added_steps": "an agent wants to insert more steps than it may",
        "too_many_blocks": "more blocks are inside each other than may be",
        "too_many_branches": "a block would have more branches than `paigeant_max_branches`",
        "too_many_hops": "with its branches a workflow would have more hops than may be",
        "too_many_signals": "a workflow keeps as many signals for waits to come as it may",
        "too_many_steps": "a workflow has more steps than `paigeant_max_steps`",
        "too_many_visits": "an agent wants to insert an activity more often than `paigeant_max_visits`",
        "too_many_waits": "a step has more open waits than a hop may have",
        "tools_deferred": "the output of a step asks for approvals or results of tool calls, and is no result",
        "undecodable": "the body of a message cannot be decoded",
        "unexpected_deps": "a step has deps, but its agent takes none",
        "unexpected_error": "opening a delivery raised an unexpected error",
        "unknown_agent": "the worker has not loaded the activity",
        "unknown_field": "the envelope has a field that its version does not have",
        "unknown_path": "a path leads to no step, or to no branch that goes on",
        "unknown_task": "the message names a task that is not an activity and that the worker does not have",
        "unsendable": "no broker can take the message of a hop, whatever its state",
        "unsupported_version": "the envelope has another major version, or none",
        "workflow_ended": "a signal was sent to a workflow that has ended, or somebody would edit it",
        "workflow_goes_on": "the steps to come of a workflow are edited only while it is parked or suspended",
    }
)

# What happened to a workflow: the type of each event that the store keeps.
EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "adopted": "the workflow was recorded from the message of a hop, because the store did not know it",
        "agent": "an agent's run reported something; the field `event` says what kind",
        "answered": "somebody answered a wait of a hop; `by` says who, `calls` which tool calls",
        "asked": "a hop waits for an answer; `wait` is the name of the wait",
        "branch_completed": "a branch of a block ended with its last step",
        "branch_failed": "a branch of a block failed",
        "branches_opened": "a block let its first branches begin; `branches` says how many it has",
        "claimed": "a worker began an attempt of a hop",
        "completed": "a hop ended well, and the next one was recorded with it",
        "edit_refused": "an agent wanted to insert steps but may not; `reason` says why",
        "edited": "somebody replaced the steps to come; `by` says who",
        "events_dropped": "so many events of agents were replaced by newer ones before they were read",
        "failed": "a hop failed and is not tried again",
        "forked": "the workflow is a fork: it begins at the `step` of the workflow `from`",
        "given_back": "a worker could not read a hop of a newer version, and left it to newer workers",
        "joined": "a block goes on; `how` says whether its join was met or missed",
        "note": "a step reported something that has no other type",
        "parked": "a hop waits for a person",
        "redriven": "a parked hop is to be tried again, with all its attempts",
        "released": "an owner gave back a hop that it does not run",
        "resent": "the message of a hop is sent again; `why` says for what reason",
        "resumed": "an attempt went on from what earlier ones had recorded",
        "retrying": "an attempt failed, and the hop waits for the next one",
        "signalled": "a signal came before a wait for it, and is kept",
        "started": "a dispatcher recorded the workflow",
        "step_inserted": "an agent inserted a step",
        "suspended": "a hop waits for something from outside, and holds no worker",
        "text_replaced": "the output of a step had lone surrogates, for which U+FFFD now stands",
        "wait_timed_out": "a wait of a hop was over before somebody answered",
        "workflow_cancelled": "the workflow was cancelled",
        "workflow_completed": "the workflow ended with its last output",
        "workflow_failed": "the workflow ended with a failure",
    }
)

# What we add to the events of pydantic-ai about a run: the field `event` of events of type `agent`.
AGENT_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "call_made": "a call ended and is on record",
        "call_replayed": "a call was answered from the record of an earlier attempt",
        "dropped": "so many events were replaced by newer ones before they could be sent",
        "run_failed": "a run ended with an error; `error` is its class",
    }
)

# What a log record is about: its field `action`.
ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "around_step_failed": "`paigeant_around_step` raised an error that ends no step, or swallowed one",
        "broker_refuses": "the broker is there but refuses for now, and the worker waits and connects again",
        "cancel_ignored": "Celery would have ended the run of a hop, which goes on",
        "cancelled": "a workflow was cancelled because its hop was revoked",
        "clock_drift": "the clock of a dispatcher is far from the store's",
        "close_failed": "an unexpected error occurred while a hop was closed",
        "close_of_host_failed": "a connection or a cache of Django could not be closed after a step",
        "consumer_timeout": "RabbitMQ closed the channel of a long step, and the worker connects again",
        "delivery_dropped": "a delivery had nothing to run; `reason` says why",
        "end_failed": "a workflow that has passed its deadline could not be ended; it is tried again",
        "events_dropped": "events of an agent could not be written and are gone",
        "events_lost": "a run ended before all of its events were sent",
        "events_wait": "events of an agent wait for the store",
        "executor_failed": "an executor could not start, or its worker ended",
        "executor_left_steps": "an executor stopped, but some of its steps go on",
        "hop_cancelled": "the workflow was cancelled, and the run of its hop with it",
        "hop_failed": "a hop failed and is not tried again",
        "hop_given_back": "the worker ends and gives the hop back, or could not record that; the lease then has to end",
        "hop_left_to_newer": "a hop that only a newer version can read was given back for its workers",
        "hop_lost": "another owner has the hop, and the run here is cancelled",
        "hop_overtaken": "another owner had the hop when its run ended, and the output is discarded",
        "hop_parked": "a hop waits for a person",
        "hop_released": "a hop that nobody ran here was given back",
        "hop_retried": "an attempt failed, and the hop is tried again",
        "hop_suspended": "a hop waits for something from outside, and holds no worker",
        "hop_unknown": "the store has lost its record of a hop, and the run here is cancelled",
        "job_left": "a job at a provider that nobody needs any more could not be cancelled",
        "left_task_failed": "a task or callback that a step left on the event loop failed, or was given up",
        "list_unreadable": "a workflow is left out of a list, because its record cannot be read",
        "look_over_failed": "the list of workflows could not be looked over; the next pass tries again",
        "loop_blocked": "a step blocks the event loop, and later ones get a new one",
        "loop_interrupted": "something ended the event loop, which goes on",
        "message_refused": "a message cannot be run; `reason` says why",
        "navbar_unknown": "Flower's navigation bar is of an unknown form, and has no entry for workflows",
        "nobody_serves": "a caller waits for a workflow whose step nobody serves",
        "open_failed": "an unexpected error occurred while a delivery was opened",
        "outdated": "a newer worker has begun, so this one takes no more steps",
        "owner_gone": "the process of an owner is gone, so its hops are sent again",
        "page_acted": "somebody retried, cancelled or answered something on a page in Flower; `by` says who",
        "page_failed": "a page about workflows in Flower could not be shown",
        "queue_not_added": "a worker was told to take a queue of ours, but its settings are wrong",
        "queue_not_seen": "the broker did not say how many messages wait on a queue",
        "renew_failed": "the lease of this process could not be renewed",
        "replay_drift": "a call is replayed although a text of it changed, or another one is not made again",
        "resend_failed": "the message of a hop could not be sent again",
        "resent": "the message of a hop was sent again",
        "send_failed": "the next hop is recorded, but its message could not be sent; a sweep sends it",
        "start_refused": "a worker does not start; the text says why and what to do",
        "started_in_spite": "a worker that serves no activity starts although its settings are wrong",
        "store_checked": "something about the store's server is worth knowing",
        "store_corrupt": "a record of the store cannot be read",
        "store_unreachable": "the store is away, and something waits for it",
        "sweep_failed": "a sweep ended early; the next one comes soon",
        "telemetry_failed": "a processor, sampler or instrument of the host's raised; logged once in a process",
        "touching_failed": "nothing extends the lease of a worker while a step holds the interpreter lock",
        "transport_chosen": "which transport was chosen, and why",
        "transport_overruled": "an environment variable takes precedence over the installed app",
        "waiting_for_server": "the store or the broker is away and is asked again soon",
        "workflow_adopted": "a workflow that the store did not know was recorded from its message",
    }
)
