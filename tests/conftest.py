"""Every test starts with Keras' own defaults, and in float64 where it does not say otherwise."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow computes with oneDNN by itself on some processors only, and it has faults of its own.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import pytest

# Keras exports with OpenVINO too, whose telemetry would fork this process (kito.engines.openvino).
sys.modules["openvino_telemetry"] = None


@pytest.fixture(autouse=True)
def fresh_keras():
    """Names and random numbers that do not depend on the tests before."""
    keras.utils.clear_session(free_memory=False)  # a collection a test would take most of the time
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    yield
    keras.config.set_dtype_policy("float32")
