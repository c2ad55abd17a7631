"""Pictures of the examples, before and after, as kito draws them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

import kito

CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SIZE = re.compile(r'width="([\d.]+)pt" height="[\d.]+pt"')
LEAST = 0.55  # of its size: smaller, the text in a picture can't be read


def picture(text: str, what: str, rules: Sequence[str] | None = None) -> str:
    """What rules do to the `model` of the examples in a text, as an element of HTML.

    Args:
        what: whose model it is, for readers who don't see it.
    """
    keras.utils.clear_session()  # names begin at 1 again
    namespace: dict[str, object] = {"__name__": "example"}
    for code in CODE.findall(text):
        exec(code, namespace)
    drawing = drawn(kito.explain(namespace["model"], rules))
    return f"""\
```{{raw}} html
<figure class="picture" role="img" aria-label="{what}, before and after">
{drawing}
</figure>
```
"""


def drawn(report: kito.Report) -> str:
    """The picture of a report as an `svg` element that shrinks to a narrow screen, to a point."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.svg"
        report.draw(file)
        text = file.read_text()
    return SIZE.sub(size, text[text.index("<svg") :], count=1)


def size(found: re.Match[str]) -> str:
    """The style of a picture that was drawn in that size."""
    width = float(found[1])
    return f'style="width: {width}pt; max-width: 100%; min-width: {width * LEAST:.0f}pt"'
