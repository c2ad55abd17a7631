"""What stands in the code of kito, read from it."""

import ast


def declines(source):
    """The reasons in a file, with an asterisk for what is put in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Decline":
            [message] = node.args
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in parts)
