"""The exhaustive search: it checks every state that the moves reach, and whether each of them comes to an end."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

from tests.proof.model.invariants import MOVE_INVARIANTS, STATE_INVARIANTS, has_ended
from tests.proof.model.moves import Budget, Label, State, canonical, first, moves
from tests.proof.model.records import Rules

__all__ = ["ENDLESS", "INVARIANTS", "STRANDED", "Finding", "Model", "Report", "TooMany", "explore", "search"]

S = TypeVar("S")
R = TypeVar("R")

# What must hold of the whole: without the adversary, the workflow ends, whatever happens next.
STRANDED = "stranded"  # a workflow that has not ended, and nothing moves it
ENDLESS = "endless"  # a way that never ends
INVARIANTS = frozenset({*STATE_INVARIANTS, *MOVE_INVARIANTS, STRANDED, ENDLESS})


MOST_STATES = 5_000_000  # about 5 GiB


class TooMany(Exception):
    """There are more states than fit into memory."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An invariant that does not hold, and one of the shortest ways to a state in which it does not."""

    invariant: str
    trace: tuple[Label, ...]

    def __str__(self) -> str:
        """Show the way, one move on each line."""
        return "\n".join((f"{self.invariant}: does not hold after", *(f"  {label}" for label in self.trace)))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a search found. It ends at the first finding."""

    states: int
    moves: Mapping[str, int]  # by their names
    workflows: Mapping[str, int]  # states of the model, by the state of the workflow
    seconds: float
    finding: Finding | None

    def __str__(self) -> str:
        """Show the figures and the finding."""
        workflows = ", ".join(f"{count} {workflow}" for workflow, count in self.workflows.items())
        figures = f"{self.states} states ({workflows}), {sum(self.moves.values())} moves, {self.seconds:.1f} s"
        return figures if self.finding is None else f"{figures}\n{self.finding}"


@dataclass(frozen=True, kw_only=True)
class Model(Generic[S, R]):
    """What is searched: states, how they follow each other under some rules, and what must hold of them."""

    rules: R
    first: S
    moves: Callable[[S, R], Iterator[tuple[Label, bool, S]]]
    canonical: Callable[[S], S]
    of_state: Mapping[str, Callable[[S, R], bool]]
    of_move: Mapping[str, Callable[[S, Label, S, R], bool]]
    has_ended: Callable[[S], bool]
    workflow: Callable[[S], str]


def search(rules: Rules, budget: Budget, *, watched: Collection[str] = INVARIANTS) -> Report:
    """Visit every state, breadth first, and report the first of the `watched` invariants that does not hold.

    Raises `TooMany`, because a mutant may have infinitely many states.
    """
    model = Model(
        rules=rules,
        first=first(rules, budget),
        moves=moves,
        canonical=canonical,
        of_state=STATE_INVARIANTS,
        of_move=MOVE_INVARIANTS,
        has_ended=has_ended,
        workflow=_workflow,
    )
    return explore(model, watched=watched)


def explore(model: Model[S, R], *, watched: Collection[str]) -> Report:
    """Visit every state of a model. Raises `TooMany`."""
    gc.disable()  # everything is kept or freed at once; looking for cycles would take a tenth of the time
    try:
        return _Search(model, watched).run()
    finally:
        gc.enable()


def _workflow(state: State) -> str:
    return state.store.workflow


class _Search(Generic[S, R]):
    def __init__(self, model: Model[S, R], watched: Collection[str]) -> None:
        self._model, self._rules, self._first, self._watched = model, model.rules, model.first, watched
        self._begun = time.monotonic()
        # A state's number is its place among the states found so far. They are visited in this order.
        self._states = [model.canonical(self._first)]
        self._numbers = {self._states[0]: 0}
        self._came_from = [0]
        self._fair: list[list[int]] = []  # for each state, its successors without the adversary
        self._moves: Counter[str] = Counter()

    def run(self) -> Report:
        moves, canonical = self._model.moves, self._model.canonical
        of_state = [check for check in self._model.of_state.items() if check[0] in self._watched]
        of_move = [check for check in self._model.of_move.items() if check[0] in self._watched]
        for number, state in enumerate(self._states):  # the list grows meanwhile
            for name, is_kept in of_state:
                if not is_kept(state, self._rules):
                    return self._report(name, number)
            follow: list[int] = []
            for label, adverse, after in moves(state, self._rules):
                self._moves[label.name] += 1
                for name, is_kept_by in of_move:
                    if not is_kept_by(state, label, after, self._rules):
                        return self._report(name, number)
                found = self._number_of(canonical(after), came_from=number)
                if not adverse:
                    follow.append(found)
            self._fair.append(follow)
        return self._look_for_ends()

    def _number_of(self, state: S, *, came_from: int) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            if number == MOST_STATES:
                raise TooMany(number)
            self._states.append(state)
            self._came_from.append(came_from)
        return number

    def _look_for_ends(self) -> Report:
        """Check that every way without the adversary reaches a state where nothing moves and the workflow has ended."""
        for number, follow in enumerate(self._fair):
            if STRANDED in self._watched and not follow and not self._model.has_ended(self._states[number]):
                return self._report(STRANDED, number)
        into = [0] * len(self._fair)
        for number in chain.from_iterable(self._fair):
            into[number] += 1
        begins = [number for number, count in enumerate(into) if not count]
        while begins:
            for number in self._fair[begins.pop()]:
                into[number] -= 1
                if not into[number]:
                    begins.append(number)
        on_circles = [number for number, count in enumerate(into) if count]
        if ENDLESS in self._watched and on_circles:
            return self._report(ENDLESS, on_circles[0])
        return self._report(None)

    def _report(self, invariant: str | None, number: int = 0) -> Report:
        return Report(
            states=len(self._states),
            moves=self._moves,
            workflows=Counter(map(self._model.workflow, self._states)),
            seconds=time.monotonic() - self._begun,
            finding=Finding(invariant=invariant, trace=self._trace(invariant, number)) if invariant else None,
        )

    def _trace(self, invariant: str, number: int) -> tuple[Label, ...]:
        """Follow the way again, with workers that keep their numbers, and add the move that breaks the invariant."""
        moves, canonical = self._model.moves, self._model.canonical
        way = [number]
        while way[-1]:
            way.append(self._came_from[way[-1]])
        labels, state = list[Label](), self._first
        for target in reversed(way[:-1]):
            steps = ((label, after) for label, _, after in moves(state, self._rules))
            label, state = next(step for step in steps if canonical(step[1]) == self._states[target])
            labels.append(label)
        if (is_kept_by := self._model.of_move.get(invariant)) is not None:
            steps = ((label, after) for label, _, after in moves(state, self._rules))
            labels.append(next(label for label, after in steps if not is_kept_by(state, label, after, self._rules)))
        return tuple(labels)
