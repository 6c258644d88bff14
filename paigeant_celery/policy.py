"""How long a step may run and how often it is claimed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paigeant_celery.errors import InvalidInput
from paigeant_celery.jsonable import first_fault

__all__ = ["StepPolicy"]


class StepPolicy(BaseModel):
    """Limits of one step; what is None comes from the activity's own policy, then from the settings.

    `timeout` is in seconds of one attempt: the run is cancelled and the step fails with `TimeoutError`.
    `max_attempts` counts how often a hop may be begun, the first time included.

    Raises `InvalidInput` (`invalid_policy`).
    """

    # It travels: limits of a newer minor version are kept when the message is forwarded.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    timeout: float | None = Field(default=None, gt=0, le=30 * 86400, allow_inf_nan=False, strict=True)
    max_attempts: int | None = Field(default=None, ge=1, le=1000, strict=True)

    def __init__(self, *, timeout: float | None = None, max_attempts: int | None = None) -> None:
        try:
            super().__init__(timeout=timeout, max_attempts=max_attempts)
        except ValidationError as error:
            place, _, text = first_fault(error)
            raise InvalidInput("invalid_policy", str(place[0]), text) from None

    # Validation of a message fills the fields itself; the signature above would refuse what it does not know.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def over(self, default: StepPolicy | None) -> StepPolicy:
        """Return this policy with what it leaves open filled in from `default`."""
        if default is None:
            return self
        return StepPolicy(
            timeout=self.timeout if self.timeout is not None else default.timeout,
            max_attempts=self.max_attempts if self.max_attempts is not None else default.max_attempts,
        )
