"""Refunds in a text: what the user writes decides who is to get how much."""

from __future__ import annotations

import re

from pydantic import BaseModel

__all__ = ["LIMIT", "Refund", "Settled", "euros", "refunds_in"]

LIMIT = 100_00  # cents; what is more needs an approval

# An amount has a currency or cents; in a text without any such, each number is one that is no number of something.
MONEY = re.compile(
    r"(?:(?:EUR|USD|[€$£])\s?(\d[\d,]*(?:\.\d{1,2})?)|(\d[\d,]*\.\d{2})(?!\d|\.\d)"
    r"|(?<![\d.,])(\d[\d,]*(?:\.\d{1,2})?)\s?(?:EUR|USD|[€$£]|euros?\b|dollars?\b))",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<![\w.,#])(\d[\d,]*(?:\.\d{1,2})?)(?![\w%])()()")
OF_SOMETHING = re.compile(r"(?:order|invoice|number|no\.?|#)\s*$", re.IGNORECASE)
CLAUSE_END = re.compile(r"[;!?\n]|,(?!\d)|\.(?!\d)|\band\b", re.IGNORECASE)
MOST_DIGITS = 9  # nobody gets a billion back


class Refund(BaseModel):
    """Money that somebody wants back: what the text says about it, and how much."""

    reason: str
    cents: int


class Settled(BaseModel):
    """What became of each refund."""

    paid: list[str]
    refused: list[str]


def euros(cents: int) -> str:
    """Return an amount as people write it."""
    return f"{cents // 100}.{cents % 100:02}"


def refunds_in(text: str) -> list[Refund]:
    """Return the refunds that a text asks for, one for each amount, with the clause in which it stands."""
    found = list(MONEY.finditer(text)) or [
        number for number in NUMBER.finditer(text) if OF_SOMETHING.search(text[: number.start()]) is None
    ]
    refunds = []
    for amount in found:
        whole, _, rest = next(filter(None, amount.groups())).replace(",", "").partition(".")
        cents = int(whole[:MOST_DIGITS]) * 100 + int(rest.ljust(2, "0"))
        if cents > 0 and len(whole) <= MOST_DIGITS:
            refunds.append(Refund(reason=_clause(text, amount), cents=cents))
    return refunds


def _clause(text: str, amount: re.Match[str]) -> str:
    """Return the words around an amount, without it."""
    begin = max((end.end() for end in CLAUSE_END.finditer(text, 0, amount.start())), default=0)
    after = CLAUSE_END.search(text, amount.end())
    words = " ".join(f"{text[begin : amount.start()]} {text[amount.end() : after.start() if after else None]}".split())
    return words.strip(" :,-") or "no reason given"
