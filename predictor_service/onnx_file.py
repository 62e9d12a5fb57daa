"""What of an ONNX file ONNX Runtime does not check: that all of it is in the file.

A tensor can name another file that holds its values; a graph loaded from memory would have it read in the folder that
the process was started in. Only the fields that lead to tensors are declared; their numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_FIELDS = {
    "Model": {"graph": (7, "Graph"), "functions": (25, "Function")},
    "Function": {"node": (7, "Node"), "attribute_proto": (11, "Attribute")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse_initializer": (15, "SparseTensor")},
    "Node": {"attribute": (5, "Attribute")},
    "Attribute": {
        "t": (5, "Tensor"), "g": (6, "Graph"), "tensors": (10, "Tensor"), "graphs": (11, "Graph"),
        "sparse_tensor": (22, "SparseTensor"), "sparse_tensors": (23, "SparseTensor"),
    },
    "SparseTensor": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    # External data: the place (13) and the flag that there is one (14).
    "Tensor": {"external_data": (13, "Entry"), "data_location": (14, "")},
    "Entry": {},
}  # fmt: skip
_Field = descriptor_pb2.FieldDescriptorProto


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="trail/onnx_file.proto", package="trail.onnx", syntax="proto3")
    for name, members in _FIELDS.items():
        message = file.message_type.add(name=name)
        for member, (number, kind) in members.items():
            field = message.field.add(name=member, number=number, label=_Field.LABEL_REPEATED, type=_Field.TYPE_INT32)
            if kind:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".trail.onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("trail.onnx.Model"))


_Model = _message_class()


def check_self_contained(content: bytes) -> None:
    """Raises ValueError for a file that is no ONNX, or has values elsewhere."""
    try:
        model = _Model.FromString(content)
    except DecodeError:
        raise ValueError("not an ONNX file") from None
    if any(tensor.external_data or any(tensor.data_location) for tensor in _tensors(model)):
        raise ValueError("values of a tensor lie in another file (external data): save the model as one file")


def _tensors(message: Any) -> Iterator[Any]:
    for field, values in message.ListFields():
        if field.message_type is not None:
            for each in values:
                if each.DESCRIPTOR.name == "Tensor":
                    yield each
                else:
                    yield from _tensors(each)
