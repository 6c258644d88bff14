"""Django's own tests of the app: `python examples/django_project/manage.py test examples.django_project`.

They need no server: a view's dispatch is recorded in memory, and the test kit takes a workflow through its steps.
"""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.test import TestCase, TransactionTestCase
from pydantic_ai import ToolDenied

from examples.django_project.complaints.agents import clerk, correspondent, file_letter
from examples.django_project.complaints.models import Complaint, Payment
from examples.django_project.complaints.views import ComplaintForm
from examples.django_project.complaints.workflows import begin, handle_of
from paigeant_celery import AskedCall, UnknownWorkflow
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
