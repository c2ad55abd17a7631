"""What the engines of a model are compared with: its answers, and how near they have to come.

The bound is that of the optimized model in Keras, see `kito.verification`: roundings by depth, and
8 times what the last bit of the weights does. It allows for what an engine does besides, which is
to add up in another order: over `n` products of a typical size `p` that moves a sum by some
`epsilon * sqrt(n) * p`, and so does a last bit in each of the `n` weights. An engine that computes
in 16 bits unasked is off by hundreds of times that.

Two batches of `kito.verify` are left out. Zeros: where all positions of a picture are equal, each
step of a sum over them rounds the same way, so that two orders of addition lie `epsilon * n` apart.
And large numbers in float16, which has no sums of them.

Both parts of the bound are in proportion to epsilon. So in 16 bits, where they are asked for, it is
the bound of float32 times the ratio of the epsilons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras

from kito import verification
from kito.distance import apart, spacing
from kito.errors import InputError
from kito.verification import Expected, Trial, Verification


@dataclass(frozen=True)
class Reference:
    """A model's answers on several batches, and a trial with its bound for each output of each."""

    expected: Expected
    trials: tuple[Trial, ...]

    @classmethod
    def of(
        cls, model: keras.Model, fast: keras.Model, inputs: Any, precision: str | None
    ) -> Reference:
        """Run the model, and the optimized one for the bounds.

        Raises:
            InputError: the model does not run on the inputs, or answers otherwise each time.
        """
        expected = verification.expected(model, fast, inputs)
        unfit = {"zeros", "large"} if precision == "float16" else {"zeros"}
        batches = {kind: each for kind, each in expected.batches.items() if kind not in unfit}
        answers = {kind: expected.answers[kind] for kind in batches}
        expected = replace(expected, batches=batches, answers=answers)
        verified = verification.verified(expected, fast)
        if not verified.trials:
            raise InputError(f"no engine can be checked: {verified}")
        coarseness = spacing(precision) / spacing("float32") if precision else 1.0
        trials = (replace(each, bound=each.bound * coarseness) for each in verified.trials)
        return cls(expected, tuple(trials))

    @property
    def weakness(self) -> str | None:
        """Why wrong answers might not show, in words; None if they would."""
        # One sample alone can't show whether answers differ; the random ones can.
        telling = (e for e in self.trials if e.inputs != "given" or e.spread is not None)
        return Verification(tuple(telling)).weakness

    def compare(self, run: Callable[[Any], Any]) -> Verification:
        """How far the answers of a function of one batch are from the model's."""
        trials = iter(self.trials)
        measured = []
        for kind, answer in self.expected.answers.items():
            results = keras.tree.flatten(run(self.expected.batches[kind]))
            masks = self.expected.comparable(kind, results)
            for right, result, mask in zip(keras.tree.flatten(answer), results, masks, strict=True):
                difference = apart(right, result, mask)
                measured.append(replace(next(trials), difference=difference))
        return Verification(tuple(measured))
