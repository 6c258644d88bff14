"""Django's own tests of the app: `python examples/django_project/manage.py test examples.django_project`.

They need no server: a view's dispatch is recorded in memory, and the test kit takes a workflow through its steps.
Where the store is away, the views ask one that really is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from socket import socket
from typing import Any
from unittest.mock import patch

from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import TestCase, TransactionTestCase
from pydantic_ai import ToolDenied

from examples.django_project.complaints import workflows
from examples.django_project.complaints.agents import clerk, correspondent, file_letter
from examples.django_project.complaints.models import Complaint, Payment
from examples.django_project.complaints.views import ComplaintForm
from examples.django_project.complaints.workflows import begin, handle_of
from paigeant_celery import AskedCall, Failure, UnknownWorkflow, WorkflowHandle, get_transport
from paigeant_celery.testing import WorkflowHarness

GIVEN = {"customer": "Ann", "text": "My kettle leaks: 39.90. I also want 180.00 back for the sofa."}


class ViewTests(TestCase):
    """What the views do, without a worker."""

    def test_a_complaint_begins_its_workflow_when_it_is_committed(self) -> None:
        with self.captureOnCommitCallbacks() as begun:
            answer = self.client.post("/", GIVEN)
        made = Complaint.objects.get()

        with self.assertRaises(UnknownWorkflow):
            handle_of(made).status_sync()
        for callback in begun:
            callback()

        status = handle_of(made).status_sync()
        self.assertRedirects(answer, f"/{made.pk}/")
        self.assertEqual(status.state, "queued")
        self.assertEqual(status.remaining, ("clerk", "correspondent", "file_letter"))
        self.assertContains(self.client.get(f"/{made.pk}/"), "waits for a worker")

    def test_a_complaint_that_is_rolled_back_begins_nothing(self) -> None:
        with self.captureOnCommitCallbacks() as begun, self.assertRaises(ZeroDivisionError), transaction.atomic():
            made = ComplaintForm(GIVEN).save()
            transaction.on_commit(lambda: begin(made))
            raise ZeroDivisionError

        self.assertEqual(begun, [])

    def test_a_workflow_is_begun_once_however_often_it_is_asked_for(self) -> None:
        made = ComplaintForm(GIVEN).save()

        begin(made)
        begin(made)

        self.assertEqual([event.type for event in handle_of(made).events_so_far()], ["started"])

    def test_only_whoever_may_pay_decides_and_cancels(self) -> None:
        made = ComplaintForm(GIVEN).save()
        begin(made)

        answers = [self.client.post(f"/{made.pk}/{what}/").status_code for what in ("answer", "cancel", "again")]

        self.assertEqual(answers, [403] * 3)
        self.assertEqual(handle_of(made).status_sync().state, "queued")

    def test_only_whoever_may_pay_reads_what_an_error_says(self) -> None:
        made = ComplaintForm(GIVEN).save()
        error = Failure(step_id="clerk", error_class="ValueError", text="the account of Ann is 12345")
        begin(made)
        for state in ("parked", "retrying", "failed"):
            standing = replace(handle_of(made).status_sync(), state=state, failure=error)
            with patch.object(WorkflowHandle, "status_sync", return_value=standing):
                self.client.logout()
                for_all = self.client.get(f"/{made.pk}/")
                self.client.force_login(payer())
                for_payers = self.client.get(f"/{made.pk}/")

            self.assertContains(for_all, "ValueError")
            self.assertNotContains(for_all, "12345")
            self.assertContains(for_payers, "12345")

    def test_a_store_that_is_away_is_said_on_the_page_whatever_is_pressed(self) -> None:
        made = ComplaintForm(GIVEN).save()
        self.client.force_login(payer())
        given = {"call": "1", "answer": "yes", "amount": "1.00"}

        with store_away():
            pressed = [self.client.post(f"/{made.pk}/{what}/", given) for what in ("answer", "cancel", "again")]
            looked = self.client.get(f"/{made.pk}/")

        for answer in (*pressed, looked):
            self.assertContains(answer, "The store does not answer", status_code=503)
            self.assertContains(answer, f'content="1; url=/{made.pk}/"', status_code=503)

    def test_a_complaint_that_comes_while_the_store_is_away_stays_and_is_begun_later(self) -> None:
        self.client.force_login(payer())
        with store_away(), self.assertLogs("django.test", "ERROR") as told:
            with self.captureOnCommitCallbacks(execute=True):
                sent = self.client.post("/", GIVEN)
            made = Complaint.objects.get()
            self.assertRedirects(sent, f"/{made.pk}/", target_status_code=503)

        self.assertIn("NotRecorded", told.output[0])
        self.assertContains(self.client.get(f"/{made.pk}/"), "Begin")
        self.client.post(f"/{made.pk}/again/")
        self.assertEqual(handle_of(made).status_sync().state, "queued")


@contextmanager
def store_away() -> Iterator[None]:
    """Let the views ask a store at a port of this machine at which nobody listens."""
    with socket() as held:
        held.bind(("127.0.0.1", 0))
        away = get_transport(f"redis://127.0.0.1:{held.getsockname()[1]}/0")
        with patch.object(workflows, "transport", away):
            yield


def payer() -> User:
    """Return somebody who may make payments."""
    made, _ = User.objects.get_or_create(username="Pat")
    made.user_permissions.add(Permission.objects.get(codename="add_payment"))
    return made


class WorkflowTests(TransactionTestCase):  # steps have connections of their own, which see what is committed
    """What the agents do, with the answers of a person."""

    async def test_each_refund_is_paid_as_was_decided(self) -> None:
        made = await Complaint.objects.acreate(**GIVEN)

        def decide(call: AskedCall) -> Any:
            assert isinstance(call.arguments, dict)
            return True if call.arguments["cents"] < 100_00 else ToolDenied("we repair it")

        steps = [clerk.activity(made.text), correspondent.activity("Write to Ann."), file_letter.activity()]
        await WorkflowHarness().run(steps, correlation_id=made.workflow, answers={"refund": decide})

        await made.arefresh_from_db()
        self.assertEqual([str(payment) async for payment in Payment.objects.all()], ["39.90 (My kettle leaks)"])
        self.assertIn("We cannot refund: 180.00", made.letter)
