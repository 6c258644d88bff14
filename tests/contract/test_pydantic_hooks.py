"""What we build on in pydantic that is not promised."""

from __future__ import annotations

from pydantic import BaseModel, PrivateAttr


class Private(BaseModel):
    _seen: int = PrivateAttr(default=0)


class Own(BaseModel):
    def model_post_init(self, context: object) -> None: ...


def test_private_attributes_are_set_by_a_function_of_pydantics_that_has_a_name() -> None:
    """Otherwise a model with code of its own would be taken for one that is known to come back as it was."""
    assert getattr(Private.model_post_init, "__name__", "") == "init_private_attributes"
    assert getattr(Own.model_post_init, "__name__", "") == "model_post_init"
