"""Exceptions and warnings. Every message says what happened, the value seen, and what to try."""


class HypergradError(Exception):
    """Base of every exception that hypergrad raises on purpose."""


class InvalidInputError(HypergradError, ValueError):
    """An argument, an option or a batch has a value that cannot be used."""


class UnknownNameError(InvalidInputError, LookupError):
    """A name is not in a registry; the message lists the names that are."""


class MissingLibraryError(HypergradError, ImportError):
    """An optional library cannot be imported; the message says how to install it."""


class UnsupportedModelError(HypergradError, TypeError):
    """A model cannot be differentiated twice correctly (sharded, synchronised, wrapped)."""


class RankError(HypergradError, RuntimeError):
    """The ranks of ``torch.distributed`` differ where they must be equal."""


class SolverError(HypergradError, ArithmeticError):
    """The inverse-Hessian solve failed and ``on_failure="raise"`` was asked for."""


class NonFiniteError(HypergradError, ArithmeticError):
    """A loss or a gradient is NaN or infinite, so nothing can be solved.

    Attributes:
        failure: a :class:`hypergrad.failures.Failure` where the step was traced, else None.
    """

    failure: object = None


class GradCheckError(HypergradError, AssertionError):
    """A hypergradient differs from differences by more than inexact solutions justify (``raise_on_failure=True``)."""


class CheckpointError(HypergradError, OSError):
    """A checkpoint is damaged, or cannot be written so that it reads back."""


class HypergradWarning(UserWarning):
    """Base of every warning that hypergrad issues."""


class CheckpointWarning(HypergradWarning):
    """A checkpoint could not be saved, or a damaged one was passed over; the run goes on."""


class SolverWarning(HypergradWarning):
    """The inverse-Hessian solve failed; the hypergradient is what the solver had."""


class InexactWarning(HypergradWarning):
    """The set-up makes the implicit gradient an approximation in a way that is often overlooked."""


class FallbackWarning(HypergradWarning):
    """``torch.func`` refused the inner loss, and plain double backward was used instead."""
