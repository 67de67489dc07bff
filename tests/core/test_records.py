"""Records are what frozen dataclasses with slots are, for everybody who uses one."""

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from gvcluster.records import Record, derived, replace


class Point(Record):
    x: int
    y: int = 7


class Named(Point):
    name: str = "nobody"

    @property
    def loud(self) -> str:
        return self.name.upper()


class Nothing(Record):
    """Has no fields."""


def test_fields_are_given_by_place_or_name_and_those_of_the_base_come_first():
    assert (Point(1).x, Point(1).y) == (1, 7)
    assert Named(1, 2, "a") == Named(name="a", y=2, x=1)
    assert Named(1).loud == "NOBODY"
    match Named(1, 2, "a"):
        case Named(x, y, name):
            assert (x, y, name) == (1, 2, "a")


@pytest.mark.parametrize("wrong", [lambda: Point(), lambda: Point(1, 2, 3), lambda: Point(1, z=2), lambda: Nothing(1)])
def test_wrong_arguments_are_refused_by_the_first_instance_and_by_later_ones(wrong):
    for _ in range(2):
        with pytest.raises(TypeError):
            wrong()


def test_equal_are_those_of_one_class_with_equal_fields():
    assert Point(1, 2) == Point(1, 2) != Point(1, 3)
    assert Point(1) != Named(1)
    assert Nothing() == Nothing() != Point(1)
    assert len({Point(1), Point(1, 7), Named(1), Nothing(), Nothing()}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point([]))  # type: ignore[arg-type]


def test_nothing_changes_them_and_nothing_is_added():
    point = Named(1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "z", 2), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError, match="never changes"):
            change()
    assert not hasattr(point, "__dict__")
    assert replace(point, x=2) == Named(2) != point
    with pytest.raises(TypeError):
        replace(point, z=2)


def test_they_can_be_read_copied_and_pickled():
    point = Named(1, 2, "a")
    assert repr(point) == "Named(x=1, y=2, name='a')"
    assert repr(Nothing()) == "Nothing()"
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == copy.copy(point) == point


def test_whoever_expects_a_dataclass_finds_one():
    assert dataclasses.asdict(Named(1)) == {"x": 1, "y": 7, "name": "nobody"}
    assert [field.name for field in dataclasses.fields(Named)] == ["x", "y", "name"]
    assert [field.default for field in dataclasses.fields(Named)] == [dataclasses.MISSING, 7, "nobody"]
    assert dataclasses.replace(Named(1), y=3) == Named(1, 3)


class Sum(Record):
    """Its second field may be told, and follows from the first where it is not."""

    parts: tuple[int, ...]
    count: int = 0
    total: int = derived()

    _uncompared: ClassVar[tuple[str, ...]] = ("count",)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("nothing to add")
        self._derive({"count": self.count or len(self.parts), "total": sum(self.parts)})


def test_what_follows_from_the_fields_is_derived_checked_and_neither_given_nor_compared():
    assert (Sum((1, 2)).count, Sum((1, 2)).total, Sum((1, 2), 7).count) == (2, 3, 7)
    assert Sum((1, 2), 7) == Sum((1, 2)) != Sum((2, 1))
    assert len({Sum((1, 2), 7), Sum((1, 2))}) == 1
    assert repr(Sum((1,))) == "Sum(parts=(1,), count=1)"
    for again in (pickle.loads(pickle.dumps(Sum((1, 2)))), copy.copy(Sum((1, 2))), replace(Sum((7,), 2), parts=(1, 2))):
        assert (again.parts, again.count, again.total) == ((1, 2), 2, 3)
    with pytest.raises(TypeError):
        Sum((1,), total=4)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="never changes"):
        Sum((1,)).total = 2  # type: ignore[misc]
    for _ in range(2):
        with pytest.raises(ValueError, match="nothing to add"):
            Sum(())


def test_what_is_not_to_be_said_is_not_in_the_repr():
    class Secret(Record):
        _unsaid = ("password",)
        user: str
        password: str

    assert repr(Secret("me", "pw")).endswith("Secret(user='me')")
    assert Secret("me", "pw") != Secret("me", "other")


def test_a_class_that_writes_its_own_init_keeps_it():
    class Base(Record):
        x: int

    class Doubled(Base):
        def __init__(self, x: int) -> None:
            super().__init__(2 * x)

    assert [Doubled(1).x, Doubled(1).x, Base(1).x, Doubled(1).x] == [2, 2, 1, 2]


def test_a_class_variable_is_no_field_and_a_field_may_get_another_default():
    class Kind(Point):
        shape: ClassVar[str] = "round"
        y: int = 8
        z: int = 9

    assert (Kind.shape, Kind(1)) == ("round", Kind(1, 8, 9))
    assert [each.name for each in dataclasses.fields(Kind)] == ["x", "y", "z"]
