"""Common English words, for local models that find out what a text is about."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ARTICLES", "EVERYDAY_WORDS", "PREPOSITIONS", "STOP_WORDS"]

# A noun follows these, with or without words that describe it.
ARTICLES = frozenset(
    "a an the my your his her its our their this these those every each no some any".split()  # noqa: SIM905
)
PREPOSITIONS = frozenset(
    "about against at between by for from in into of on over under with without".split()  # noqa: SIM905
)

# Words that say nothing about the subject of a text, numbers included.
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could did do does doing
    don't down each even every few for from get gets go goes got had has have he her here hers him his how i i'm if
    in into is isn't it it's its just like me more most much my no nor not now of off on once one only or other our
    out over own please really same she should so some such than that that's the their them then there these they
    this those through to too under until up us very want was we were what when where which while who whom why will
    with would you your yours
    two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand million half dozen
    """.split()  # noqa: SIM905 - shorter than as many literals
)

VERBS = """
    accept add agree allow answer appear arrive ask become begin believe belong bring buy call carry catch cause change
    choose close collect come contain continue cost cut decide deliver die eat end enjoy enter exist expect explain
    fail fall feel fill find finish follow forget gather give grow happen hate hear help hold hope improve include
    increase join keep kill know laugh learn leave let listen live look lose love make mean miss move need notice open
    pay pick prefer prepare pull push put reach read receive remain remember remove repeat reply return run say seem
    sell send serve show sit sleep speak spend stand start stay steal stop take talk teach tell think throw touch try
    turn understand use visit wait wake walk watch wear work wonder write
    """.split()  # noqa: SIM905 - shorter than as many literals


def _forms(verb: str) -> Iterator[str]:
    """Yield the regular forms of a verb, also with its last letter doubled or dropped."""
    yield from (verb, f"{verb}s")
    if verb.endswith("e"):
        yield from (f"{verb}d", f"{verb[:-1]}ing")
    elif verb.endswith("y"):
        yield from (f"{verb[:-1]}ies", f"{verb[:-1]}ied", f"{verb}ed", f"{verb}ing")
    else:
        yield from (f"{verb}es", f"{verb}ed", f"{verb}ing", f"{verb}{verb[-1]}ed", f"{verb}{verb[-1]}ing")


# What anything may do or be; such words say little about the subject of a text.
EVERYDAY_WORDS = frozenset(form for verb in VERBS for form in _forms(verb)) | frozenset(
    """
    able again ago almost alone already although among another away bad became been began begun best better big bigger
    both bought bring broke broken brought built came cannot caught cheap chose chosen cold dead different dying early
    easy either else enough everybody everyone everything expensive fallen far fast fell felt finally fine first forgot
    forgotten found free full funny gave given gone good great grew grown happy hard heard held hello hi high hot
    however huge instead kept knew known large last late later least led left less long lost lot lots low made main
    many may maybe meant met might must near nearly neither never new next nice nobody none nothing often old paid
    perhaps poor possible pretty quick quite ran rather ready real recent rich right sad said sat saw second see seeing
    seen seldom sees sent several shall short sick since slept slow slower small sold someone something sometimes soon
    spent spoke spoken stole stolen stood strange strong sure taken taught thank thanks thing things thought threw
    thrown today together told tomorrow took true understood unless upon usual weak weird well went whether whole whose
    wise woke wore worn worse worst wrong wrote written yes yesterday yet young
    """.split()  # noqa: SIM905 - shorter than as many literals
)
