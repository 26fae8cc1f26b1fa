import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.publishing import Target, check_target, parse_target, publish, staging
from support.folders import listing
from support.waiting import until


@pytest.fixture
def root(tmp_path):
    return tmp_path / "area" / "models"


def put(to, text="", config="", replace=False):
    """Publish a version that holds a text."""
    target = parse_target(to)
    with staging(target) as work:
        (work / "version").mkdir()
        (work / "version" / "model.onnx").write_text(text)
        return publish(work / "version", target, config, replace)


@pytest.mark.parametrize(
    ("text", "repository", "name", "version"),
    [
        ("models/lenet", "models", "lenet", None),
        ("models/lenet/3", "models", "lenet", 3),
        ("models/lenet/0", "models", "lenet", 0),
        ("/a/b/l.e-n_et/", "/a/b", "l.e-n_et", None),
        ("models/7", ".", "models", 7),
        ("lenet", ".", "lenet", None),
    ],
)
def test_a_target_is_read(text, repository, name, version):
    target = parse_target(text)
    assert (str(target.repository), target.name, target.version) == (repository, name, version)


@pytest.mark.parametrize("text", ["", "/", "models/..", "models/.hidden", "models/le net", "models/-x", "models/é"])
def test_a_target_that_no_model_can_have_is_refused(text):
    with pytest.raises(BadRequest, match=r"expected REPOSITORY/NAME or REPOSITORY/NAME/VERSION"):
        parse_target(text)


def test_versions_count_up(root):
    assert [put(root / "net", text).name for text in "abc"] == ["1", "2", "3"]
    (root / "net" / "7").mkdir()
    (root / "net" / "notes").mkdir()
    assert put(root / "net").name == "8"


@pytest.mark.parametrize("version", [0, 5])
def test_a_version_that_is_asked_for_is_the_one_published(root, version):
    place = put(root / "net" / str(version), "text")
    assert place == root / "net" / str(version)
    assert (place / "model.onnx").read_text() == "text"


def test_folders_that_are_missing_are_made_and_nothing_else(root):
    put(root / "net", "text")
    assert listing(root.parent) == {
        "models": "folder",
        "models/net": "folder",
        "models/net/1": "folder",
        "models/net/1/model.onnx": b"text",
    }


def test_a_path_that_goes_up_and_down_again_is_understood(root):
    put(root / "x" / ".." / "net", "text")
    assert listing(root) == {"net": "folder", "net/1": "folder", "net/1/model.onnx": b"text"}


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_what_is_published_can_be_read_by_whom_the_umask_allows(root, umask):
    before = os.umask(umask)
    try:
        place = put(root / "net", config="instances: 1\n")
    finally:
        os.umask(before)
    for path in (place, place.parent, root, place / "model.onnx", place.parent / "model.yaml"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as another user")
def test_another_user_can_read_external_data_that_was_written_for_its_own_user_alone(root):
    target = parse_target(root / "net")
    with staging(target) as work:
        (work / "version").mkdir()
        (work / "version" / "model.onnx.data").write_text("weights")
        (work / "version" / "model.onnx.data").chmod(0o600)
        place = publish(work / "version", target, "", False)
    with (place / "model.onnx.data").open() as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o644
        read = f"import os; os.setuid(65532); open('/proc/self/fd/{file.fileno()}').read()"
        subprocess.run([sys.executable, "-c", read], check=True, pass_fds=[file.fileno()])


def test_a_version_that_exists_is_refused(root):
    put(root / "net", "old")
    for attempt in (lambda target: check_target(target, replace=False), lambda target: put(root / "net" / "1", "new")):
        with pytest.raises(BadRequest, match=r"net/1: this version exists; replace it with --replace"):
            attempt(parse_target(root / "net" / "1"))
    assert (root / "net" / "1" / "model.onnx").read_text() == "old"


def test_a_version_is_replaced_without_a_moment_in_which_it_is_missing(root):
    place = put(root / "net", "0")
    over, seen = threading.Event(), set()

    def read():
        while not over.is_set():
            seen.add((place / "model.onnx").read_text())
        return True

    with ThreadPoolExecutor() as threads:
        reader = threads.submit(read)
        for number in range(1, 21):
            put(root / "net" / "1", str(number), replace=True)
        over.set()
    assert reader.result()
    assert (place / "model.onnx").read_text() == "20"
    assert sorted(listing(root)) == ["net", "net/1", "net/1/model.onnx"]


def test_replacing_what_is_not_there_publishes_it(root):
    assert put(root / "net" / "4", replace=True).name == "4"


def test_those_who_publish_at_one_time_get_different_versions(root):
    start = threading.Barrier(16)

    def take(number):
        start.wait()
        return put(root / "net", str(number))

    with ThreadPoolExecutor(16) as threads:
        places = list(threads.map(take, range(16)))
    assert sorted(int(place.name) for place in places) == list(range(1, 17))
    assert [(place / "model.onnx").read_text() for place in places] == [str(number) for number in range(16)]
    assert not list(root.parent.glob("**/.*"))


def test_of_those_who_publish_one_version_at_one_time_one_succeeds(root):
    start = threading.Barrier(8)

    def take(number):
        start.wait()
        try:
            return put(root / "net" / "3", str(number))
        except BadRequest:
            return None

    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(take, range(8)))
    assert sum(place is not None for place in places) == 1
    assert sorted(listing(root)) == ["net", "net/3", "net/3/model.onnx"]


def test_a_model_yaml_comes_with_the_first_version(root):
    put(root / "net", config="graph_optimization: layout\n")
    assert (root / "net" / "model.yaml").read_text() == "graph_optimization: layout\n"


@pytest.mark.parametrize("there", [False, True])
def test_a_model_yaml_is_added_or_stays(root, there):
    put(root / "net")
    if there:
        (root / "net" / "model.yaml").write_text("graph_optimization: basic\ninstances: 2\n")
    put(root / "net", config="graph_optimization: layout\n")
    text_after = (root / "net" / "model.yaml").read_text()
    assert text_after == ("graph_optimization: basic\ninstances: 2\n" if there else "graph_optimization: layout\n")
    assert (root / "net" / "2").is_dir()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("instances: 2\n", "add this line, without which the model cannot be served: graph_optimization: layout"),
        ("instances: many\n", "instances: input should be a valid integer"),
    ],
)
def test_nothing_is_published_that_the_model_yaml_there_would_not_let_serve(root, text, says):
    put(root / "net")
    (root / "net" / "model.yaml").write_text(text)
    before = listing(root)
    with pytest.raises(BadRequest, match=r"net/model.yaml: ") as caught:
        put(root / "net", config="graph_optimization: layout\n")
    assert says in str(caught.value)
    assert listing(root) == before


def test_a_file_in_the_way_is_named(root):
    root.parent.mkdir()
    root.write_text("a file")
    for target in (parse_target(root / "net"), parse_target(root)):
        with pytest.raises(BadRequest, match=r"models: not a directory; choose another --to"):
            check_target(target, replace=True)
    with pytest.raises(BadRequest, match="cannot be written: "):
        put(root / "below" / "net")


def test_a_link_to_nowhere_is_no_folder(root):
    root.mkdir(parents=True)
    (root / "net").symlink_to("nowhere")
    with pytest.raises(BadRequest, match=r"net: not a directory"):
        check_target(parse_target(root / "net"), replace=False)


def test_a_repository_is_not_taken_for_a_model(root):
    put(root / "net")
    with pytest.raises(BadRequest, match=r"this is a model repository; add a model name: .*models/NAME"):
        check_target(parse_target(root), replace=False)


def test_a_model_that_another_conversion_is_at_is_not_taken_for_a_repository(root):
    put(root / "net")
    with staging(parse_target(root / "net")) as work:
        (work / "1").mkdir()
        (work / "1" / "model.onnx").touch()
        check_target(parse_target(root / "net"), replace=False)


@pytest.mark.parametrize("repository", ["/proc/models", "/dev/null/models"])
def test_a_place_that_cannot_be_written_to_is_named(repository):
    target = Target(repository=parse_target(f"{repository}/net").repository, name="net", version=None)
    with pytest.raises(BadRequest, match="cannot be written: "), staging(target):
        pytest.fail("it was written to")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(root):
    root.mkdir(parents=True)
    root.chmod(0o500)
    with pytest.raises(BadRequest, match="cannot be written: Permission denied"):
        put(root / "net")


def test_a_name_too_long_for_the_file_system_is_refused(root):
    with pytest.raises(BadRequest, match="cannot be written: File name too long"):
        put(root / ("x" * 300))
    assert not root.parent.exists()


def test_what_was_staged_goes_with_the_block_and_nobody_else_can_look_into_it(root):
    root.mkdir(parents=True)
    with pytest.raises(KeyError), staging(parse_target(root / "net")) as work:
        assert stat.S_IMODE(work.stat().st_mode) == 0o700
        assert work.name.startswith(".")
        (work / "some").write_text("thing")
        raise KeyError
    assert listing(root) == {}


KILLED = """
import sys, os, signal
from onnxserve_converters.publishing import parse_target, staging
with staging(parse_target(sys.argv[1])) as work:
    (work / "version").mkdir()
    (work / "version" / "model.onnx").write_text("text")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_staged_goes_with_a_process_that_is_killed(root):
    put(root / "net")
    before = listing(root)
    ended = subprocess.run([sys.executable, "-c", KILLED, root / "net"], check=False)
    assert ended.returncode == -signal.SIGKILL
    until(lambda: listing(root) == before)
