"""What `manifest.json` of a model artefact must say."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from predictor_service.prompt_section import CountsSection, PromptSection, TextSection, TokensSection

Positive = Annotated[FiniteFloat, Field(gt=0)]
Rate = Annotated[FiniteFloat, Field(gt=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Files(BaseModel):
    """sha256 of each file."""

    model: Sha256 = Field(alias="model.onnx")
    prompt: Sha256 = Field(alias="prompt.onnx")
    # Says nearly the same as model.onnx, and faster on a CPU; artefacts made before there was one do without.
    model_int8: Sha256 | None = Field(default=None, alias="model.int8.onnx")
    # model.onnx cut behind its first product: what engines may do by themselves, and the rest. Both or neither.
    projection: Sha256 | None = Field(default=None, alias="projection.npz")
    head: Sha256 | None = Field(default=None, alias="head.onnx")
    # Of the prompt kind text only.
    llm_tokenizer: Sha256 | None = Field(default=None, alias="llm_tokenizer.json")
    prompt_tokenizer: Sha256 | None = Field(default=None, alias="prompt_tokenizer.json")


class Canary(BaseModel):
    """An input whose output is known: hidden is standard normal from numpy's default_rng(hidden_seed)."""

    hidden_seed: int
    rows: int = Field(ge=1, le=64)
    ages: list[FiniteFloat]
    probabilities: list[list[FiniteFloat]]
    # What model.int8.onnx answers, where there is one.
    int8: list[list[FiniteFloat]] | None = None


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
    # Values of a projected row, where rows may come projected.
    projected_dim: int | None = Field(default=None, ge=1)
    edges: list[FiniteFloat] = Field(min_length=2, max_length=1024)
    representatives: list[FiniteFloat]
    rates: list[Rate]
    prior: list[Positive]
    # True: bin 0 keeps what would have finished, as in the paper; a baseline.
    absorbing: bool = False
    tau: float = Field(gt=0, le=1)
    forgetting: float = Field(default=1.0, ge=0, le=1)
    # Quantile levels whose interval held 80 % of the truth on validation; served as p10 and p90.
    interval_levels: tuple[Level, Level] = (0.1, 0.9)
    floor: float = Field(gt=0, lt=0.1)
    prompt_buckets: int | None = Field(default=None, ge=1)
    prompt: PromptSection | None = None
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
        if self.interval_levels[0] >= self.interval_levels[1]:
            raise ValueError("interval_levels: the first must be below the second")
        self._check_prompt()
        self._inside_bins()
        if (self.files.model_int8 is None) != (self.canary.int8 is None):
            raise ValueError("canary.int8: must be given if files names model.int8.onnx, and only then")
        if len({self.files.projection is None, self.files.head is None, self.projected_dim is None}) > 1:
            raise ValueError("projected_dim: projection.npz, head.onnx and this must be given together")
        if len(self.canary.ages) != self.canary.rows:
            raise ValueError(f"canary.ages: {len(self.canary.ages)} entries for {self.canary.rows} rows")
        return self

    @property
    def prompt_stage(self) -> CountsSection | TokensSection | TextSection:
        """What the prompt stage is; artefacts made before there was a choice only say `prompt_buckets`."""
        return self.prompt or CountsSection(buckets=self.prompt_buckets or 1)

    def _check_prompt(self) -> None:
        if (self.prompt is None) == (self.prompt_buckets is None):
            raise ValueError("prompt: either this or prompt_buckets must be given")
        if isinstance(self.prompt, TextSection) and not (self.files.llm_tokenizer and self.files.prompt_tokenizer):
            raise ValueError("files: the prompt kind text needs llm_tokenizer.json and prompt_tokenizer.json")

    def _inside_bins(self) -> None:
        upper = [*self.edges[1:], float("inf")]
        for index, value in enumerate(self.representatives):
            if not self.edges[index] <= value <= upper[index]:
                raise ValueError(f"representatives: entry {index} ({value}) lies outside its bin")
