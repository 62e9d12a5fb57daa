"""Paged KV blocks with a prefix cache, as counts and content keys: no block has an address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from engine_adapter.simulated.request import SimulatedRequest


class KvBlocks:
    """Which of the engine's blocks are taken, and what the free ones still hold.

    A block that nobody refers to stays readable until it is needed for something else: those without content first,
    then the longest unused, a request's last blocks before its first (vLLM's order). Full blocks of a shared prefix
    are held once by all who run with it.
    """

    def __init__(self, blocks: int, block_tokens: int, *, prefix_cache: bool) -> None:
        self.blocks, self.block_tokens = blocks, block_tokens
        self._caches = prefix_cache
        self._empty = blocks
        self._references: dict[Hashable, int] = {}
        self._idle: OrderedDict[Hashable, None] = OrderedDict()

    @property
    def free(self) -> int:
        return self._empty + len(self._idle)

    @property
    def shared_in_use(self) -> int:
        """Blocks of shared prefixes that somebody refers to."""
        return len(self._references)

    def count(self, tokens: int) -> int:
        """Blocks that so many tokens fill."""
        return -(-tokens // self.block_tokens)

    def cached(self, request: SimulatedRequest) -> tuple[int, int]:
        """Leading full blocks of a waiting request that are still there, and how many of these are free ones.

        Never all of its tokens: the last one has to pass the model.
        """
        if not self._caches or not (request.prefix_keys or request.preemptions):
            return 0, 0
        at_most, free = (request.tokens - 1) // self.block_tokens, 0
        for index in range(at_most):
            key = self._key(request, index)
            if key in self._idle:
                free += 1
            elif key not in self._references:
                return index, free
        return at_most, free

    def claim(self, request: SimulatedRequest, hits: int) -> None:
        """Holds the request's first ``hits`` blocks, which are there."""
        shared = len(request.prefix_keys)
        for index in range(hits):
            key = self._key(request, index)
            self._idle.pop(key, None)
            if index < shared:
                self._references[key] = self._references.get(key, 0) + 1
                request.held_keys.append(key)

    def take(self, blocks: int) -> None:
        """Takes free blocks, of which there are enough; what they held is lost."""
        overwritten = max(blocks - self._empty, 0)
        self._empty -= blocks - overwritten
        for _ in range(overwritten):
            self._idle.popitem(last=False)

    def computed(self, request: SimulatedRequest, before: int, after: int) -> None:
        """KV entries of its tokens ``before`` to ``after`` were made: others can share what became full.

        What another request computed at the same time stays a block of one's own, without content for anyone.
        """
        if not self._caches:
            return
        full = min(after // self.block_tokens, len(request.prefix_keys))
        for key in request.prefix_keys[before // self.block_tokens : full]:
            if key not in self._references and key not in self._idle:
                self._references[key] = 1
                request.held_keys.append(key)

    def release(self, request: SimulatedRequest, computed_tokens: int) -> None:
        """Gives back all blocks of a request whose KV entries cover ``computed_tokens``."""
        shared = len(request.prefix_keys)
        own = self.count(computed_tokens) - len(request.held_keys)
        full = range(shared, computed_tokens // self.block_tokens) if self._caches else range(0)
        for index in reversed(full):
            self._idle[self._key(request, index)] = None
        self._empty += own - len(full)
        for key in reversed(request.held_keys):
            self._references[key] -= 1
            if not self._references[key]:
                del self._references[key]
                self._idle[key] = None
        request.held_keys.clear()

    @staticmethod
    def _key(request: SimulatedRequest, index: int) -> Hashable:
        """What names the content of a request's block ``index``."""
        keys = request.prefix_keys
        return keys[index] if index < len(keys) else (request.handle, index)
