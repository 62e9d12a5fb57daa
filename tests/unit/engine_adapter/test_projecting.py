"""Rows that the engine projects, against the projection as numpy computes it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine_adapter.vllm import projecting  # noqa: E402
from engine_adapter.vllm.projecting import ProjectedRows, Standardised  # noqa: E402
from engine_adapter.vllm.settings import ProjectionSettings  # noqa: E402
from engine_adapter.vllm.tap import Picked  # noqa: E402
from sidecar.projection import Projection, id_of  # noqa: E402

LAYERS, WIDTH, TOKENS, P = 3, 64, 50, 32
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def projection(seed: int = 0) -> Projection:
    rng, dim = np.random.default_rng(seed), LAYERS * WIDTH
    mean, scale = rng.normal(0, 5, dim).astype(np.float32), rng.uniform(0.1, 3, dim).astype(np.float32)
    weight = rng.normal(0, dim**-0.5, (dim, P)).astype(np.float16)
    return Projection(mean, scale, np.array(10, np.float32), weight)


def picked(count: int) -> Picked:
    at = np.random.default_rng(count).permutation(TOKENS)[:count]
    handles = np.arange(count, dtype=np.uint64)
    return Picked(3, at, handles, handles.astype(np.uint32))


class Kept:
    behind = False

    def __init__(self) -> None:
        self.shipped: list[tuple[Picked, Any]] = []

    def __call__(self, picked: Picked, layers: Any) -> None:
        (layer,) = layers
        self.shipped.append((picked, layer.cpu().numpy()[picked.at]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("read", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("count", [1, 5, TOKENS])
def test_rows_arrive_projected_in_their_order(device: str, read: str, count: int) -> None:
    inner, project, dtype = Kept(), projection(), getattr(torch, read)
    ship = ProjectedRows(inner, project, LAYERS, dtype, TOKENS, torch.device(device))
    assert isinstance(ship._standardise, Standardised) == (device == "cpu")
    layers = [torch.randn(TOKENS, WIDTH, device=device).mul(20).to(dtype) for _ in range(LAYERS)]
    chosen = picked(count)
    ship(chosen, layers)
    ((told, rows),) = inner.shipped
    hidden = torch.cat([layer.float() for layer in layers], dim=1).cpu().numpy()[chosen.at]
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows, project(hidden), rtol=2e-3, atol=2e-2)
    assert (np.abs((hidden - project.mean) * project.scale) > 10).any(), "some were cut"
    np.testing.assert_array_equal(told.handles, chosen.handles)
    np.testing.assert_array_equal(told.ages, chosen.ages)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_no_number_stays_none_and_what_is_too_large_is_cut(device: str) -> None:
    inner, project = Kept(), projection()
    ship = ProjectedRows(inner, project, LAYERS, torch.float32, TOKENS, torch.device(device))
    layers = [torch.zeros(TOKENS, WIDTH, device=device) for _ in range(LAYERS)]
    layers[0][7, 3], layers[1][8, 3] = float("nan"), 1e30
    chosen = picked(TOKENS)
    ship(chosen, layers)
    ((_, rows),) = inner.shipped
    assert np.isnan(rows[chosen.at == 7]).all()
    hidden = torch.cat(layers, dim=1).cpu().numpy()[chosen.at]
    good = chosen.at != 7
    np.testing.assert_allclose(rows[good], project(hidden[good]), rtol=2e-3, atol=2e-2)


def test_a_file_that_was_not_meant_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    content = projection().pack()
    path = tmp_path / "projection.npz"
    path.write_bytes(content)
    given = ProjectionSettings(path=path, id=id_of(content), dim=P)
    found = projecting.load(given, LAYERS * WIDTH)
    np.testing.assert_array_equal(found.weight, projection().weight)
    with pytest.raises(ValueError, match=f"from 192 values to {P}, but the layers have 64"):
        projecting.load(given, WIDTH)
    with pytest.raises(ValueError, match="dim is 31"):
        projecting.load(given.model_copy(update={"dim": P - 1}), LAYERS * WIDTH)
    path.write_bytes(projection(seed=1).pack())
    with pytest.raises(ValueError, match=f"not {given.id}"):
        projecting.load(given, LAYERS * WIDTH)
