"""Our onnxruntime backend inside a real Triton."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from nuclei.process.ports import free_ports
from nuclei.processor import fast_precision, noted_precision, read_cpuinfo
from serving.triton.server import TritonServer
from tests.serving.onnx_models import batch_sizes, bfloat16s, scaled, sevens, tensors, triton_model

pytestmark = pytest.mark.triton

BATCHED = """
max_batch_size: 16
dynamic_batching { preferred_batch_size: 16 max_queue_delay_microseconds: 300000 }
"""

ON_CORES = """
max_batch_size: 16
instance_group { count: 2 kind: KIND_CPU }
optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }
model_warmup {
  name: "one row" batch_size: 1
  inputs { key: "X" value { data_type: TYPE_FP32 dims: 4 random_data: true } }
}
"""

IN_PRECISION = """
optimization {{ execution_accelerators {{ cpu_execution_accelerator {{
  name: "openvino" parameters {{ key: "precision" value: "{}" }}
}} }} }}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backend") / "models"
    triton_model(folder, "plain", scaled(), tensors())
    triton_model(folder, "batched", batch_sizes(), BATCHED + tensors((4,)))
    triton_model(folder, "on_cores", batch_sizes(), ON_CORES + tensors((4,)))
    for precision in ("auto", "bf16"):
        config = IN_PRECISION.format(precision.upper())
        triton_model(folder, f"in_{precision}", scaled(), config + tensors())
    triton_model(folder, "sevens", sevens(), tensors((-1,), out_dims=(-1, 7)))
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    (metrics_port,) = free_ports(1)
    state = tmp_path_factory.mktemp("state")
    with TritonServer(models, state, metrics_port=metrics_port) as running:
        yield running


@pytest.fixture(scope="module")
def triton_client(server: TritonServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.address) as client:
        yield client


def run(client: InferenceServerClient, model: str, values: np.ndarray) -> np.ndarray:
    tensor = InferInput("X", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return client.infer(model, [tensor], outputs=[InferRequestedOutput("Y")]).as_numpy("Y")


def refusal(client: InferenceServerClient, model: str) -> str:
    with pytest.raises(InferenceServerException) as raised:
        client.load_model(model)
    return str(raised.value.message())


def test_answers_what_the_graph_computes(triton_client: InferenceServerClient) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(run(triton_client, "plain", values), 2 * values)


def test_log_and_folder_say_in_which_precision_models_compute(
    server: TritonServer, triton_client: InferenceServerClient
) -> None:
    used = fast_precision(read_cpuinfo())
    expected = {"plain": "FP32", "on_cores": "FP32", "in_auto": used, "in_bf16": "BF16"}
    log = server.log.read_text()
    for model, precision in expected.items():
        assert noted_precision(server.log.parent, model) == precision.lower()
        assert f"model '{model}' computes in {precision}" in log
    assert noted_precision(server.log.parent, "nosuch") == ""


def test_requests_of_a_batch_run_together_and_get_their_own_rows(
    triton_client: InferenceServerClient,
) -> None:
    given = [np.full((rows, 4), 100 * rows, np.float32) for rows in (1, 2, 3, 4)]
    with ThreadPoolExecutor(len(given)) as pool:
        answers = list(pool.map(lambda values: run(triton_client, "batched", values), given))
    ran = [answer - values for answer, values in zip(answers, given, strict=True)]
    assert [part.shape for part in ran] == [values.shape for values in given]
    assert all(len(np.unique(part)) == 1 for part in ran)
    assert max(part.max() for part in ran) > 4, "no two requests ran together"


def test_images_of_a_batch_run_one_by_one_on_the_cores_of_a_cpu(
    triton_client: InferenceServerClient,
) -> None:
    given = [np.full((1 + k % 3, 4), k, np.float32) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda values: run(triton_client, "on_cores", values), given))
    for values, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer, values + 1)


def test_more_rows_than_the_batch_are_refused(triton_client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="<= 16") as raised:
        run(triton_client, "batched", np.zeros((17, 4), np.float32))
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_failing_graph_is_reported_without_paths_or_traceback(
    triton_client: InferenceServerClient,
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        run(triton_client, "sevens", np.zeros(8, np.float32))
    message = raised.value.message()
    assert "'sevens' failed for X [8]" in message
    assert "Traceback" not in message
    assert "/" not in message
    assert run(triton_client, "sevens", np.zeros(14, np.float32)).shape == (2, 7)


GOOD = tensors()
REFUSED = {
    "static_output_dim": (scaled(), tensors((-1, 4), out_dims=(3, 4)), "output 'Y' has dims"),
    "symbolic_output_dim": (scaled(), tensors((-1, 4), out_dims=(-1, -1)), "output 'Y' has dims"),
    "input_dim": (scaled(), tensors((-1, 5), out_dims=(-1, 4)), "input 'X' has dims"),
    "rank": (scaled(), tensors((4,), out_dims=(-1, 4)), "input 'X' has dims"),
    "fixed_batch": (
        scaled((2, 4)),
        "max_batch_size: 8 " + tensors((4,)),
        "set max_batch_size to 0",
    ),
    "type": (scaled(), tensors(kind="TYPE_FP16"), "input 'X' is TYPE_FP16"),
    "bf16": (bfloat16s(), GOOD, "output 'Y' is tensor(bfloat16)"),
    "input_name": (scaled(), tensors(names=("Z", "Y")), "input 'X' of the ONNX file is missing"),
    "output_name": (scaled(), tensors(names=("X", "Z")), "output 'Z' is not in the ONNX file"),
    "optional": (scaled(), GOOD.replace("input {", "input { optional: true", 1), "is optional"),
    "ir_version": (scaled(ir_version=11), GOOD, "IR version 11"),
    "opset": (scaled(opset=22), GOOD, "opset 22"),
    "corrupt": (b"not a graph", GOOD, "cannot be loaded"),
    "truncated": (scaled().SerializeToString()[:-5], GOOD, "cannot be loaded"),
    "accelerator": (
        scaled(),
        GOOD + 'optimization { execution_accelerators { cpu_execution_accelerator { name: "x" }}}',
        "unknown execution accelerator 'x'",
    ),
    "threads": (
        scaled(),
        GOOD + 'parameters { key: "intra_op_thread_count" value { string_value: "many" }}',
        "intra_op_thread_count is 'many'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_the_native_backend_refuses(
    triton_client: InferenceServerClient, models: Path, name: str
) -> None:
    model, config, expected = REFUSED[name]
    triton_model(models, name, model, config)
    message = refusal(triton_client, name)
    assert expected in message
    assert "Traceback" not in message


SETTINGS = {
    "one_thread": 'parameters { key: "intra_op_thread_count" value { string_value: "1" }}',
    "parallel": 'parameters { key: "execution_mode" value { string_value: "1" }}',
    "no_arena": 'parameters { key: "enable_mem_arena" value { string_value: "0" }}',
    "no_pattern": 'parameters { key: "enable_mem_pattern" value { string_value: "false" }}',
    "unoptimised": "optimization { graph { level: 2 }}",
    "two_instances": "instance_group { count: 2 kind: KIND_CPU }",
    "openvino": (
        'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" }}}'
    ),
    "openvino_auto": IN_PRECISION.format("AUTO"),
    "openvino_bf16": IN_PRECISION.format("BF16"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_keep_the_answer(
    triton_client: InferenceServerClient, models: Path, name: str
) -> None:
    triton_model(models, name, scaled(), GOOD + SETTINGS[name])
    triton_client.load_model(name)
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(run(triton_client, name, values), 2 * values)


def test_a_missing_file_is_named(triton_client: InferenceServerClient, models: Path) -> None:
    folder = triton_model(models, "missing", scaled(), GOOD)
    (folder / "1" / "model.onnx").unlink()
    assert "there is no model.onnx in version 1" in refusal(triton_client, "missing")


def test_a_refused_version_leaves_the_old_one_serving(
    triton_client: InferenceServerClient, models: Path
) -> None:
    folder = triton_model(models, "swapped", scaled(), GOOD)
    triton_client.load_model("swapped")
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"corrupt")
    assert "cannot be loaded" in refusal(triton_client, "swapped")
    values = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(run(triton_client, "swapped", values), 2 * values)


def test_models_of_the_test_are_onnx() -> None:
    for model in (scaled(), batch_sizes(), sevens()):
        onnx.checker.check_model(model, full_check=True)
