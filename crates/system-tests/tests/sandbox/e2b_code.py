"""E2B's code interpreter SDK for Python, unmodified, against the daemon."""
import os
from e2b_code_interpreter import Sandbox
from e2b_code_interpreter.exceptions import TimeoutException

sandbox = Sandbox.create(timeout=300)
heard = []
execution = sandbox.run_code("x = 1\nprint('hi')\nx + 1", on_stdout=lambda message: heard.append(message.line))
assert execution.text == "2" and "".join(execution.logs.stdout) == "hi\n" == "".join(heard), execution
assert execution.execution_count == 1
assert sandbox.run_code("x + 41").text == "42", "variables last"
assert sandbox.run_code("import asyncio\nawait asyncio.sleep(0)\n'awaited'").text == "awaited"
error = sandbox.run_code("1/0").error
assert error.name == "ZeroDivisionError" and "Cell In[" in error.traceback, error
assert sandbox.run_code("import os; os.environ['Q']", envs={"Q": "v"}).text == "v"
assert sandbox.run_code("os.environ.get('Q')").text is None
rich = "class H:\n  def _repr_html_(self): return '<b>1</b>'\n  def _repr_png_(self): return b'png'\nH()"
result = sandbox.run_code(rich).results[0]
assert (result.html, result.png) == ("<b>1</b>", "cG5n"), result
assert sandbox.run_code("!echo shelled").logs.stdout == ["shelled\n"]

# Other languages, each with its own default context.
assert sandbox.run_code("const a = 2; a * 21", language="javascript").text == "42"
assert sandbox.run_code("const a = 3; await Promise.resolve(a)", language="javascript").text == "3"
assert sandbox.run_code("missing", language="js").error.name == "ReferenceError"
sandbox.run_code("y=3; cd /tmp", language="bash")
assert "".join(sandbox.run_code("echo $y $PWD", language="bash").logs.stdout) == "3 /tmp\n"
try:
    sandbox.run_code("1", language="r")
    raise AssertionError("a language without a driver ran")
except Exception as refused:
    assert "code.language" in str(refused), refused

# Contexts.
context = sandbox.create_code_context(cwd="/tmp")
assert context.cwd == "/tmp" and sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
sandbox.run_code("z = 1", context=context)
assert sandbox.run_code("z").error.name == "NameError", "contexts share nothing"
assert context.id in [item.id for item in sandbox.list_code_contexts()]
sandbox.restart_code_context(context)
assert sandbox.run_code("z", context=context).error.name == "NameError"
sandbox.remove_code_context(context)
assert context.id not in [item.id for item in sandbox.list_code_contexts()]

# A client that goes away interrupts its cell; another one finds the context as it was.
try:
    sandbox.run_code("import time\nwhile True: time.sleep(0.1)", timeout=1)
    raise AssertionError("an endless cell ended")
except TimeoutException:
    pass
other = Sandbox.connect(sandbox.sandbox_id)
assert other.run_code("x").text == "1"
assert sandbox.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
