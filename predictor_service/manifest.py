"""What `manifest.json` of a model artefact must say."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Positive = Annotated[FiniteFloat, Field(gt=0)]
Rate = Annotated[FiniteFloat, Field(gt=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Files(BaseModel):
    """sha256 of each file."""

    model: Sha256 = Field(alias="model.onnx")
    prompt: Sha256 = Field(alias="prompt.onnx")


class Canary(BaseModel):
    """An input whose output is known: hidden is standard normal from numpy's default_rng(hidden_seed)."""

    hidden_seed: int
    rows: int = Field(ge=1, le=64)
    ages: list[FiniteFloat]
    probabilities: list[list[FiniteFloat]]


class Manifest(BaseModel):
    """Layout, bins and refinement of one artefact. Lists over bins all have the same length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    served_model: str
    layers: list[int] = Field(min_length=1)
    hidden_size: int = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: Literal["float16"]
    edges: list[FiniteFloat] = Field(min_length=2, max_length=1024)
    representatives: list[FiniteFloat]
    rates: list[Rate]
    prior: list[Positive]
    tau: float = Field(gt=0, le=1)
    floor: float = Field(gt=0, lt=0.1)
    prompt_buckets: int = Field(ge=1)
    training: dict[str, Any]
    metrics: dict[str, Any]
    files: Files
    canary: Canary

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        bins = len(self.edges)
        for name in ("representatives", "rates", "prior"):
            if len(getattr(self, name)) != bins:
                raise ValueError(f"{name}: {len(getattr(self, name))} entries for {bins} edges")
        if self.edges[0] != 0 or any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges: must start at 0 and rise")
        if self.dim != len(self.layers) * self.hidden_size:
            raise ValueError(f"dim: {self.dim} is not layers * hidden_size")
        if abs(sum(self.prior) - 1) > 1e-3:
            raise ValueError(f"prior: sums to {sum(self.prior):.4f} instead of 1")
        if self.rates[-1] >= 1:
            raise ValueError("rates: the open bin's must be below 1")
        self._inside_bins()
        if len(self.canary.ages) != self.canary.rows:
            raise ValueError(f"canary.ages: {len(self.canary.ages)} entries for {self.canary.rows} rows")
        return self

    def _inside_bins(self) -> None:
        upper = [*self.edges[1:], float("inf")]
        for index, value in enumerate(self.representatives):
            if not self.edges[index] <= value <= upper[index]:
                raise ValueError(f"representatives: entry {index} ({value}) lies outside its bin")
