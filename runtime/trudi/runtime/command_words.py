"""Commands as an operator writes them: `vx=0.5 wz=0.1`, by the names of their elements."""

from __future__ import annotations

from collections.abc import Sequence

from trudi.runtime.errors import TrudiRuntimeError, near_matches
from trudi.runtime.interface import Command


def parse_commands(words: Sequence[str], commands: Sequence[Command], option: str) -> dict[str, tuple[float, ...]]:
    """`NAME=NUMBER` for elements of `commands` as whole commands by name; elements that are not named are neutral.

    `option` is what the words were given to; it begins every error. TrudiRuntimeError names an element that none of the
    commands has, or a value outside its training range.
    """
    places = {element: (command, place) for command in commands for place, element in enumerate(command.element_names)}
    values = {command.name: list(command.neutral) for command in commands}
    for word in words:
        element, _, text = word.partition("=")
        if element not in places:
            raise TrudiRuntimeError(
                f"{option} {word}: the policy's commands have no {element}; {near_matches(element, places)}"
            )
        try:
            number = float(text)
        except ValueError:
            raise TrudiRuntimeError(f"{option} {word}: write NAME=NUMBER") from None
        command, place = places[element]
        low, high = command.range[place]
        if not low <= number <= high:
            raise TrudiRuntimeError(f"{option} {word}: the policy was trained with {element} from {low:g} to {high:g}")
        values[command.name][place] = number
    return {name: tuple(numbers) for name, numbers in values.items()}
