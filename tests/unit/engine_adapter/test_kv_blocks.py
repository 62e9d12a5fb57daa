"""The engine model's KV blocks: what the prefix cache keeps, shares and loses."""

from engine_adapter.records import Engine
from engine_adapter.simulated.model import EngineModel
from engine_adapter.simulated.request import SimulatedRequest


def engine(kv_blocks: int = 100, slots: int = 4, budget: int = 256, *, cache: bool = True) -> EngineModel:
    return EngineModel(Engine(slots, kv_blocks, 16, budget), prefix_cache=cache)


def request(
    name: str, prompt: int, output: int, keys: tuple[int, ...] = (), arrival_s: float = 0.0
) -> SimulatedRequest:
    return SimulatedRequest(name, range(prompt), output, arrival_s, prefix_keys=keys)


def serve(model: EngineModel, *requests: SimulatedRequest) -> None:
    for each in requests:
        model.submit(each)
    now = 0.0
    while model.running or model.waiting:
        now += 1
        model.step(None, now)


def test_all_blocks_are_free_again_when_everything_has_ended() -> None:
    model = engine()
    serve(model, request("a", 100, 40), request("b", 64, 3, keys=(1, 2, 3, 4)), request("c", 64, 3, keys=(1, 2, 3, 4)))
    assert (model.kv.free, model.kv.shared_in_use) == (100, 0)


def test_a_prompt_that_somebody_had_before_is_computed_but_for_its_last_block() -> None:
    model = engine()
    first, second = request("a", 64, 2, keys=(1, 2, 3, 4)), request("b", 64, 2, keys=(1, 2, 3, 4))
    serve(model, first)
    serve(model, second)
    assert (first.cached_tokens, second.cached_tokens) == (0, 48)


def test_only_the_common_beginning_is_shared() -> None:
    model = engine()
    serve(model, request("a", 64, 2, keys=(1, 2, 3, 4)))
    other = request("b", 64, 2, keys=(1, 2, 30, 40))
    serve(model, other)
    assert other.cached_tokens == 32


def test_a_prefix_that_two_run_with_takes_its_blocks_once() -> None:
    model = engine()
    a, b = request("a", 64, 50, keys=(1, 2, 3, 4)), request("b", 80, 50, keys=(1, 2, 3, 4), arrival_s=1.0)
    model.submit(a)
    model.step(None, 1.0)
    model.submit(b)
    model.step(None, 2.0)
    assert b.cached_tokens == 64
    assert model.kv.blocks - model.kv.free == 5 + 1  # a's 65 tokens, and b's 80 beyond the shared 64


def test_what_a_victim_computed_is_there_when_it_comes_back() -> None:
    model = engine(kv_blocks=20, slots=2)
    a, b = request("a", 150, 60), request("b", 100, 60, arrival_s=1.0)
    serve(model, a, b)
    assert b.preemptions > 0
    assert b.cached_tokens > 0
    uncached = engine(kv_blocks=20, slots=2, cache=False)
    again = request("b", 100, 60, arrival_s=1.0)
    serve(uncached, request("a", 150, 60), again)
    assert again.cached_tokens == 0
    assert b.recomputed_tokens < again.recomputed_tokens


def test_the_longest_unused_content_is_overwritten_first() -> None:
    model = engine(kv_blocks=12)
    serve(model, request("a", 64, 1, keys=(1, 2, 3, 4)), request("b", 64, 1, keys=(5, 6, 7, 8), arrival_s=1.0))
    serve(model, request("large", 96, 1))  # six blocks: four hold nothing, two of a's, its last ones, go
    b, a = request("b2", 64, 1, keys=(5, 6, 7, 8)), request("a2", 64, 1, keys=(1, 2, 3, 4))
    assert model.kv.cached(b)[0] == 3
    assert model.kv.cached(a)[0] == 2
