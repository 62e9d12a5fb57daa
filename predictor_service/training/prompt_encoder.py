"""The network of the prompt kinds that read ids in order: a transformer encoder over a table of embeddings.

The same network is BERT when its weights are BERT's (post-norm blocks, learnt positions, exact GELU), and a tiny
encoder of the served LLM's own ids when its table starts from the LLM's embeddings.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-12
_NOTHING = -1e4


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder. `rank`: width of the table, widened to `width` where it is smaller."""

    rows: int
    rank: int
    width: int
    heads: int
    inner: int
    layers: int
    positions: int
    hidden: int
    classes: int


class Table(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """Embeddings [rows, rank]: learnt ones, on top of a learnt projection of fixed ones where `base` is given.

    The projection moves rows that training never sees along with those that it does.
    """

    def __init__(self, rows: int, rank: int, base: Tensor | None = None) -> None:
        super().__init__()
        self.own = nn.Embedding(rows, rank)
        self.register_buffer("base", base, persistent=False)
        if base is not None:
            nn.init.zeros_(self.own.weight)
            self.project = nn.Linear(base.shape[1], rank, bias=False)
            self.project.weight.data = _principal_directions(base, rank)

    def forward(self, ids: Tensor) -> Tensor:
        own: Tensor = self.own(ids)
        return own if self.base is None else own + self.project(self.base[ids])

    def rows(self) -> Tensor:
        """The whole table [rows, rank], as it is served."""
        own: Tensor = self.own.weight
        return own if self.base is None else own + self.project(self.base)


class Block(nn.Module):  # type: ignore[misc]
    """Self-attention, then two dense layers, each added to what came in and normalised."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.norm1 = nn.LayerNorm(shape.width, eps=EPSILON)
        self.up = nn.Linear(shape.width, shape.inner)
        self.down = nn.Linear(shape.inner, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """[n, T, width] for [n, T, width], of which `valid` [n, T] counts."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        x = self.norm1(x + self.dropout(self.out(seen.transpose(1, 2).flatten(2))))
        y: Tensor = self.norm2(x + self.dropout(self.down(functional.gelu(self.up(x)))))
        return y


class Encoder(nn.Module):  # type: ignore[misc]
    """Ids [n, T] (below 0: padding) and prompt lengths [n] to logits over classes of output length [n, classes]."""

    def __init__(self, shape: Shape, *, dropout: float, base: Tensor | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.table = Table(shape.rows, shape.rank, base)
        self.widen = nn.Linear(shape.rank, shape.width) if shape.rank != shape.width else nn.Identity()
        self.position = nn.Embedding(shape.positions, shape.width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.norm = nn.LayerNorm(shape.width, eps=EPSILON)
        self.blocks = nn.ModuleList([Block(shape, dropout) for _ in range(shape.layers)])
        self.dropout = nn.Dropout(dropout)
        self.summary = nn.Linear(2 * shape.width + 1, shape.hidden)
        self.classes = nn.Linear(shape.hidden, shape.classes)

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        valid = ids >= 0
        x = self.widen(self.table(ids.clamp(min=0))) + self.position.weight[: ids.shape[1]]
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, valid)
        logits: Tensor = self.classes(self.dropout(functional.gelu(self.summary(self._pooled(x, valid, tokens)))))
        return logits

    def _pooled(self, x: Tensor, valid: Tensor, tokens: Tensor) -> Tensor:
        """Mean and largest value over the ids, and the logarithm of the prompt's length [n, 2 * width + 1]."""
        inside = valid[:, :, None]
        mean = (x * inside).sum(1) / inside.sum(1)
        largest = x.masked_fill(~inside, _NOTHING).amax(1)
        return torch.cat([mean, largest, tokens.clamp(min=1).log()[:, None].to(x.dtype)], dim=1)

    @property
    def body(self) -> list[nn.Parameter]:
        """What a pretrained encoder brings along; the rest is new."""
        new = {id(parameter) for head in (self.summary, self.classes) for parameter in head.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in new]


def embeddings(llm: Path) -> Tensor:
    """The LLM's input embeddings [vocabulary + 1, hidden size], standardised; unknown ids have the last row, the mean.

    `llm` is a Hugging Face folder. Raises ValueError where no file in it holds such a table.
    """
    from safetensors import safe_open

    for path in sorted(llm.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as tensors:
            found = [name for name in tensors.keys() if name.endswith("embed_tokens.weight")]  # noqa: SIM118
            if found:
                table = tensors.get_tensor(found[0]).float()
                table = (table - table.mean(0)) / table.std()
                return torch.cat([table, torch.zeros(1, table.shape[1])])
    raise ValueError(f"{llm}: no safetensors file with embed_tokens.weight")


def bert_encoder(folder: Path, *, hidden: int, classes: int, dropout: float) -> Encoder:
    """BERT from a Hugging Face folder (config.json, model.safetensors), with a new head."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        raise ValueError(f"{folder}: model_type {config['model_type']} with {config['hidden_act']} is not a BERT")
    width = config["hidden_size"]
    shape = Shape(
        rows=config["vocab_size"],
        rank=width,
        width=width,
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        positions=config["max_position_embeddings"],
        hidden=hidden,
        classes=classes,
    )
    encoder = Encoder(shape, dropout=dropout)
    state = load_file(str(folder / "model.safetensors"))
    weights = {name.removeprefix("bert."): value for name, value in state.items()}
    encoder.load_state_dict(_from_bert(weights, shape.layers), strict=False)
    return encoder


def _from_bert(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """BERT's tensors by our names. The one token type that is ever used is added to the positions."""
    names = {
        "table.own.weight": "embeddings.word_embeddings.weight",
        "norm.weight": "embeddings.LayerNorm.weight",
        "norm.bias": "embeddings.LayerNorm.bias",
    }
    for i in range(layers):
        there = f"encoder.layer.{i}"
        for ours, theirs in (
            ("out", "attention.output.dense"),
            ("norm1", "attention.output.LayerNorm"),
            ("up", "intermediate.dense"),
            ("down", "output.dense"),
            ("norm2", "output.LayerNorm"),
        ):
            names |= {f"blocks.{i}.{ours}.{part}": f"{there}.{theirs}.{part}" for part in ("weight", "bias")}
    found = {ours: weights[theirs] for ours, theirs in names.items()}
    for i in range(layers):
        for part in ("weight", "bias"):
            three = [weights[f"encoder.layer.{i}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            found[f"blocks.{i}.qkv.{part}"] = torch.cat(three)
    types = weights["embeddings.token_type_embeddings.weight"]
    found["position.weight"] = weights["embeddings.position_embeddings.weight"] + types[0]
    return found


def _principal_directions(base: Tensor, rank: int) -> Tensor:
    """[rank, columns]: the directions in which rows of `base` vary most, scaled so that values are about 1."""
    values, vectors = torch.linalg.eigh(base.T @ base / len(base))
    return (vectors[:, -rank:] / values[-rank:].clamp(min=1e-6).sqrt()).T.contiguous()
