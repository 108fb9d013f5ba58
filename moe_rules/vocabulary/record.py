"""Immutable values with named fields, made quickly: there are many classes of them.

A frozen dataclass compiles its methods when its class is made. What a decision needs has some fifty
such classes, and that took a fifth of the time from a fresh process to the first decision.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Record:
    """Base of classes whose annotations are fields, as those of a frozen dataclass.

    Records of one class are equal if their fields are, and have a hash if their fields have.
    ``__match_args__`` are the names of the fields, those of the base class first.
    """

    __match_args__: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = (*cls.__match_args__, *cls.__annotations__)  # type: ignore[misc]

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        if named or len(values) != len(names):
            values = self._complete(values, named)
        self.__dict__.update(zip(names, values, strict=True))

    def _complete(self, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """The value of every field, by position, by name, or the default of the class."""
        names = self.__match_args__
        given = {**dict(zip(names, values, strict=False)), **named}
        if len(given) != len(values) + len(named) or not given.keys() <= set(names):
            raise TypeError(f"{type(self).__name__} takes each of {', '.join(names)} once")
        missing = [name for name in names if name not in given and not hasattr(type(self), name)]
        if missing:
            raise TypeError(f"{type(self).__name__} lacks {', '.join(missing)}")
        return tuple(given[n] if n in given else getattr(type(self), n) for n in names)

    def replaced(self, **changes: Any) -> Self:
        """The same with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((self.__class__, *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"
