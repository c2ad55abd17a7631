"""The equation of an EinsumDense layer, such as "abc,cd->abd"."""

import re

# Letters and an ellipsis; Keras lets none stand in the kernel.
EQUATION = re.compile(r"(?P<input>[a-zA-Z.]+),(?P<kernel>[a-zA-Z]+)->(?P<output>[a-zA-Z.]+)")
ELLIPSIS = "..."
