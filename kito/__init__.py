"""kito: make a trained Keras model compute the same, faster."""

from kito.api import explain, optimize
from kito.report import Report
from kito.rule import hookimpl

__all__ = ["Report", "explain", "hookimpl", "optimize"]
