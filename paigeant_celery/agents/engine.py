"""What pydantic-ai and its capabilities may know of this engine."""

from __future__ import annotations

from pydantic_ai.durable_exec import JSON_CODEC, DurabilityEngineSpec

from paigeant_celery.agents.recorded_tools import METADATA_KEY
from paigeant_celery.core.errors import NotSerializable

__all__ = ["ENGINE"]

ENGINE = DurabilityEngineSpec(
    engine_name="Celery",
    durable_unit_noun="call",
    durable_container_noun="hop",
    codec=JSON_CODEC,
    serialization_failure=lambda error: NotSerializable(
        "result_not_serializable", f"a result has no JSON form ({type(error).__name__}), but is recorded"
    ),
    tool_config_key=METADATA_KEY,
)
