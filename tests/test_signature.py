"""What a predictor knows of its model: how it reads inputs, and what it says of wrong ones."""

import json

import numpy as np
import pytest

import kito
from kito.signature import Signature, Tensor

IMAGE = Tensor("image", (None, 4, None, 3), "float32")
TOKENS = Tensor("tokens", (None, 5), "int32")
SCORES = Tensor("scores", (None, 1), "float32")


def signature_of(structure, *inputs):
    return Signature(inputs, (SCORES, TOKENS), structure, {"scores": 0, "rest": (1, [0])})


SINGLE = signature_of(0, IMAGE)
LIST = signature_of([0, 1], IMAGE, TOKENS)
NESTED = signature_of({"image": 0, "text": (1, {"scores": 2})}, IMAGE, TOKENS, SCORES)
IMAGES = np.ones((2, 4, 7, 3), "float32")


def test_it_survives_a_file():
    assert Signature.from_dict(json.loads(json.dumps(NESTED.to_dict()))) == NESTED


def test_arrays_come_in_the_order_of_their_indices():
    data = {"image": IMAGES, "text": [np.ones((2, 5)), {"scores": np.zeros((2, 1))}]}
    first, second, third = NESTED.flatten(data)
    assert first is IMAGES
    assert second.dtype == np.int32
    assert third.dtype == np.float32


def test_a_list_may_be_given_by_names():
    by_name = LIST.flatten({"tokens": np.zeros((2, 5), int), "image": IMAGES})
    assert [each.shape for each in by_name] == [(2, 4, 7, 3), (2, 5)]
    assert SINGLE.flatten({"image": IMAGES})[0] is IMAGES


def test_outputs_are_packed_in_the_dtypes_of_the_model():
    scores, tokens = np.zeros((2, 1), "float64"), np.zeros((2, 5), "int64")
    packed = NESTED.pack([scores, tokens])
    assert list(packed) == ["scores", "rest"]
    assert isinstance(packed["rest"], tuple)
    assert isinstance(packed["rest"][1], list)
    assert packed["scores"].dtype == np.float32
    assert packed["rest"][0].dtype == np.int32


@pytest.mark.parametrize(
    "given",
    [IMAGES.tolist(), IMAGES.astype("float64"), IMAGES.astype("uint8"), IMAGES > 0],
    ids=["list", "float64", "uint8", "bool"],
)
def test_floats_are_made_of_other_numbers(given):
    [array] = SINGLE.flatten(given)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, IMAGES)


def test_a_last_axis_of_one_may_be_missing_or_too_many():
    signature = signature_of([0, 1], SCORES, TOKENS)
    first, second = signature.flatten([np.ones(3), np.ones((3, 5, 1))])
    assert first.shape == (3, 1)
    assert second.shape == (3, 5)


def test_arrays_are_laid_out_for_engines():
    assert SINGLE.flatten(np.asfortranarray(IMAGES))[0].flags.c_contiguous


def test_sixteen_bits_that_numpy_does_not_have():
    array = signature_of(0, Tensor("x", (None, 1), "bfloat16")).flatten([[1.5]])[0]
    assert array.dtype.name == "bfloat16"


def test_text_is_kept_as_objects():
    [array] = signature_of(0, Tensor("words", (None, 1), "string")).flatten([["a"], ["bc"]])
    assert array.dtype == object


TEXT = {"image": IMAGES, "text": (np.zeros((2, 5)), {"scores": np.zeros((2, 1))})}
WRONG = {
    "no dict": (NESTED, IMAGES, r"the input is not a dict of 'image', 'text'"),
    "missing": (NESTED, {"image": IMAGES}, r"the input lacks 'text'"),
    "unknown": (NESTED, {**TEXT, "audio": 0}, r"the input has 'audio', which the model does not"),
    "short list": (LIST, [IMAGES], r"the input is not a list of 2 arrays"),
    "deep": (NESTED, {**TEXT, "text": (0, {})}, r"the input\['text'\]\[1\] lacks 'scores'"),
    "shape": (SINGLE, np.ones((2, 5, 7, 3)), r"'image' has the shape \(2, 5, 7, 3\); the model "),
    "rank": (SINGLE, np.ones((2, 3)), r"'image' has the shape \(2, 3\)"),
    "ragged": (SINGLE, [[1.0], [1.0, 2.0]], r"the input 'image' is no array"),
    "words": (SINGLE, [["cat"]], r"the input 'image' is no number"),
    "fraction": (LIST, [IMAGES, np.full((2, 5), 0.5)], r"'tokens' is float64, with values that"),
    "large": (LIST, [IMAGES, np.full((2, 5), 2**40)], r"'tokens' is int64, with values that int32"),
    "numbers": (LIST, [IMAGES, np.zeros((3, 5))], r"samples: 'image' has 2, 'tokens' has 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name):
    signature, given, message = WRONG[name]
    with pytest.raises(kito.InputError, match=message):
        signature.flatten(given)


def test_a_fixed_batch_is_the_only_one_until_it_is_opened():
    fixed = signature_of(0, Tensor("x", (4, 2), "float32"))
    assert fixed.fixed_batch == 4
    with pytest.raises(kito.InputError, match=r"the model takes \(4, 2\)"):
        fixed.flatten(np.ones((3, 2)))
    assert fixed.open().flatten(np.ones((3, 2)))[0].shape == (3, 2)


def test_samples_are_split_only_if_every_tensor_has_a_row_for_each():
    assert LIST.splits
    assert not Signature((IMAGE,), (Tensor("mean", (3,), "float32"),), 0, 0).splits
    assert not Signature((IMAGE,), (Tensor("sum", (), "float32"),), 0, 0).splits
