"""What is kept of a complaint. Where its workflow stands is in the store, and is asked there."""

from __future__ import annotations

import uuid

from django.db import models

__all__ = ["Complaint", "Payment"]


class Complaint(models.Model):
    """What a customer writes, and the letter that answers it. Its key is also the id of its workflow."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    customer = models.CharField(max_length=80)
    text = models.TextField(max_length=10_000)
    letter = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.customer}: {self.text[:40]}"

    @property
    def workflow(self) -> str:
        """The id of its workflow, which is a string."""
        return str(self.pk)


class Payment(models.Model):
    """Money that a customer got back."""

    complaint = models.ForeignKey(Complaint, on_delete=models.CASCADE, related_name="payments")
    key = models.CharField(max_length=128, unique=True)  # the same in each attempt of the call that pays
    cents = models.PositiveIntegerField()
    reason = models.TextField()
    paid_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("paid_at",)

    def __str__(self) -> str:
        return f"{self.euros} ({self.reason})"

    @property
    def euros(self) -> str:
        """The amount as people write it."""
        return f"{self.cents // 100}.{self.cents % 100:02}"
