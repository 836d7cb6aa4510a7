"""Several processes, on one machine or many, that compute together on JAX's own runtime: how they start, which of them
writes, what they tell each other, and how all of them end.

One process is the case in which nothing of this happens. What processes tell each other goes through the store of
JAX's coordination service and not over the devices: a device that waits for another fails after half a minute on CPUs
(Gloo), and a validation takes longer. Orbax takes the same client from `jax._src.distributed`; JAX has no public name
for it."""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from nat_ar import config_json
from nat_ar.config_json import ConfigError
from nat_ar.runtime import bars, console, launchers, stuck

T = TypeVar("T")

HEARTBEAT = 30
"""seconds without a sign of life after which a process counts as gone"""
PATIENCE = 10.0
"""seconds within which processes that end alike come to their end"""
WITHOUT_END = 7 * 24 * 3600 * 1000
"""milliseconds to wait for another process while it works: that it is alive is watched elsewhere"""
PIECE = 2**20
"""bytes that processes tell each other at once"""
GONE = "is gone: it was killed or stopped, or its machine is down; the last checkpoint is good: run the same command"
FAILED, ENDING = "nat_ar/failed/", "nat_ar/ending"
"""of the store: where a process says why it ended before the others; and the barrier of those that end together"""


class ProcessError(OSError):
    """Another process of the job cannot go on; says which, and why."""


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    stuck_after: float = stuck.AFTER,
) -> Iterator[None]:
    """Within the block this process computes together with the others that options or launcher tell of, if any; see
    `launchers.requested`. To be entered before JAX is asked for a device.

    A process that ends with an error makes all others end within PATIENCE seconds, and one that is killed within
    HEARTBEAT seconds and some: they say in one line which it was and exit with status 2, whatever they are doing. So do
    all after `stuck_after` seconds without a step of training where one is expected (runtime.stuck); 0: never."""
    arguments = launchers.requested(coordinator, processes, process, os.environ)
    if arguments is None:
        yield
        return
    _initialize(arguments)
    bars.is_muted = not is_first()
    watch = _Watch(stuck_after)
    try:
        yield
    except BaseException as error:
        watch.leave_after(error)
        raise
    watch.leave()


def _initialize(arguments: dict[str, Any]) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX would abort the others with a stack trace; here `_Watch` ends them.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, as we do
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        wanted = ", ".join(f"{name} {value}" for name, value in arguments.items()) or "the launcher"
        raise ConfigError(
            f"the processes of the job do not find each other by {wanted}: {_first_line(error)}"
        ) from error


class _Watch:
    """A thread that looks every second whether a process has failed, or gives no sign of life. The death of the first
    process JAX notices itself, at once, and aborts the others: they explain it."""

    def __init__(self, stuck_after: float) -> None:
        self.client = _store()
        self.is_closing, self.is_ending = threading.Event(), threading.Lock()
        self.client.key_value_set(f"nat_ar/host/{index()}", socket.gethostname())
        barrier("hosts")
        hosts = dict(self.client.key_value_dir_get("nat_ar/host/"))
        self.names = [
            f"process {number} of {count()} ({hosts[f'nat_ar/host/{number}']})"
            for number in range(count())
        ]
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        self.steps = stuck.Watch(self.client, index(), self.names, self._end, stuck_after)
        if stuck_after > 0:
            self.steps.start()
        # Python's own handlers run in the main thread, which never comes to it.
        self.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._explain_abort)
        if not is_first():
            _libc().signal(signal.SIGABRT, self.handler)

    def _look(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # all is over
            while not self.is_closing.wait(1.0):
                alive = self.client.get_live_nodes(list(range(count())))  # waits for all that are
                for _, reason in self.client.key_value_dir_get(FAILED):
                    self._end(reason)
                if gone := [name for at, name in enumerate(self.names) if at not in alive]:
                    self._end(f"{', '.join(gone)} {GONE}")

    def _explain_abort(self, number: int) -> None:
        """Called by whatever thread aborts the process. An abort for another reason goes on."""
        _libc().signal(number, None)
        host, _, port = str(global_state.coordinator_address).rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except OSError:
            self._end(f"{self.names[0]}, by which the others find each other, {GONE}")

    def _end(self, reason: str) -> None:
        if not self.is_ending.acquire(blocking=False):
            return
        console.say(f"nat-ar: error: {reason}")
        if is_first():
            time.sleep(3.0)  # the others see it as well, as long as this process is there
        os._exit(2)  # whatever the main thread waits for will not come

    def leave(self) -> None:
        """All come to the end of their work."""
        self.client.wait_at_barrier(ENDING, WITHOUT_END)
        self._part()

    def leave_after(self, error: BaseException) -> None:
        """Where all come to this end, they part in peace; otherwise the others hear of it."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(HEARTBEAT + PATIENCE)  # what mostly is behind it `_look` knows better
        try:
            self.client.wait_at_barrier(ENDING, int(PATIENCE * 1000))
        except jax.errors.JaxRuntimeError:  # not all came
            self.is_ending.acquire()  # for good: if `_look` has it, the process ends here
            reason = f"{self.names[index()]} has ended: {_first_line(error)}"
            self.client.key_value_set(f"{FAILED}{index()}", reason)
            if is_first():
                time.sleep(3.0)  # as in `_end`; meanwhile `_look` goes on
            self._shut_down()
        else:
            self._part()

    def _part(self) -> None:
        """The first process, by which the others find each other, goes last."""
        self.is_ending.acquire()
        self.is_closing.set()
        if is_first():
            while len(self.client.get_live_nodes(list(range(count())))) > 1:
                time.sleep(0.1)
        self._shut_down()

    def _shut_down(self) -> None:
        """No thread may be in JAX's runtime when Python ends."""
        self.is_closing.set()
        self.thread.join()
        self.steps.close()
        _libc().signal(signal.SIGABRT, None)
        jax.distributed.shutdown()


def _libc() -> Any:
    """The C library, whose `signal` takes an address, or None for what happens by default."""
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    return library


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def are_joined() -> bool:
    """Whether JAX's runtime for several processes is up, be there one of them or more."""
    return jax.distributed.is_initialized()


def count() -> int:
    """How many processes compute together."""
    return global_state.num_processes


def index() -> int:
    """Which of them this is."""
    return global_state.process_id


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return index() == 0


_numbers = itertools.count()
"""of what processes have told each other: all of them count alike"""
_forgotten = [0]
"""the first of these numbers under which there is something in the store"""


def _store() -> Any:
    """The client of JAX's coordination service."""
    return global_state.client


def barrier(name: str) -> None:
    """Returns when all processes have come here."""
    if count() > 1:
        _store().wait_at_barrier(f"nat_ar/{next(_numbers)}/{name}", WITHOUT_END)


def from_first(compute: Callable[[], T]) -> T:
    """What `compute` returns in the first process, which alone calls it: JSON data, and in every process the same.

    Where it raises an Exception there, the others raise ProcessError."""
    if count() == 1:
        return compute()
    key, client = f"nat_ar/{next(_numbers)}", _store()
    if is_first():
        try:
            value = compute()
        except Exception as error:
            client.key_value_set(key, json.dumps({"error": f"process 0: {_first_line(error)}"}))
            raise
        client.key_value_set(key, json.dumps({"value": value}))
        return value
    told = json.loads(client.blocking_key_value_get(key, WITHOUT_END))
    if "error" in told:
        raise ProcessError(told["error"])
    return told["value"]


def gathered_by_first(own: T) -> list[T] | None:
    """What every process gives, JSON data, in the order of the processes; None in all but the first."""
    if count() == 1:
        return [own]
    number, client = next(_numbers), _store()
    if not is_first():
        text = zlib.compress(json.dumps(own).encode(), level=1)
        cuts = range(0, len(text), PIECE)
        for k, cut in enumerate(cuts):
            client.key_value_set_bytes(f"nat_ar/{number}/{index()}/{k}", text[cut : cut + PIECE])
        client.key_value_set(f"nat_ar/{number}/{index()}/pieces", str(len(cuts)))
        return None
    told = [own]
    for other in range(1, count()):
        key = f"nat_ar/{number}/{other}"
        pieces = int(client.blocking_key_value_get(f"{key}/pieces", WITHOUT_END))
        texts = (
            client.blocking_key_value_get_bytes(f"{key}/{k}", WITHOUT_END) for k in range(pieces)
        )
        told.append(json.loads(zlib.decompress(b"".join(texts))))
        client.key_value_delete(key)
    _forget_before(number)
    return told


def _forget_before(number: int) -> None:
    """Who has told the first process something under a number has read all that was told under smaller ones: the store
    does not grow with the work."""
    for passed in range(_forgotten[0], number):
        _store().key_value_delete(f"nat_ar/{passed}")
    _forgotten[0] = number


def total(numbers: Sequence[int]) -> list[int]:
    """The sums over all processes, number by number; each gives as many."""
    told = gathered_by_first(list(numbers))
    return from_first(lambda: [sum(own) for own in zip(*(told or ()), strict=True)])


@contextlib.contextmanager
def held_by_first(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """A context that the first process alone enters, such as a lock; where it cannot, none goes on."""
    with contextlib.ExitStack() as held:

        def enter() -> None:
            held.enter_context(context)

        from_first(enter)
        yield


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Work of each process by itself, after which all go on or none does: where one raises an Exception, all others
    raise ProcessError, which names it. Nothing in the block may wait for another process."""
    if count() == 1:
        yield
        return
    key, client = f"nat_ar/{next(_numbers)}", _store()
    own = f"{key}/{index()}"
    try:
        yield
    except Exception as error:
        client.key_value_set(own, f"process {index()}: {_first_line(error)}")
        _verdict(key)
        raise
    client.key_value_set(own, "")
    if failure := _verdict(key):
        raise ProcessError(failure)


def _verdict(key: str) -> str:
    """The failure of the first process that has one; empty where none has. The first process asks all of them."""
    client, verdict = _store(), f"{key}/all"
    if is_first():
        outcomes = [
            client.blocking_key_value_get(f"{key}/{number}", WITHOUT_END)
            for number in range(count())
        ]
        client.key_value_set(verdict, next(filter(None, outcomes), ""))
    return client.blocking_key_value_get(verdict, WITHOUT_END)


def require_same(own: dict[str, Any], what: str) -> None:
    """Raises ConfigError in a process that was given something else than the first, JSON data, and ProcessError in the
    others. `what` is done together: "all processes train one experiment"."""
    first = from_first(lambda: own)
    with failing_together():
        if changed := list(config_json.differences(first, own)):
            raise ConfigError(f"{what}: expected that of process 0, got {'; '.join(changed)}")


def broadcast(tree: Any) -> Any:
    """Arrays of the first process, in the memory of every one. Processors of two kinds may make two arrays of one
    seed."""
    return tree if count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def gathered(tree: Any) -> Any:
    """The whole arrays, in the memory of every process. All must ask for them."""
    if count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
