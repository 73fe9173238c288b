"""E2B's own examples, as the package that was installed carries them: each block of Python in its description, unmodified but
for the placeholder of the key. What a block's comments say that it prints is what it has to print."""
import ast
import asyncio
import contextlib
import importlib.metadata
import inspect
import io
import os
import re
import sys

description = importlib.metadata.metadata(sys.argv[1]).get_payload()
blocks = re.findall(r"^```py\n(.*?)^```", description, re.DOTALL | re.MULTILINE)
ran = 0
for block in blocks:
    said = re.findall(r"print\(.*\)\s*# (?:outputs )?(.*)", block)
    # The keys of the examples are placeholders. Awaits at the top level are part of them.
    source = block.replace("e2b_***", os.environ["E2B_API_KEY"])
    code = compile(source, sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        outcome = eval(code, {"__name__": "__main__"})
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)
    lines = [line for line in printed.getvalue().splitlines() if line]
    assert lines == said, f"{block}\nprinted {lines}"
    ran += 1
assert ran >= 2, description
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
