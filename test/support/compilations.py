"""What JAX compiles while a test runs."""

from contextlib import contextmanager

import jax


@contextmanager
def compilations():
    """What is compiled meanwhile, an entry per program."""
    found, on = [], [True]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: found.append(event) if on[0] and event.endswith("backend_compile_duration") else None
    )
    yield found
    on[0] = False
