"""Captions of scenes, their closed vocabulary, and a word-level tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mar_accel.data.scenes import CHECKS, COLOURS, GRAIN, PLAIN, STRIPES, Scene, SceneObject
from mar_accel.errors import DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = ("zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines")
# Possible beginnings of a caption.
OPENINGS = ("", "", "a photo of ", "a picture of ", "there is ")
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
BACKGROUNDS = {
    PLAIN: ("on a {0} background", "on a plain {0} background", "on {0}"),
    STRIPES: ("on a {0} striped background", "on {0} stripes", "on a striped {0} background"),
    CHECKS: ("on a {0} checked background", "on {0} checks", "on a checked {0} background"),
    GRAIN: ("on a {0} grainy background", "on {0} grain", "on a grainy {0} background"),
}
PAD, END = "<pad>", "</s>"
# Never change this order: trained models identify words by their index. Padding is first and the end token
# second, as in T5.
VOCABULARY = (
    PAD, END, "a", "an", "and", "the", "of", "to", "on", "there", "is", "are", "photo", "picture",
    "left", "right", "above", "over", "top", "below", "under", "beneath", "background", "plain", "striped",
    "stripes", "checked", "checks", "grainy", "grain", "red", "green", "blue", "yellow", "purple", "white",
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zeros", "ones", "twos",
    "threes", "fours", "fives", "sixes", "sevens", "eights", "nines",
)  # fmt: skip
_IDS = {word: number for number, word in enumerate(VOCABULARY)}
# The longest caption has 21 words and the end token.
MAX_LENGTH = 24


def caption(scene: Scene, rng: np.random.Generator, reading_order: float = 0.5) -> str:
    """A random caption of a scene, for example "a red three to the left of a blue seven".

    It always contains the subject of the category. Other colours and the background are optional.

    Args:
        scene: what the caption is about.
        rng: source of all draws.
        reading_order: probability that the left or upper object of a pair is named first, where the caption
            says where it is. Else it always is: no other word would tell the places of the two.
    """
    opening = OPENINGS[rng.integers(len(OPENINGS))]
    colours = scene.category in ("colors", "color_attr")
    if scene.category in ("position", "counting"):
        colours = bool(rng.random() < 0.6)
    words = _objects(scene, colours, reading_order, rng)
    if opening == "there is " and scene.category == "counting":
        opening = "there are "
    if rng.random() < 0.7:
        phrases = BACKGROUNDS[scene.pattern]
        words += " " + phrases[rng.integers(len(phrases))].format(scene.background)
    return opening + words


def _objects(scene: Scene, colours: bool, reading_order: float, rng: np.random.Generator) -> str:
    first, last = scene.objects[0], scene.objects[-1]
    if len(scene.objects) == 1:
        return _noun(first, colours)
    if scene.category == "counting":
        colour = f"{first.colour} " if colours else ""
        return f"{DIGITS[len(scene.objects)]} {colour}{PLURALS[first.digit]}"
    relation = scene.relation
    in_order = first.column + first.row < last.column + last.row
    named_first = reading_order if relation else 1.0
    if rng.random() < (1 - named_first if in_order else named_first):
        first, last, relation = last, first, OPPOSITES.get(relation, "")
    joint = RELATIONS[relation][rng.integers(3)] if relation else "and"
    return f"{_noun(first, colours)} {joint} {_noun(last, colours)}"


def _noun(item: SceneObject, colour: bool) -> str:
    words = f"{item.colour} {DIGITS[item.digit]}" if colour else DIGITS[item.digit]
    return f"{'an' if words.startswith('eight') else 'a'} {words}"


# Classes of words: of the first or the second object of a caption, or of the background.
FIRST, SECOND, BACKGROUND = range(3)
NUM_WORD_CLASSES = 3
# The class of all other words, which PyTorch's losses leave out.
NO_CLASS = -100


def word_classes(ids: Tensor) -> Tensor:
    """Classes of the words of captions, int64 [B, N]: which object a colour or a digit belongs to.

    Args:
        ids: word ids [B, N].

    Example:
        >>> word_classes(tokenize(["a red three and a six on blue"]))[0, :9].tolist()
        [-100, 0, 0, -100, -100, 1, -100, 2, -100]
    """
    classes = [_classes_of([VOCABULARY[number] for number in row]) for row in ids.tolist()]
    return torch.tensor(classes, dtype=torch.int64)


def _classes_of(words: Sequence[str]) -> list[int]:
    # "two fives" and "two red fives" have a number in front of their digit.
    counts = {
        i for i, word in enumerate(words) if word in DIGITS and set(words[i + 1 : i + 3]) & set(PLURALS)
    }
    nouns = [i for i, word in enumerate(words) if word in (*DIGITS, *PLURALS) and i not in counts]
    classes = [NO_CLASS] * len(words)
    for i, word in enumerate(words):
        if word in COLOURS:
            classes[i] = BACKGROUND
    for number, i in enumerate(nouns):
        for place in (i, i - 1):
            if place == i or words[place] in COLOURS:
                classes[place] = (FIRST, SECOND)[min(number, 1)]
    return classes


def unknown_words(text: str) -> list[str]:
    """Words of a text that are not in the vocabulary, in order."""
    return [word for word in _words(text) if word not in _IDS]


def nearest_word(word: str) -> str:
    """The word of the vocabulary that is spelt most like another word."""
    known = [other for other in VOCABULARY if other not in (PAD, END)]
    return difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.0)[0]


def cut(text: str) -> str:
    """The words of a text that ``tokenize`` cuts off; "" if there are none."""
    return " ".join(_words(text)[MAX_LENGTH - 1 :])


def tokenize(texts: Sequence[str]) -> Tensor:
    """Convert texts to word ids, int64 [B, 24]: at most 23 words, an end token, and padding.

    Raises:
        DataError: a word is not in the vocabulary.

    Example:
        >>> tokenize(["a red three"])[0, :5].tolist()
        [2, 31, 40, 1, 0]
    """
    ids = torch.zeros(len(texts), MAX_LENGTH, dtype=torch.long)
    for row, text in enumerate(texts):
        words = _words(text)[: MAX_LENGTH - 1]
        if unknown := unknown_words(text):
            raise DataError(
                f"The prompt {text!r} has words outside the vocabulary ({', '.join(unknown)}); "
                "use the words in mar_accel.data.captions.VOCABULARY."
            )
        ids[row, : len(words) + 1] = torch.tensor([_IDS[word] for word in (*words, END)], dtype=torch.long)
    return ids


def _words(text: str) -> list[str]:
    return text.lower().replace(",", " ").replace(".", " ").split()
