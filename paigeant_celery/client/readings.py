"""What is read of a workflow from outside: its status, its waits and its result, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias, TypeVar, get_args

from pydantic import JsonValue

from paigeant_celery.activities.context import StepOutput
from paigeant_celery.core.about import AskedCall
from paigeant_celery.core.errors import UsageError
from paigeant_celery.core.flow import Failure, WorkflowState
from paigeant_celery.core.queries import CurrentState, Underway
from paigeant_celery.core.waits import WaitKind
from paigeant_celery.store.port import WorkflowOrigin

__all__ = [
    "AnswerOutcome",
    "Answered",
    "BranchState",
    "BranchStatus",
    "CurrentState",
    "GivenAnswer",
    "PendingWait",
    "Runner",
    "WaitingFor",
    "WorkflowResult",
    "WorkflowStatus",
]

T = TypeVar("T")

AnswerOutcome: TypeAlias = Literal["settled", "recorded", "answered", "late", "kept", "repeated"]
BranchState: TypeAlias = Literal["held", CurrentState]


@dataclass(frozen=True, kw_only=True)
class WaitingFor:
    """Something that a workflow waits for, without what would let a reader answer it.

    `kind` is `token` (an answer), `signal`, `time`, or `branches`: then `name` is the path of the block, and `branches`
    says how many of its branches are in which state. `tools` are those of the calls that are waited for. `path` is that
    of the step that waits, if it is in a branch.
    """

    kind: Literal["token", "signal", "time", "branches"]
    name: str = ""
    since: datetime | None = None
    until: datetime | None = None
    tools: tuple[str, ...] = ()
    path: str = ""
    branches: Mapping[BranchState, int] = field(default_factory=dict)

    def __str__(self) -> str:
        what = {"token": "an answer to", "signal": "the signal", "time": "", "branches": "the branches of"}[self.kind]
        named = f"{what} {self.name!r}" if what else "a time"
        if self.branches:
            named = f"{named} ({', '.join(f'{count} {state}' for state, count in self.branches.items())})"
        named = f"{named} (in {self.path})" if self.path else named
        tools = f" ({', '.join(self.tools)})" if self.tools else ""
        since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since is not None else ""
        until = f", until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until is not None else ""
        return f"{named}{tools}{since}{until}"


@dataclass(frozen=True, kw_only=True)
class PendingWait:
    """A wait that nobody has answered yet. Whoever has its `token` can answer it.

    `kind` is `token`, or `signal` if a signal of its `name` answers it, too. `calls` are the calls of tools that still
    need an answer, if it is about any, and `question` is what whoever answers is asked. It is given up at `until`.
    """

    token: str = field(repr=False)
    workflow: str
    hop_id: str
    step_id: str
    activity: str
    kind: WaitKind
    name: str
    question: str | None = field(repr=False)
    calls: tuple[AskedCall, ...]
    since: datetime
    until: datetime | None
    cursor: str = field(default="", repr=False)  # has the token, too


@dataclass(frozen=True, kw_only=True)
class GivenAnswer:
    """An answer that counts: its `payload` or, if it says that there will be none, why it `failed`."""

    payload: JsonValue = field(repr=False)
    failed: str | None = field(repr=False)
    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What an answer or a signal did.

    `outcome` is `settled` (the workflow goes on), `recorded` (the calls in `open` still need an answer), `answered`
    (somebody was faster, and this answer does not count), or `late` (the wait or its step had ended). That of a signal
    is `settled`, `kept` (for a wait to come) or `repeated` (it was taken before). `first` is the answer that counts for
    what was asked for here, and `answers` are all that the wait has, by the ids of calls; `""` is the wait itself.
    """

    outcome: AnswerOutcome
    first: GivenAnswer | None = None
    answers: Mapping[str, GivenAnswer] = field(default_factory=dict)
    open: tuple[str, ...] = ()

    @property
    def taken(self) -> bool:
        """Whether the answer or the signal counts, now or earlier."""
        return self.outcome not in ("answered", "late")


@dataclass(frozen=True, kw_only=True)
class BranchStatus:
    """Where a branch of a block stands.

    `path` is that of the block with the `name` of the branch, as in `readings/3`. `state` is `held` until the branch
    may begin, because only so many go on at the same time, and otherwise as that of a workflow; `cancelled` if the
    block or the workflow ended before it. `step_id` is that of its current step or, if it failed, of the one that did;
    it is None if nothing is known of that any more. `runner` is the process that runs it, or did until its lease
    ended. `branches` are those of the blocks in it.
    """

    path: str
    name: str
    state: BranchState
    step_id: str | None = None
    activity: str | None = None
    queue: str = ""
    attempt: int = 0
    failure: Failure | None = None
    retry_at: datetime | None = None
    waiting_for: tuple[WaitingFor, ...] = ()
    branches: tuple[BranchStatus, ...] = ()
    runner: Runner | None = None

    @property
    def block(self) -> str:
        """The path of its block."""
        return self.path.rpartition("/")[0]

    @property
    def step(self) -> str | None:
        """The path of its current step."""
        return f"{self.path}/{self.step_id}" if self.step_id is not None else None

    @property
    def needs_worker(self) -> bool:
        """Whether a worker must take its current step: it waits for one, or has lost its own."""
        is_lost = self.runner is not None and self.runner.lapsed_at is not None
        return self.state in ("queued", "retrying") or is_lost


@dataclass(frozen=True, kw_only=True)
class Runner:
    """The process that runs a step, and since when it does. `host` is the name of its machine, if that is known.

    `lapsed_at` is when its lease ended: the process is dead, or could not reach the store for so long. Another
    worker takes the step over. None while all is well.
    """

    host: str
    pid: int | None
    since: datetime | None
    lapsed_at: datetime | None = None

    @property
    def told(self) -> str:
        """Whether it runs the step or did, in words."""
        return f"{'runs' if self.lapsed_at is None else 'ran'} in {self}"

    def __str__(self) -> str:
        process = f"process {self.pid}" if self.pid is not None else "a process"
        where = f" on {self.host}" if self.host else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since is not None else ""
        over = f"; its lease ended at {self.lapsed_at:%Y-%m-%d %H:%M:%S} UTC" if self.lapsed_at is not None else ""
        return f"{process}{where}{since}{over}"


@dataclass(frozen=True, kw_only=True)
class WorkflowStatus:
    """Where a workflow stands.

    `state` is `queued` if its current step waits on `queue` for a worker, `running` if a worker runs it, and `retrying`
    if an attempt failed with `failure` and the next one begins after `retry_at`, `suspended` if it waits for what is in
    `waiting_for` and holds no worker. A step that runs may wait for something beside that. If it is `queued` with a
    `failure`, a worker could not read the step, because a newer version sent it; it is sent again at `retry_at`. The
    other states are `completed`, `failed`, `parked` (it waits for a person) and `cancelled`. `executed` and `remaining`
    are step ids; `usage` and `cost` are those of the executed steps, as in `WorkflowResult`.

    A workflow whose current step is a block is `suspended` while any of its branches goes on, and `parked` once none
    does without a person. `branches` are those of the blocks that run or have run, in their order, each with those in
    it; `failure` is that of the first parked one. The `path` of what is waited for in a branch says where.

    `stuck` says why nobody will run the current step, or one in a branch, if no worker serves its queue. `runner` is
    the process that runs it, or did until its lease ended. While it is queued, `ahead` is about how many messages of
    its queue are before its own, and `last_failure` is why its last attempt failed, if one did.

    Of a fork, `origin` says which `workflow` it was made of, and the `step` at which it begins. The steps before that
    are `executed`; their branches are those of the original, and not here.
    """

    correlation_id: str
    state: CurrentState
    step_id: str | None
    activity: str | None
    queue: str
    attempt: int
    executed: tuple[str, ...]
    remaining: tuple[str, ...]
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    retry_at: datetime | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None
    waiting_for: tuple[WaitingFor, ...] = ()
    branches: tuple[BranchStatus, ...] = ()
    origin: WorkflowOrigin | None = None
    stuck: str | None = None
    runner: Runner | None = None
    ahead: int | None = None
    last_failure: Failure | None = None

    @property
    def running(self) -> bool:
        """Whether a worker runs the current step."""
        return self.state == "running"

    @property
    def in_progress(self) -> bool:
        """Whether the workflow goes on by itself: it is queued, running, retrying or suspended."""
        return self.state in get_args(Underway)


@dataclass(frozen=True, kw_only=True)
class WorkflowResult:
    """What a completed workflow produced: the last `output`, all outputs by step id, and summed counters.

    Sleeps have none. Those of steps in branches are there by their paths, as in `readings/3/reader`, of all branches
    that are in the output of their block and have not failed.

    `cost` is in US dollars, for the model requests that pydantic-ai could price; None if it could price none.
    """

    output: JsonValue
    outputs: Mapping[str, JsonValue]
    status: WorkflowState
    usage: Mapping[str, int] = field(default_factory=dict)
    cost: Decimal | None = None
    steps: tuple[StepOutput, ...] = field(default=(), repr=False)

    def output_as(self, type_: type[T], *, step_id: str | None = None) -> T:
        """Return the last output, or that of a step by its id or its path, validated as `type_`."""
        for step in self.steps if step_id is not None else self.steps[-1:]:
            if step_id is None or step.step_id == step_id:
                return step.output_as(type_)
        raise UsageError(f"no step {step_id!r} in this result; there are {[step.step_id for step in self.steps]}")
