"""Finding claims in a text, and checking what can be checked without a source."""

from __future__ import annotations

import re
from datetime import date
from operator import add, mul, sub

from examples.local_models import sentences

__all__ = ["checked", "claims_in"]

NUMBER = re.compile(r"(?<![\w.])\d[\d,.]*(?<![,.])")
ABSOLUTE = re.compile(
    r"\b(all|always|best|biggest|every|everybody|fastest|first|largest|never|nobody|only|worst)\b", re.I
)
# Two whole numbers and their result; not part of a longer sum, of a decimal number or of one like 250,000. The bound
# on their digits keeps them below the 4300 from which Python refuses to read a number.
EQUATION = re.compile(
    r"(?<![\d.,*+-])(?<![*+-]\s)(\d{1,18})\s*(\+|-|plus|minus|times|x|\*)\s*(\d{1,18})"
    r"\s*(?:=|is|are|makes)\s*(\d{1,36})(?!\d|[.,]\d)",
    re.I,
)
PERCENTAGE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:%|percent)\s+of\b", re.I)
YEAR = re.compile(r"\b(?:in|since|until|by)\s+(\d{4})\b", re.I)
OPERATIONS = {"+": add, "plus": add, "-": sub, "minus": sub, "*": mul, "x": mul, "times": mul}


def claims_in(text: str) -> list[str]:
    """Return the sentences that state a number or an absolute."""
    return [sentence for sentence in sentences(text) if NUMBER.search(sentence) or ABSOLUTE.search(sentence)]


def checked(claim: str, *, today: date) -> str:
    """Say what is wrong with a claim, or what it would take to prove it."""
    equations = EQUATION.findall(claim)
    for left, sign, right, stated in equations:
        actual = OPERATIONS[sign.lower()](int(left), int(right))
        if actual != int(stated):
            return f"wrong: {left} {sign} {right} is {actual}"
    if equations:
        return "correct"
    if any(float(percentage) > 100 for percentage in PERCENTAGE.findall(claim)):
        return "impossible: more than 100 percent of something"
    if future := [year for year in YEAR.findall(claim) if int(year) > today.year]:
        return f"a forecast: {future[0]} is still to come"
    if numbers := NUMBER.findall(claim):
        return f"needs a source for {', '.join(numbers)}"
    return "an absolute: one counterexample refutes it"
