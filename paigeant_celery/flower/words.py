"""How values are written on a page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue
from pydantic_core import to_json

__all__ = ["ago", "bytes_of", "cost_of", "cut", "lasted", "moment", "text_of", "tokens_of", "used"]

UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
KILO = 1024


def moment(at: datetime) -> str:
    """Return a time as people compare it with a log."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago something was, or in how much time it will be."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"{_long(seconds)} ago" if seconds > 0 else f"in {_long(-seconds)}"


def lasted(time: timedelta) -> str:
    """Return how long something took."""
    seconds = max(0.0, time.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < UNITS[-1][0]:
        return f"{seconds:.1f} s"
    return _long(seconds)


def _long(seconds: float) -> str:
    """Return the two largest parts of a time."""
    left, parts = int(seconds), list[str]()
    for size, unit in (*UNITS, (1, "s")):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def bytes_of(size: int) -> str:
    """Return a size."""
    if size < KILO:
        return f"{size} B"
    return f"{size / KILO:.1f} KiB" if size < KILO * KILO else f"{size / KILO / KILO:.1f} MiB"


def tokens_of(usage: Mapping[str, int]) -> int | None:
    """Return the tokens that were read and written; None if no model was asked."""
    counted = [usage[name] for name in ("input_tokens", "output_tokens") if name in usage]
    return sum(counted) if counted else None


def used(usage: Mapping[str, int]) -> str:
    """Return all counters."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in usage.items())


def cost_of(cost: Decimal | None) -> str:
    """Return a cost in US dollars; four decimals, or as many as it takes to show that it is not nothing."""
    if cost is None:
        return ""
    rounded = f"${cost:.4f}"
    return rounded if not cost or cost >= Decimal("0.0001") else f"${cost.normalize():f}"


def text_of(value: JsonValue) -> str:
    """Return an output as text: a text as it is, anything else as indented JSON."""
    return value if isinstance(value, str) else to_json(value, indent=2, inf_nan_mode="strings").decode()


def cut(text: str, most: int) -> str:
    """Return the beginning of a text that is longer than so many characters."""
    return text if len(text) <= most else f"{text[:most]}…"
