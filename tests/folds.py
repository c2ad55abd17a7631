"""The rules that fold normalizations: all that the tests of the engine need."""

from kito.api import NORMALIZATION_RULES

FOLDS = (*NORMALIZATION_RULES, "spectral_normalization", "time_distributed_batchnorm")
