"""Orbax reads all arrays at once; here it waits for all of them, whichever fails."""

import asyncio
import contextlib
from collections.abc import Iterator


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that is closed only after its last task has ended."""

    def close(self) -> None:
        while tasks := asyncio.all_tasks(self):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _PatientLoops(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


@contextlib.contextmanager
def none_abandoned() -> Iterator[None]:
    """Orbax reads all arrays at once and, when one fails, closes its event loop on the others. Each of them
    would complain to sys.unraisablehook when it ends or is collected; in this context they are waited for."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_PatientLoops())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)
