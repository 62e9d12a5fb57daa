"""A graph brings all of its values and operators with it, or is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from predictor_service.classifier import load_graph
from predictor_service.onnx_file import check_self_contained

N = 4096
"""More values than ONNX Runtime folds, which it would not do with those of another file."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the process was started, beside a file that it may read."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for folder in (tmp_path, tmp_path / "cwd"):
        (folder / "secret.bin").write_bytes(np.arange(N, dtype=np.float32).tobytes())
    return tmp_path


def elsewhere(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[N], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * N))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(nodes: Sequence[NodeProto], values: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [N]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], values)


def model(of: onnx.GraphProto, *domains: str, functions: Sequence[onnx.FunctionProto] = ()) -> bytes:
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(of, opset_imports=imports, functions=functions)
    made.ir_version = 9
    return bytes(made.SerializeToString())


def add(weight: str = "w") -> NodeProto:
    return helper.make_node("Add", ["x", weight], ["y"])


def constant(tensor: TensorProto) -> NodeProto:
    return helper.make_node("Constant", [], ["w"], value=tensor)


def branch(tensor: TensorProto) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, [N])
    return helper.make_graph([constant(tensor)], "branch", [], [out])


def hidden_places(location: str) -> dict[str, bytes]:
    """The same foreign tensor wherever a model may have one."""
    tensor, plain = elsewhere(location), numpy_helper.from_array(np.zeros(N, np.float32), "w")
    true = numpy_helper.from_array(np.array(True), "true")
    choice = helper.make_node("If", ["true"], ["w"], then_branch=branch(tensor), else_branch=branch(plain))
    function = helper.make_function(
        "own", "Shift", ["x"], ["y"], [constant(tensor), add()], [helper.make_opsetid("", 17)]
    )
    sparse = onnx.SparseTensorProto(dims=[N])
    sparse.values.CopyFrom(tensor)
    with_sparse = graph([add()])
    with_sparse.sparse_initializer.append(sparse)
    return {
        "initializer": model(graph([add()], [tensor])),
        "constant": model(graph([constant(tensor), add()])),
        "branch": model(graph([choice, add()], [true])),
        "function": model(graph([helper.make_node("Shift", ["x"], ["y"], domain="own")]), "own", functions=[function]),
        "sparse": model(with_sparse),
    }


PLACES = ("initializer", "constant", "branch", "function", "sparse")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/passwd"])
def test_values_in_another_file_are_refused(here: Path, place: str, location: str) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx: .*values of a tensor lie in another file"):
        load_graph(Path("model.onnx"), hidden_places(location)[place], threads=1)


def test_onnx_runtime_by_itself_would_read_them(here: Path) -> None:
    """What the check is there for; where this fails, it may go."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(hidden_places("secret.bin")["initializer"], options)
    assert session.run(None, {"x": np.zeros(N, np.float32)})[0][-1] == N - 1


def test_values_in_the_file_itself_are_taken() -> None:
    values = numpy_helper.from_array(np.zeros(N, np.float32), "w")
    check_self_contained(model(graph([constant(values), add()])))
    check_self_contained(model(graph([add()], [values])))


def test_an_operator_of_somebody_s_own_is_refused() -> None:
    own = model(graph([helper.make_node("Evil", ["x"], ["y"], domain="evil.example")]), "evil.example")
    with pytest.raises(ValueError, match="not a graph that ONNX Runtime runs.*Evil"):
        load_graph(Path("model.onnx"), own, threads=1)


@pytest.mark.parametrize("content", [b"\xff\xff", b"\x3a\xff", b"not onnx at all"])
def test_what_is_no_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX file"):
        check_self_contained(content)


def test_values_elsewhere_are_found_in_a_functions_default_too():
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    function = helper.make_function("here", "F", [], ["y"], [], [helper.make_opsetid("", 17)])
    function.attribute_proto.append(helper.make_attribute("value", tensor))
    graph = helper.make_graph([], "g", [], [])
    model = helper.make_model(graph, functions=[function])
    with pytest.raises(ValueError, match="another file"):
        check_self_contained(model.SerializeToString())
