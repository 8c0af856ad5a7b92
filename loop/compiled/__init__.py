"""The inner loop: many steps in one compiled call, and the choice of its compiler."""

from loop.compiled.compiled_loop import CompiledLoop, Mode, Outcome

__all__ = ["CompiledLoop", "Mode", "Outcome"]
