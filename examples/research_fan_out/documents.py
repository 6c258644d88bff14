"""The documents that are read: eight short texts on how animals find their way."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["DOCUMENTS", "Document"]


class Document(BaseModel):
    """A text with its title."""

    title: str
    text: str


TEXTS = {
    "Homing pigeons": (
        "A homing pigeon returns to its loft from several hundred kilometres away. "
        "On a clear day it takes its direction from the sun and allows for the time of day. "
        "Under thick cloud it still flies home, which speaks for a magnetic sense. "
        "Pigeons that cannot smell often get lost where they have never been. "
        "Close to the loft they follow roads and rivers that they know."
    ),
    "Sea turtles": (
        "A female turtle returns to the coast where she hatched to lay her eggs. "
        "Each stretch of coast has a magnetic field of its own, and the turtle seems to remember it. "
        "Hatchlings crawl towards the brightest part of the horizon, which at night is the open sea. "
        "Lamps behind a beach lead many of them the wrong way."
    ),
    "Salmon": (
        "Salmon hatch in a river, grow up in the ocean, and return to the same river to spawn. "
        "In the open sea a magnetic sense brings them near the coast. "
        "There they follow the smell of their river, which they learned when they were young. "
        "A few of them take another river, and so new ones are settled."
    ),
    "Honey bees": (
        "A bee that found flowers dances on the comb to tell the others where they are. "
        "The angle of her dance against the vertical is the angle between the flowers and the sun. "
        "The longer she waggles, the farther away are the flowers. "
        "If clouds hide the sun, a patch of blue sky is enough, because bees see how its light is polarised."
    ),
    "Desert ants": (
        "A desert ant looks for food on a winding path and then runs home in a straight line. "
        "It takes the direction from the polarised light of the sky. "
        "It measures the distance by its steps: ants on stilts run too far, and ants on stumps not far enough. "
        "Where there are no landmarks, the ant adds up every turn of the way."
    ),
    "Monarch butterflies": (
        "Each autumn monarchs fly up to 4000 kilometres to a few forests in Mexico. "
        "They keep to the south-west by the sun, and a clock in their antennae allows for its course. "
        "No butterfly makes the whole round trip: those that return in spring are children and grandchildren. "
        "The way is inherited, because nobody shows it to them."
    ),
    "Dung beetles": (
        "A dung beetle rolls its ball away from the heap in a straight line, so that no other beetle steals it. "
        "First it climbs onto the ball and looks around at the sky. "
        "By day it holds its course by the sun, and at night by the moon. "
        "On a night without moon the bright band of the Milky Way is enough."
    ),
    "Arctic terns": (
        "The Arctic tern flies from one end of the world to the other and back, up to 80000 kilometres in a year. "
        "It sees two summers each year, and more daylight than any other animal. "
        "Terns do not take the shortest way: they follow the winds over the ocean. "
        "How they know their direction there is not yet understood."
    ),
}

DOCUMENTS = [Document(title=title, text=text) for title, text in TEXTS.items()]
