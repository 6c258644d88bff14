"""The local models of this example: they find a topic, play with its words and choose by ear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, takewhile

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo

from examples.common_words import ARTICLES, EVERYDAY_WORDS, PREPOSITIONS, STOP_WORDS
from examples.local_models import answer, keywords, previous_output, prompt_of, words
from examples.three_agents.outputs import Jokes, Selection, Topic

__all__ = ["choose_joke", "find_topic", "write_jokes"]

VOWELS = "aeiouyäöüàáâèéêëìíîïòóôùúûæø"
SHORT_WORDS = """
    ant arm art bat bed bee bin bug bus can car cat cow cup day den dog ear egg elf end eye fan fin fox gas gin god
    gun ham hat hen ice ink jam jar key kid leg lie lip lot man mat mess mine nap net nut oil owl pan pat pen pet pie
    pig pin pit pot rag ram rat rib ring rose rum sea sin sock son star sun tax tea ten tie tin toe top toy urn van
    war wax web win wine wit yak zoo
""".split()  # noqa: SIM905 - shorter than as many literals
RHYMES = """
    accountant balloon banana baboon bear beer boat bread bride bridge broom bucket button cactus cake candle canoe car
    carrot castle chair cheese chicken clown coat coconut coffee comedian committee cookie couch crocodile cushion
    daughter dinosaur doctor donkey door dragon duck elephant engine explosion fence ferry fiddle flamingo fountain
    freezer garage gherkin ghost giraffe gorilla guitar hammer hat hedge holiday honey hotel intention jelly judge
    kangaroo kitchen kitten lemon lettuce lobster lotion lunch magician mattress meeting mitten monkey moon mouse
    muffin mustard napkin nation noodle ocean onion opera oven owl pancake parade parrot party peanut penguin piano
    pickle pigeon pillow pirate pizza plumber poodle potato pretzel pudding puppet rabbit rain raincoat raisin
    riddle rocket sailor salad sandwich sausage scooter season sheep shower singer slipper snail soup spider spoon
    statue stew stocking sunday surprise table teacher thunder ticket toaster toffee tomato trombone trousers tuba
    turkey uncle vacation vampire violin waiter walrus warning wedding wig window witch wizard yodel zebra
""".split()  # noqa: SIM905 - shorter than as many literals


def find_topic(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Take the most frequent word and up to four runners-up; among equals, things come first."""
    text = prompt_of(messages)
    counts, things = keywords(text, most=50), _things(text)
    topic, *related = sorted(counts, key=lambda word: (-counts[word], word not in things))[:5]
    return answer(info, Topic(topic=topic, related=related))


def write_jokes(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Write a joke with each of the first three tricks that the words allow."""
    topic = previous_output(messages, Topic)
    made = [joke for joke, _ in zip(_jokes(topic.topic, topic.related), range(3), strict=False)]
    return answer(info, Jokes(jokes=made))


def choose_joke(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Choose the joke with the most words that sound alike, relative to its length."""
    jokes = previous_output(messages, Jokes).jokes
    scores = [_echo(joke) / len(words(joke)) for joke in jokes]
    best = max(range(len(jokes)), key=scores.__getitem__)
    reason = f"{_echo(jokes[best])} echoing sounds in {len(words(jokes[best]))} words"
    return answer(info, Selection(number=best + 1, reason=reason))


def _jokes(topic: str, related: list[str]) -> Iterator[str]:
    """Yield jokes, those that play with two words first; the last three work with any single word."""
    for other in related:
        if (swapped := _spoonerism(topic, other)) is not None:
            yield f"I asked for {topic} and {other}. I got {swapped[0]} and {swapped[1]}."
            break
    for other in (*related[1:], *related[:1]):
        if (blend := _portmanteau(topic, other)) is not None:
            yield f"What do you get when you cross {topic} with {other}? {blend.capitalize()}."
            break
    for word in (topic, *related):
        if (inside := _hidden(word)) is not None:
            yield f"Look closely at {word}: there is {_a(inside)} hiding in it."
            break
    if (rhyme := _rhyme(topic)) is not None:
        yield f"Never mix {topic} with {rhyme}. It rhymes, but nobody else laughs."
    if (typo := _typo(topic)) is not None:
        yield f"One wrong letter, and your {topic} is {_a(typo)}."
    back, reader = topic[::-1], related[0] if related else "the mirror"
    yield f"Read {topic} backwards and you get {back}: " + (
        "it looks the same when it leaves." if back == topic else f"that is how {reader} spells it."
    )
    half, rest = topic[: (len(topic) + 1) // 2].capitalize(), topic[(len(topic) + 1) // 2 :]
    yield f"Knock, knock. Who is there? {half}. {half} who? " + (
        f"{half}, and I forgot the {rest}." if rest else f"{half}, that is all of me."
    )
    tidy = "".join(sorted(topic))
    yield f"I put the letters of {topic} in order: " + (
        "nobody noticed." if tidy == topic else f"now I have {tidy}, and {reader} is jealous."
    )


def _things(text: str) -> set[str]:
    """Return words that are likely nouns: the last word after an article or a preposition, as in *the tea pot*."""
    things = set()
    for part in re.split(r"[^\w\s'\u2019-]+", text):
        found = words(part)
        for start, word in enumerate(found):
            if word not in ARTICLES | PREPOSITIONS:
                continue
            phrase = list(takewhile(_is_telling, found[start + 1 :]))
            behind = found[start + 1 + len(phrase) :][:1]
            if len(phrase) > 1 and (set(behind) & ARTICLES or phrase[-1].endswith(("ed", "ing"))):
                phrase.pop()  # a verb: *the cat conquered the fridge*
            things.update(phrase[-1:])
    return things


def _is_telling(word: str) -> bool:
    return word not in STOP_WORDS and word not in EVERYDAY_WORDS


def _spoonerism(first: str, second: str) -> tuple[str, str] | None:
    """Swap the letters before the first vowels: coffee machine, moffee cachine."""
    a, b = _onset(first), _onset(second)
    if a == b or not 0 < len(a) < len(first) - 1 or not 0 < len(b) < len(second) - 1:
        return None
    return b + first[len(a) :], a + second[len(b) :]


def _portmanteau(first: str, second: str) -> str | None:
    """Join the front of one word to the rear of the other: straw(berries) (g)arden."""
    cut = (len(first) + 1) // 2
    while cut < len(first) and first[cut - 1] in VOWELS:
        cut += 1
    front, rear = first[:cut], second[len(_onset(second)) :]
    return front + rear if len(front) > 1 and len(rear) > 1 and front + rear not in {first, second} else None


def _hidden(word: str) -> str | None:
    return next((short for short in sorted(SHORT_WORDS, key=len, reverse=True) if short in word[1:]), None)


def _rhyme(word: str) -> str | None:
    """Return the noun that shares the longest ending with a vowel in it, in the word's number."""
    plural = "s" if word.endswith("s") else ""
    single = word.removesuffix("s")
    best = max((noun for noun in RHYMES if noun not in word), key=lambda noun: len(_ending(single, noun)))
    ending = _ending(single, best)
    if len(ending) < 2 or not any(letter in VOWELS for letter in ending):
        return None
    return f"{best}s" if plural else _a(best)


def _typo(word: str) -> str | None:
    """Return a noun that differs from the word in one letter."""
    nouns = (noun for noun in (*SHORT_WORDS, *RHYMES) if len(noun) == len(word) > 2)
    return next((noun for noun in nouns if sum(a != b for a, b in zip(word, noun, strict=True)) == 1), None)


def _echo(text: str) -> int:
    """Count the letters that pairs of different words share at their beginning or end, if at least two."""
    pairs = combinations(dict.fromkeys(words(text)), 2)
    shared = (max(len(_beginning(a, b)), len(_ending(a, b))) for a, b in pairs)
    return sum(size for size in shared if size >= 2)


def _beginning(first: str, second: str) -> str:
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(letter for letter, _ in shared)


def _ending(first: str, second: str) -> str:
    return _beginning(first[::-1], second[::-1])[::-1]


def _onset(word: str) -> str:
    return word[: next((at for at, letter in enumerate(word) if letter in VOWELS), len(word))]


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
