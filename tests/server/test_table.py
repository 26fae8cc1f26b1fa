"""Which version a request gets: names, versions, what was stopped, and changes while others read."""

import threading
from types import SimpleNamespace

import pytest

from onnxserve_server.engine.table import Table
from onnxserve_server.errors import InvalidRequest, ModelNotFound, ModelStopped


def version(name, number):
    return SimpleNamespace(spec=SimpleNamespace(name=name, version=number))


@pytest.fixture
def table():
    made = Table()
    for name, number in (("a", "2"), ("a", "10"), ("a", "1"), ("b", "1")):
        made.add(version(name, number))
    return made


def resolved(table, name, number=""):
    spec = table.resolve(name, number).spec
    return spec.name, spec.version


def test_without_a_version_the_newest_is_meant_whatever_was_added_last(table):
    assert resolved(table, "a") == ("a", "10")
    assert resolved(table, "a", "1") == ("a", "1")
    assert (table.find("a").version, table.find("a", "3"), table.find("c")) == ("10", None, None)


def test_models_are_listed_by_name_and_age(table):
    listed = [(model.spec.name, model.spec.version) for model in table.models()]
    assert listed == [("a", "1"), ("a", "2"), ("a", "10"), ("b", "1")]


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("c", "", "unknown model 'c'; available models: a, b"),
        ("a", "3", "model 'a' has no version '3'; available versions: 1, 2, 10"),
    ],
)
def test_what_is_not_there_is_named_beside_what_is(table, name, number, message):
    with pytest.raises(ModelNotFound) as raised:
        table.resolve(name, number)
    assert raised.value.message == message


def test_a_request_must_name_a_model(table):
    with pytest.raises(InvalidRequest, match="the name of a model is required"):
        table.resolve("")
    with pytest.raises(ModelNotFound, match="available models: none"):
        Table().resolve("a")


def test_a_version_is_added_once(table):
    with pytest.raises(ValueError, match="a/1"):
        table.add(version("a", "1"))


def test_when_the_newest_is_removed_the_next_one_takes_its_place(table):
    table.remove(table.resolve("a", "10"))
    assert resolved(table, "a") == ("a", "2")
    with pytest.raises(ModelStopped):
        table.resolve("a", "10")


def test_a_removed_model_is_known_as_stopped_until_it_is_added_again(table):
    table.remove(table.resolve("b"))
    for number in ("", "1"):
        with pytest.raises(ModelStopped) as raised:
            table.resolve("b", number)
        assert (raised.value.reason, raised.value.metadata) == ("MODEL_STOPPED", {"model": "b"})
    with pytest.raises(ModelNotFound):
        table.resolve("b", "2")
    assert [spec.name for spec in table.stopped()] == ["b"]
    assert table.find_stopped("b").version == "1"
    table.add(version("b", "1"))
    assert resolved(table, "b") == ("b", "1")
    assert (table.stopped(), table.find_stopped("b")) == ([], None)


def test_what_is_not_in_the_table_cannot_be_removed_or_swapped(table):
    for stranger in (version("b", "1"), version("c", "1")):
        with pytest.raises(KeyError):
            table.remove(stranger)
        with pytest.raises(KeyError):
            table.swap(stranger, version("d", "1"))
    assert len(table.models()) == 4


def test_a_swap_replaces_a_version_by_another_or_by_itself(table):
    old = table.resolve("b")
    table.swap(old, again := version("b", "1"))
    assert table.resolve("b") is again
    assert table.stopped() == []
    table.swap(again, version("b", "2"))
    assert resolved(table, "b") == ("b", "2")
    with pytest.raises(ModelStopped):
        table.resolve("b", "1")


def test_readers_find_a_version_at_every_moment_of_ten_thousand_swaps():
    table, over, misses = Table(), threading.Event(), []
    now = version("a", "1")
    table.add(now)

    def read():
        while not over.is_set():
            try:
                table.resolve("a")
            except Exception as error:
                misses.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(10_000):
        following = version("a", str(1 + number % 3))
        table.swap(now, following)
        now = following
    over.set()
    for reader in readers:
        reader.join()
    assert misses == []


def test_a_version_that_is_added_as_it_is_looked_for_is_found(table):
    model = table.resolve("b")
    table.remove(model)

    class AddedMeanwhile(dict):
        """What serves, as a reader sees it who comes just before the version is added."""

        def get(self, key):
            table.add(model)
            return super().get(key)

    table._serving = AddedMeanwhile(table._serving)
    assert table.resolve("b") is model
