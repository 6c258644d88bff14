"""The buttons: retry, cancel, approve, deny and answer, for those whom Flower has let in by name."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import JsonValue
from tornado.web import HTTPError, authenticated

from paigeant_celery.client.handle import WorkflowHandle
from paigeant_celery.client.readings import Answered
from paigeant_celery.core.errors import InvalidInput, MessageError
from paigeant_celery.core.jsonable import loads
from paigeant_celery.core.wait_errors import InvalidAnswer, UnknownWait
from paigeant_celery.flower.reading import name_of_wait
from paigeant_celery.flower.workflow import OneWorkflow

__all__ = ["Act"]

NO_SIGN_IN = "Flower asks nobody to sign in, so nothing can be changed here; configure `basic_auth` or `auth`"
READ_ONLY = "Flower is read-only"

logger = logging.getLogger(__name__)


class Act(OneWorkflow):
    """What a button does; then the browser gets the page again."""

    @authenticated
    async def post(self, correlation_id: str, action: str) -> None:
        """Do it, and lead back to the page; what is wrong with an answer is said there."""
        self.check_not_forged()
        if not self.may_act:
            raise HTTPError(403, READ_ONLY if self.signs_in else NO_SIGN_IN)
        try:
            asked = self._asked(action)
            done = await self.ask(lambda transport: asked(WorkflowHandle(correlation_id, transport)))
        except (InvalidAnswer, InvalidInput, MessageError) as error:
            self.set_status(400)
            await self.show_workflow(correlation_id, refused=str(error))
            return
        text, fields = "%s of workflow %s: %s", {"correlation_id": correlation_id, "asked": action, "by": self.person}
        logger.info(text, action, correlation_id, done, extra={"action": "page_acted", **fields})
        self.redirect(f"{self.reverse_url('workflow', correlation_id)}?done={done}", status=303)

    def _asked(self, action: str) -> Callable[[WorkflowHandle], str]:
        """Return what the form asks for; its fields are read here, on the event loop."""
        if action == "cancel":
            return lambda handle: "cancelled" if handle.cancel_sync() else "ended"
        if action == "retry":
            path, discard = self._field("path") or None, self._field("discard_journal") == "on"
            return lambda handle: "goes_on" if handle.redrive_sync(path, discard_journal=discard) else "not_parked"
        name, call, by, text = self._field("wait"), self._field("call") or None, self.person, self._field("text")
        match action:
            case "approve":
                return _answering(name, lambda handle, token: handle.approve_sync(token, call, by=by))
            case "deny":
                return _answering(
                    name, lambda handle, token: handle.deny_sync(token, call, message=text or None, by=by)
                )
        form = self._field("as")
        if form == "failed":
            return _answering(name, lambda handle, token: handle.fail_sync(token, text, by=by))
        payload = text if form == "text" else _json(text)
        answer = payload if call is None else {"calls": {call: payload}}
        return _answering(name, lambda handle, token: handle.resolve_sync(token, answer, by=by))

    def _field(self, name: str) -> str:
        return self.get_body_argument(name, "") or ""


def _answering(name: str, answer: Callable[[WorkflowHandle, str], Answered]) -> Callable[[WorkflowHandle], str]:
    def do(handle: WorkflowHandle) -> str:
        try:
            for wait in handle.pending_sync():
                if name_of_wait(wait) == name:
                    return answer(handle, wait.token).outcome
        except UnknownWait:
            pass
        return "unknown_wait"

    return do


def _json(text: str) -> JsonValue:
    """Read an answer. Raises `InvalidAnswer` with the remedy if it is no JSON."""
    try:
        return loads(text, invalid="invalid_answer")
    except MessageError as error:
        raise InvalidAnswer("invalid_answer", "answer", f'{error.text}; write a text as "so"') from None
