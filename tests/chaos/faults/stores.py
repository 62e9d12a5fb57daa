"""A store that refuses, forgets, or is another one than before."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from sidecar.redis import keys
from tests.chaos.fault import Began, Plans, fault
from tests.chaos.processes import until
from tests.chaos.system import ENGINE_ID, System
from tests.conftest import Valkey

NAMES = keys(ENGINE_ID)


@fault(Plans.MAY_PAUSE)
def store_restarted_empty_at_once(system: System, began: Began) -> Iterator[None]:
    system.store.kill()
    system.store.restart_empty()
    yield


@fault(Plans.END)
def store_read_only(system: System, began: Began) -> Iterator[None]:
    with system.store.client() as client:
        # Of a master that is not there.
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@fault(Plans.END)
def store_without_enough_replicas(system: System, began: Began) -> Iterator[None]:
    system.store.configure(min_replicas_to_write=1)
    yield
    system.store.configure(min_replicas_to_write=0)


@fault(Plans.END)
def store_out_of_memory(system: System, began: Began) -> Iterator[None]:
    system.store.configure(maxmemory=1)
    yield
    system.store.configure(maxmemory=0)


@fault(Plans.MAY_PAUSE)
def store_failed_over_with_lost_writes(system: System, began: Began) -> Iterator[None]:
    """The replica stopped listening a second ago: it has the owner, and old posteriors."""
    spare = system.store.start_spare(f"spare-{time.monotonic_ns()}")
    _replicate(system.store.valkey, spare)
    time.sleep(1)
    began.now()
    system.store.go_over_to(spare)
    yield


@fault(Plans.MAY_PAUSE)
def store_failed_over_to_one_that_has_an_older_owner(system: System, began: Began) -> Iterator[None]:
    """As above, and since then the engine was claimed under a newer epoch."""
    spare = system.store.start_spare(f"spare-{time.monotonic_ns()}")
    _replicate(system.store.valkey, spare)
    system.predictor_link.reset()
    with system.store.client() as client, spare.client() as other:
        until(lambda: client.get(NAMES.owner) != other.get(NAMES.owner), "the engine was claimed again")
    system.until_in_order()
    began.now()
    system.store.go_over_to(spare)
    yield


@fault(Plans.MAY_PAUSE)
def store_flushed(system: System, began: Began) -> Iterator[None]:
    with system.store.client() as client:
        client.flushall()
    yield


@fault(Plans.GO_ON)
def store_functions_flushed(system: System, began: Began) -> Iterator[None]:
    with system.store.client() as client:
        client.function_flush()
    yield


@fault(Plans.MAY_PAUSE)
def store_expired_everything_early(system: System, began: Began) -> Iterator[None]:
    """As when the clock of its machine jumps ahead."""
    with system.store.client() as client:
        for _ in range(3):
            for key in client.scan_iter("trail:*"):
                client.pexpire(key, 1)
            time.sleep(0.5)
    yield


@fault(Plans.GO_ON)
def store_with_damaged_records(system: System, began: Began) -> Iterator[None]:
    chance = random.Random(0)
    with system.store.client() as client:
        for _ in range(50):
            for request_id in client.hkeys(NAMES.posterior):
                client.hset(NAMES.posterior, request_id, chance.randbytes(40))
            client.hset(NAMES.posterior, chance.randbytes(8), b"nobody's")
            time.sleep(0.02)
        client.spublish(NAMES.predictions, b"\xff\xfe not a message")
    yield
    # A gap or a new claim has them read, and dropped.
    system.predictor_link.reset()


def _replicate(master: Valkey, replica: Valkey) -> None:
    """The replica gets all that the master has, and nothing from then on."""
    with master.client() as client, replica.client() as other:
        for key in client.scan_iter("trail:*"):
            other.restore(key, max(client.pttl(key), 0), client.dump(key), replace=True)
