"""Settings and model.yaml: errors are printed on one line that names the place, before anything starts."""

import json
import socket

import onnx
import pytest
from typer.testing import CliRunner

from onnxserve._cli.app import app
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.settings import Settings, load_settings
from support import zoo


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ONNXSERVE_{name.upper()}", raising=False)


@pytest.fixture
def root(tmp_path):
    return zoo.write(tmp_path / "models", {"double": zoo.double()})


def serve(root, *flags, **environment):
    arguments = [
        "serve",
        "--models",
        str(root),
        "--port",
        "0",
        "--http-port",
        "-1",
        "--providers",
        "cpu",
        *map(str, flags),
    ]
    return CliRunner().invoke(app, arguments, env=environment)


def the_line(done):
    """The one line that a refused start prints."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("onnxserve: ")
    return line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batchin: {}", "batchin: unknown setting"),
        ("batching: {max_row: 3}", "batching.max_row: unknown setting"),
        ("batching: {max_rows: many}", "batching.max_rows: input should be a valid integer"),
        ("batching: {max_rows: 0}", "batching.max_rows: input should be greater than or equal to 1"),
        ("batching: 7", "batching: must be a mapping of settings"),
        ("batching: {oversize: drop}", "batching.oversize: input should be 'split' or 'refuse'"),
        ("instances: 0", "instances: input should be greater than or equal to 1"),
        ("instances: 2\nthreads: 0", "threads: "),
        ("providers: quantum", "providers: unknown execution provider 'quantum'"),
        ("providers: 7", "providers: "),
        ("graph_optimization: most", "graph_optimization: "),
        ("versions: newest", "versions: must be latest, all, or a list of version numbers"),
        ("versions: []", "versions: must be latest, all, or a list of version numbers"),
        ("versions: ['3']", "versions: no version 3; the versions are 1"),
        ("labels: {z: [a, b]}", "labels.z: unknown output; the model's outputs are y"),
        ("labels: {y: [a, b]}", "labels.y: 2 names for 3 classes"),
        ("labels: {y: a}", "labels: must map outputs to a list of class names"),
        ("labels: [a, b]", "labels: must map outputs to a list of class names"),
        ("batch_axis: {z: 1}", "batch_axis.z: unknown input or output; the model's are x, y"),
        ("batch_axis: {y: 1}", "batch_axis.y: axis 1 has the fixed size 3; rows need a free axis"),
        ("batch_axis: {x: last}", "batch_axis.x: input should be a valid integer"),
        ("batch_axis: 1", "batch_axis: must map inputs and outputs to an axis, such as `state: 1`"),
        ("shared: [x]", "shared: at least one input must have rows"),
        ("shared: x", "shared: must be a list of inputs, such as `[scale]`"),
        ("- instances", "must be a mapping of settings"),
        ("just text", "must be a mapping of settings"),
        ("state: [{input: x}]", "state[0].output: field required"),
        ("batching: {max_rows: 3", "not valid YAML: line 1, column 23: expected ',' or '}', but got '<stream end>'"),
        ("a: b: c", "not valid YAML: line 1, column 5: mapping values are not allowed here"),
    ],
)
def test_a_bad_model_yaml_is_named_with_its_key(root, text, says):
    file = root / "double" / "model.yaml"
    file.write_text(text)
    line = the_line(serve(root))
    assert line.startswith(f"onnxserve: {file}: {says}")


def test_a_configuration_of_another_name_is_not_ignored(root):
    file = root / "double" / "model.yml"
    file.write_text("instances: 2")
    assert the_line(serve(root)).endswith(f"{file}: not read as configuration; rename it to model.yaml")


def test_yaml_may_say_names_and_values_as_numbers(tmp_path, serving):
    text = "labels: {y: [1, 2, 3]}\nsession_config: {session.set_denormal_as_zero: true}"
    root = zoo.write(tmp_path / "models", {"double": zoo.double()}, {"double": text})
    with serving(root) as server:
        assert server.client.model("double").outputs[0].labels == ("1", "2", "3")


def test_a_model_yaml_that_is_not_text_is_named(root):
    file = root / "double" / "model.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert str(file) in the_line(serve(root))


def test_batching_asked_for_where_there_is_no_batch_axis_is_refused(tmp_path):
    root = zoo.write(tmp_path / "models", {"fixed": zoo.fixed()}, {"fixed": "batching: {enabled: true}"})
    assert the_line(serve(root)).startswith(
        f"onnxserve: {root}/fixed/model.yaml: batching.enabled: the model cannot be batched: "
        "the first axis of input x has the fixed size 4"
    )


def test_a_missing_directory_of_models_is_named(tmp_path):
    assert f"{tmp_path}/absent: no such directory; --models must name" in the_line(serve(tmp_path / "absent"))


def test_an_empty_directory_of_models_is_named(tmp_path):
    assert the_line(serve(tmp_path)) == (
        f"onnxserve: {tmp_path}: has no models; expected {tmp_path}/<model>/<version>/model.onnx"
    )


def test_a_model_without_a_version_is_named(root):
    (root / "empty").mkdir()
    assert f"{root}/empty: has no versions; expected {root}/empty/1/model.onnx" in the_line(serve(root))


def test_a_version_without_a_file_is_named(root):
    (root / "double" / "2").mkdir()
    assert f"{root}/double/2/model.onnx: no such file" in the_line(serve(root))


@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_not_a_model_is_named(root, content):
    file = root / "double" / "1" / "model.onnx"
    file.write_bytes(content)
    assert the_line(serve(root)).startswith(f"onnxserve: {file}: ONNX Runtime cannot load it: ")


def test_half_a_model_is_named(root):
    file = root / "double" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-20])
    assert the_line(serve(root)).startswith(f"onnxserve: {file}: ONNX Runtime cannot load it: ")


def test_an_input_that_is_not_a_tensor_is_named(tmp_path):
    root = zoo.write(tmp_path / "models", {"of_a_sequence": zoo.of_a_sequence()})
    line = the_line(serve(root))
    assert f"{root}/of_a_sequence/1/model.onnx: x is a seq(tensor(float)), not a tensor; export the model " in line


def test_a_busy_port_is_reported_before_models_are_loaded(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (root / "double" / "1" / "model.onnx").write_bytes(b"")
        line = the_line(serve(root, "--port", port))
    assert line.startswith(f"onnxserve: 127.0.0.1:{port}: cannot listen there: Address already in use")


def test_a_host_that_is_not_ours_is_named(root):
    assert "203.0.113.1:0: cannot listen there" in the_line(serve(root, "--host", "203.0.113.1"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot: 1", "prot: unknown setting"),
        ("port: high", "port: "),
        ("port: 70000", "port: "),
        ("[1, 2", "not valid YAML: line 1, column 6: expected ',' or ']'"),
        ("providers: quantum", "unknown execution provider 'quantum'"),
        ("max_connection_age_grace: 60", "settings.yaml): max_connection_age_grace has no effect without max_"),
        ("- port", "must be a mapping of settings"),
        ("just text", "must be a mapping of settings"),
    ],
)
def test_a_bad_file_of_settings_is_named_with_the_setting(tmp_path, text, says):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    line = the_line(CliRunner().invoke(app, ["serve", "--config", str(file)]))
    assert str(file) in line
    assert says in line


def test_a_file_of_settings_that_is_not_there_is_named(root, tmp_path):
    line = the_line(serve(root, "--config", tmp_path / "absent.yaml"))
    assert line == f"onnxserve: {tmp_path}/absent.yaml: no such file"


def test_an_environment_variable_that_names_no_setting_is_named(root):
    line = the_line(serve(root, ONNXSERVE_NO_SUCH="1"))
    assert line.startswith("onnxserve: environment variable ONNXSERVE_NO_SUCH: unknown setting")


def test_an_environment_variable_with_a_bad_value_is_named(root):
    line = the_line(serve(root, ONNXSERVE_MAX_ROWS="many"))
    assert "max_rows: input should be a valid integer" in line
    assert "ONNXSERVE_" in line


def test_a_flag_that_there_is_not_is_a_mistake_of_use():
    done = CliRunner().invoke(app, ["serve", "--prot", "1"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--prot" in done.stderr


def test_a_flag_wins_over_the_environment_it_over_the_file_and_it_over_the_default(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\nmax_rows: 1\nworkers: 1\nproviders: [cpu]\n")
    environment = {"ONNXSERVE_PORT": "2", "ONNXSERVE_MAX_ROWS": "2"}
    done = CliRunner().invoke(app, ["serve", "--show-config", "--config", str(file), "--port", "3"], env=environment)
    assert done.exit_code == 0
    settings = json.loads(done.stdout)
    assert (settings["port"], settings["max_rows"], settings["workers"], settings["host"]) == (3, 2, 1, "127.0.0.1")
    assert settings.keys() == Settings.model_fields.keys()


def test_the_variables_of_the_client_are_no_settings(monkeypatch):
    monkeypatch.setenv("ONNXSERVE_TARGET", "elsewhere:1")
    assert load_settings().port == 8500


def test_providers_may_be_said_in_the_environment_as_a_list_of_names(monkeypatch):
    monkeypatch.setenv("ONNXSERVE_PROVIDERS", "tensorrt, cuda")
    assert [*load_settings().providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]


def test_settings_stand_in_where_a_model_yaml_is_silent_and_only_there(tmp_path, serving):
    models = {"silent": zoo.double(), "configured": zoo.double()}
    root = zoo.write(tmp_path / "models", models, {"configured": "batching: {max_rows: 7}"})
    with serving(root, max_rows=5) as server:
        assert server.client.model("silent").batching.max_rows == 5
        assert server.client.model("configured").batching.max_rows == 7


def test_a_bad_setting_in_a_program_is_an_error_that_names_it():
    with pytest.raises(ConfigurationError, match="drain_delay"):
        load_settings(drain_delay=-1)


@pytest.mark.parametrize(
    "endpoint", ["", "http://localhost:4317", "https://collector.example", "http://[::1]:4317", "http://10.0.0.1:4317/"]
)
def test_an_endpoint_is_a_url(endpoint):
    assert load_settings(otlp_endpoint=endpoint).otlp_endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:4317",
        "localhost",
        "grpc://localhost:4317",
        "http://",
        "http://:4317",
        "http://localhost:0",
        "http://localhost:70000",
        "http://localhost:otlp",
        "http://[::1:4317",
        "http://local host:4317",
        "4317",
    ],
)
def test_an_endpoint_that_is_not_a_url_is_refused_before_anything_starts(root, endpoint):
    line = the_line(serve(root, "--otlp-endpoint", endpoint))
    assert f"otlp_endpoint: {endpoint!r} is not a valid endpoint; expected a URL such as http://localhost:4317" in line


def test_an_endpoint_from_opentelemetry_s_variable_is_checked_too(root):
    assert "otlp_endpoint: 'nowhere' is not a valid endpoint" in the_line(
        serve(root, OTEL_EXPORTER_OTLP_ENDPOINT="nowhere")
    )


def test_the_two_ports_must_differ_unless_they_are_to_be_found_or_not_there():
    with pytest.raises(ConfigurationError, match="port and http_port are both 8501; they must differ"):
        load_settings(port=8501)
    with pytest.raises(ConfigurationError, match="both 9000"):
        load_settings(port=9000, http_port=9000)
    assert load_settings(port=0, http_port=0).http_port == 0


def test_a_bad_model_ends_the_start_also_beside_good_ones(tmp_path):
    root = zoo.write(tmp_path / "models", {"a": zoo.double(), "z": zoo.double()})
    onnx.save(zoo.double(), root / "z" / "1" / "model.onnx")
    (root / "z" / "1" / "model.onnx").write_bytes(b"x")
    assert f"{root}/z/1/model.onnx" in serve(root).stderr
    assert serve(root).exit_code == 2


def test_what_kubernetes_says_of_a_service_of_our_name_is_no_setting(monkeypatch):
    links = {
        "PORT": "tcp://10.0.0.1:8500",
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8500",
        "SERVICE_PORT_GRPC": "1",
    }
    links |= {"PORT_8500_TCP": "tcp://10.0.0.1:8500", "PORT_8500_TCP_ADDR": "10.0.0.1"}
    for name, value in links.items():
        monkeypatch.setenv(f"ONNXSERVE_{name}", value)
    assert load_settings().port == 8500
    assert load_settings(port=1).port == 1


def test_what_kubernetes_says_of_other_services_is_no_setting(monkeypatch):
    for service, port in (("PROD", "8500"), ("HTTP", "80"), ("PROD_2_MAX_MESSAGE", "1")):
        links = {
            "PORT": f"tcp://10.0.0.1:{port}",
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": port,
            "SERVICE_PORT_GRPC": port,
            f"PORT_{port}_TCP": f"tcp://10.0.0.1:{port}",
            f"PORT_{port}_TCP_PROTO": "tcp",
            f"PORT_{port}_TCP_PORT": port,
            f"PORT_{port}_TCP_ADDR": "10.0.0.1",
            f"PORT_{port}_UDP": f"udp://10.0.0.1:{port}",
        }
        for name, value in links.items():
            monkeypatch.setenv(f"ONNXSERVE_{service}_{name}", value)
    assert (load_settings().port, load_settings().http_port) == (8500, 8501)
    assert load_settings(http_port=0).http_port == 0


def test_what_kubernetes_says_of_services_gives_way_to_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXSERVE_PORT", "tcp://10.0.0.1:8500")
    monkeypatch.setenv("ONNXSERVE_HTTP_PORT", "tcp://10.0.0.2:80")
    file = tmp_path / "server.yaml"
    file.write_text("port: 9000\nhttp_port: 9001\n")
    settings = load_settings(file)
    assert (settings.port, settings.http_port) == (9000, 9001)
    file.write_text("port: tcp://10.0.0.1:8500\n")
    with pytest.raises(ConfigurationError, match="port: "):
        load_settings(file)


@pytest.mark.parametrize("name", ["FOO", "POOL", "GRPC"])
def test_an_unknown_variable_that_is_like_no_setting_is_not_taken_for_one(monkeypatch, name):
    monkeypatch.setenv(f"ONNXSERVE_{name}", "1")
    with pytest.raises(ConfigurationError, match=f"ONNXSERVE_{name}: unknown setting") as refused:
        load_settings()
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAX_MESAGE_BYTES", "unknown setting; did you mean ONNXSERVE_MAX_MESSAGE_BYTES?"),
        ("GRPC_PORT", "unknown setting"),
        ("PORT_8500", "unknown setting"),
        ("SERVICE", "unknown setting"),
    ],
)
def test_a_mistyped_setting_is_named_beside_the_services(monkeypatch, name, meant):
    monkeypatch.setenv("ONNXSERVE_PROD_PORT", "tcp://10.0.0.1:8500")
    monkeypatch.setenv(f"ONNXSERVE_{name}", "8500")
    with pytest.raises(ConfigurationError, match=f"environment variable ONNXSERVE_{name}: {meant}".replace("?", r"\?")):
        load_settings()
