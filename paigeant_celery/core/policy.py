"""How long a step may run, how often it is begun, and which of its errors are retried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paigeant_celery.core.errors import InvalidInput
from paigeant_celery.core.jsonable import first_fault
from paigeant_celery.core.names import MAX_ATTEMPTS

__all__ = ["StepPolicy"]


ErrorName = Annotated[str, Field(min_length=1, max_length=128)]


class StepPolicy(BaseModel):
    """Limits of one step; what is None comes from the activity's own policy, then from the settings.

    `timeout` is in seconds of one attempt: the run is cancelled, and the attempt failed with `TimeoutError`.
    `max_attempts` counts how often a hop may be begun, the first time included; an attempt whose worker died counts.
    `backoff` is in seconds before the second attempt; it doubles with each further one, up to five minutes.
    `retry_on` and `final_on` name classes of errors (a subclass counts): those that alone are retried, and those that
    never are. Without `retry_on` all are, but for those where another attempt would end in the same way.

    Raises `InvalidInput` (`invalid_policy`).
    """

    # It travels: limits of a newer minor version are kept when the message is forwarded.
    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    timeout: float | None = Field(default=None, gt=0, le=30 * 86400, allow_inf_nan=False, strict=True)
    max_attempts: int | None = Field(default=None, ge=1, le=MAX_ATTEMPTS, strict=True)
    backoff: float | None = Field(default=None, ge=0, le=86400, allow_inf_nan=False, strict=True)
    retry_on: tuple[ErrorName, ...] | None = None
    final_on: tuple[ErrorName, ...] | None = None

    def __init__(
        self,
        *,
        timeout: float | None = None,
        max_attempts: int | None = None,
        backoff: float | None = None,
        retry_on: Iterable[str | type[BaseException]] | None = None,
        final_on: Iterable[str | type[BaseException]] | None = None,
    ) -> None:
        try:
            super().__init__(
                timeout=timeout,
                max_attempts=max_attempts,
                backoff=backoff,
                retry_on=_names(retry_on),
                final_on=_names(final_on),
            )
        except ValidationError as error:
            place, _, text = first_fault(error)
            raise InvalidInput("invalid_policy", str(place[0]), text) from None

    # Validation of a message fills the fields itself; the signature above would refuse what it does not know.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def over(self, default: StepPolicy | None) -> StepPolicy:
        """Return this policy with what it leaves open filled in from `default`."""
        if default is None:
            return self
        given = {name: value for name in _OWN if (value := getattr(self, name)) is not None}
        return StepPolicy(**{**{name: getattr(default, name) for name in _OWN}, **given})


_OWN = tuple(StepPolicy.model_fields)


def _names(errors: Iterable[str | type[BaseException]] | None) -> tuple[object, ...] | None:
    """Return the names of classes of errors: what crosses a queue is JSON."""
    if errors is None:
        return None
    if isinstance(errors, (str, type)):
        raise InvalidInput("invalid_policy", "retry_on", "is a list of classes of errors, or of their names")
    return tuple(error.__name__ if isinstance(error, type) else error for error in errors)
