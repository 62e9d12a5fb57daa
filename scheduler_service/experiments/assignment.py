"""Which arm an engine serves in which block. A hash decides, so every replica knows without asking another."""

from __future__ import annotations

import hashlib

from scheduler_service.experiments.design import Arm, Design


def arm_of(design: Design, engine_id: str, block: int) -> Arm:
    """Every group of blocks, one for each live arm, is a permutation of the arms: all orders are equally likely, and
    those of different engines and groups know nothing of each other."""
    arms = design.live_arms
    group, at = divmod(block, len(arms))
    return sorted(arms, key=lambda arm: _lot(design, engine_id, group, arm))[at]


def _lot(design: Design, engine_id: str, group: int, arm: Arm) -> bytes:
    text = f"{design.seed}\0{design.name}\0{engine_id}\0{group}\0{arm.name}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
