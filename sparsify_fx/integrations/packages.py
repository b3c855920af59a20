"""Packages that an integration needs, and the error for one that is not installed."""

from __future__ import annotations

from sparsify_fx.errors import MissingPackageError


def missing(package: str) -> MissingPackageError:
    """The error for an integration whose package cannot be imported.

    >>> raise missing("lightning")
    Traceback (most recent call last):
    sparsify_fx.errors.MissingPackageError: sparsify_fx.integrations.lightning needs the package lightning, which is \
not installed; run: pip install lightning
    """
    return MissingPackageError(
        f"sparsify_fx.integrations.{package} needs the package {package}, which is not installed; run: pip install "
        f"{package}"
    )
