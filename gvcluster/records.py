"""Records: frozen values with named fields. `class Moved(Record): slot: int` is all that one needs.

They are what `dataclass(frozen=True, slots=True)` makes, without its price: it compiles six functions for each class,
which was half of the time that `import gvcluster` took. Here one is, when the first instance is made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, cast, dataclass_transform

_R = TypeVar("_R", bound="Record")
_DERIVED = object()


def derived(*, init: Literal[False] = False) -> Any:
    """A field that `__post_init__` sets by `_derive`, from the others: it is not given, compared or shown."""
    return _DERIVED


@dataclass_transform(frozen_default=True, field_specifiers=(derived,))
class _RecordType(type):
    """Makes the class of its annotated names: the fields of its base first, those with a default last."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _RecordType:
        inherited = tuple(field for base in bases for field in getattr(base, "__match_args__", ()))
        told = _fields_in(namespace)
        defaults = {field: namespace.pop(field) for field in told if field in namespace}
        slots = tuple(field for field in told if field not in inherited)
        own = tuple(field for field in slots if defaults.get(field) is not _DERIVED)
        made: Any = super().__new__(cls, name, bases, {"__slots__": slots, **namespace})
        if "__init__" not in namespace:
            made.__init__ = _first_init_of(made)
        made.__match_args__ = (*inherited, *own)  # type: ignore[misc]
        made._defaults = MappingProxyType({**made._defaults, **defaults})
        _let_compare(made)
        return cast(_RecordType, made)


def _let_compare(made: Any) -> None:
    compared = [name for name in made.__match_args__ if name not in made._uncompared]
    if compared:
        made._values = attrgetter(*compared)


def _fields_in(namespace: Mapping[str, Any]) -> tuple[str, ...]:
    annotations = namespace.get("__annotations__", {})
    return tuple(name for name, kind in annotations.items() if not _is_of_class(str(kind)))


def _is_of_class(annotation: str) -> bool:
    """Whether it names what the class has, and no field."""
    return annotation.removeprefix("typing.").partition("[")[0] == "ClassVar"


def _first_init_of(made: Any) -> Callable[..., None]:
    """What compiles the `__init__` of the class, and is it until then. Of this one: a child's may call its parent's."""

    def first_init(self: Record, *args: Any, **kwargs: Any) -> None:
        names = made.__match_args__
        given = {f"_set_{name}": getattr(made, name).__set__ for name in names}  # past `__setattr__`
        parameters = ", ".join(["self", *(f"{name}=_{name}" if name in made._defaults else name for name in names)])
        steps = [f"_set_{name}(self, {name})" for name in names]
        if made.__post_init__ is not Record.__post_init__:
            steps.append("self.__post_init__()")
        given.update((f"_{name}", default) for name, default in made._defaults.items())
        exec(f"def __init__({parameters}): {'; '.join(steps) or 'pass'}", given)
        made.__init__ = given["__init__"]
        made.__init__(self, *args, **kwargs)

    return first_init


class _Fields:
    """Lets `dataclasses.fields`, `asdict` and `replace` take a record for a dataclass."""

    def __get__(self, _record: object, kind: type[Record]) -> Mapping[str, Any]:
        from dataclasses import MISSING, field, make_dataclass

        defaults = {name: each for name, each in kind._defaults.items() if isinstance(each, Hashable)}
        told = [(name, Any, field(default=defaults.get(name, MISSING), kw_only=True)) for name in kind.__match_args__]
        fields: Mapping[str, Any] = vars(make_dataclass(kind.__name__, told))["__dataclass_fields__"]
        return fields


class Record(metaclass=_RecordType):
    """The root of all records. Equal are those of one class whose fields are equal; they can be hashed and pickled."""

    __dataclass_fields__: ClassVar[Any] = _Fields()

    __match_args__: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    _values: ClassVar[Any] = staticmethod(lambda self: ())
    _unsaid: ClassVar[tuple[str, ...]] = ()  # fields that `repr` leaves out: secrets, and what is long
    _uncompared: ClassVar[tuple[str, ...]] = ()  # fields that follow from others, however they were given

    def __post_init__(self) -> None:
        """Check the fields, and `_derive` what follows from them. Called when they are set."""

    def _derive(self, fields: Mapping[str, object]) -> None:
        """Set fields, for `__post_init__`."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__ if name not in self._unsaid)
        return f"{type(self).__qualname__}({told})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(self._values(self) == self._values(other))

    def __hash__(self) -> int:
        return hash(self._values(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} never changes: make another one with `replace`")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


def replace(record: _R, **changes: Any) -> _R:
    """A copy with these fields changed."""
    return type(record)(**{name: getattr(record, name) for name in record.__match_args__} | changes)
