import pytest

from hypergrad.errors import HypergradError, InvalidInputError, UnknownNameError
from hypergrad.registry import Registry, closest


def test_register_and_look_up() -> None:
    registry: Registry[object] = Registry("widget")

    @registry.register("one")
    class One:
        pass

    assert registry.lookup("one") is One
    assert registry.names() == ["one"]


def test_names_are_sorted_and_include_what_is_not_imported_yet() -> None:
    registry: Registry[object] = Registry("widget", {"b": "no.such.module:B"})
    registry.register("a")(object)
    assert registry.names() == ["a", "b"]


def test_a_builtin_is_imported_on_first_use_and_then_held() -> None:
    registry: Registry[Exception] = Registry("error", {"base": "hypergrad.errors:HypergradError"})
    assert registry.lookup("base") is HypergradError
    assert registry.lookup("base") is HypergradError


def test_a_builtin_registers_itself_under_its_own_name() -> None:
    # What the decorator in a built-in's file does while the lookup is importing that file.
    registry: Registry[Exception] = Registry("error", {"base": "hypergrad.errors:HypergradError"})
    assert registry.register("base")(HypergradError) is HypergradError
    assert registry.names() == ["base"]


@pytest.mark.parametrize("builtins", [{}, {"one": "hypergrad.errors:HypergradError"}], ids=["class", "lazy built-in"])
def test_a_taken_name_is_refused_and_keeps_its_class(builtins: dict[str, str]) -> None:
    registry: Registry[object] = Registry("widget", builtins)
    if not builtins:
        registry.register("one")(HypergradError)
    with pytest.raises(InvalidInputError, match=r"widget name 'one' is already taken by hypergrad\.errors:Hyper"):
        registry.register("one")(dict)
    assert registry.lookup("one") is HypergradError


def test_the_same_class_may_come_again() -> None:
    registry: Registry[object] = Registry("widget")
    registry.register("one")(dict)
    registry.register("one")(dict)
    assert registry.names() == ["one"]


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_a_non_empty_string(name: object) -> None:
    with pytest.raises(InvalidInputError, match="non-empty string; got"):
        Registry("widget").register(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [UnknownNameError, InvalidInputError, ValueError, LookupError])
def test_a_miss_lists_the_names_and_the_nearest(error: type[Exception]) -> None:
    registry: Registry[object] = Registry("solver", {"neumann": "a:b", "cg": "a:c"})
    with pytest.raises(error, match=r"Unknown solver 'neuman'\. Did you mean 'neumann'\? Registered: cg, neumann\."):
        registry.lookup("neuman")


def test_a_miss_in_an_empty_registry() -> None:
    with pytest.raises(UnknownNameError, match="Registered: none"):
        Registry("widget").lookup("x")


def test_closest() -> None:
    assert closest("penalti", ["penalty", "weigh"]) == " Did you mean 'penalty'?"
    assert closest("zzz", ["penalty", "weigh"]) == ""
