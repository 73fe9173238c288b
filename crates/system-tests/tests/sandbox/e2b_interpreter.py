"""E2B's code interpreter as its SDK for Python meets it, in each generation that CI installs: what its server's own tests hold."""
import os
import threading

from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

sandbox = Sandbox.create(timeout=600)

# Contexts that nobody has used are there, as on E2B's server, and are the ones that code runs in by default.
known = sandbox.list_code_contexts()
assert [(one.language, one.cwd) for one in known] == [("python", "/home/user"), ("javascript", "/home/user")], known
assert sandbox.run_code("kept = 5; kept", context=known[0]).text == "5" == sandbox.run_code("kept").text
assert len(sandbox.list_code_contexts()) == 2
sandbox.restart_code_context(known[1])
made = sandbox.create_code_context(language="python", cwd="/tmp")
last = sandbox.list_code_contexts()[-1]
assert (last.id, last.language, last.cwd) == (made.id, "python", "/tmp"), last
sandbox.restart_code_context(made.id)
sandbox.remove_code_context(made.id)
assert made.id not in [one.id for one in sandbox.list_code_contexts()]

# What is printed comes in whole lines, and once.
for code, language, stream in [("print(1)", None, "on_stdout"), ("import sys; print(1, file=sys.stderr)", None, "on_stderr"),
                               ("console.log(1)", "js", "on_stdout"), ("echo 1", "bash", "on_stdout")]:
    heard = []
    execution = sandbox.run_code(code, language=language, **{stream: heard.append})
    assert [message.line for message in heard] == ["1\n"], (code, heard)
    assert (execution.logs.stdout or execution.logs.stderr) == ["1\n"], execution

# Results in the forms of its kernel.
shown = sandbox.run_code("display({'text/latex': r'\\text{Own}'}, raw=True)")
assert list(shown.results[0].formats()) == ["latex"], shown
assert sandbox.run_code("{'a': [1, 2.5, None]}").results[0].json == {"a": [1, 2.5, None]}
assert sandbox.run_code("'a\\nb'").text == "a\\nb" and sandbox.run_code("type(1)").text == "int"
error = sandbox.run_code("1/0").error
assert error.name == "ZeroDivisionError" and "Cell In[" in error.traceback and "----> 1 1/0" in error.traceback, error

# The environment of a sandbox, of a cell, and of neither.
own = Sandbox.create(envs={"OWN": "sandbox"})
for language, code in [("python", "import os; print(os.getenv('OWN'))"), ("javascript", "console.log(process.env.OWN)"),
                       ("bash", "echo $OWN")]:
    for given, expected in [(None, "sandbox"), ({"OWN": "cell"}, "cell"), (None, "sandbox")]:
        printed = own.run_code(code, language=language, envs=given).logs.stdout
        assert printed == [expected + "\n"], (language, given, printed)

# A context whose process ends says why and begins anew under its id.
context = own.create_code_context()
own.run_code("lost = 1", context=context)
error = own.run_code("import os; os._exit(3)", context=context).error
assert error.name == "ContextRestarting" and "Context was restarted" in error.value and "status 3" in error.value, error
assert own.run_code("'lost' in dir()", context=context).text == "False"
error = own.run_code("exit 4", language="bash").error
assert error.name == "ContextRestarting" and "status 4" in error.value, error
assert own.run_code("echo on", language="bash").logs.stdout == ["on\n"]

# One that is restarted under a cell ends that cell as E2B's server does.
errors, begun = [], threading.Event()
running = threading.Thread(target=lambda: errors.append(own.run_code(
    "print('begun', flush=True)\nimport time; time.sleep(600)", context=context, on_stdout=lambda _: begun.set()).error))
running.start()
assert begun.wait(120)
own.restart_code_context(context)
running.join(120)
assert errors[0].name == "UnexpectedEndOfExecution", errors

# A sandbox that is killed under a cell breaks the stream off: the SDK then asks whether it lives.
begun.clear()
failures = []


def run():
    try:
        own.run_code("print('begun', flush=True)\nimport time; time.sleep(600)", on_stdout=lambda _: begun.set())
    except TimeoutException as failure:
        failures.append(str(failure))


running = threading.Thread(target=run)
running.start()
assert begun.wait(120)
own.kill()
running.join(120)
assert len(failures) == 1 and "sandbox" in failures[0], failures

# Languages without a driver are named.
for language in ("r", "java", "typescript"):
    try:
        sandbox.run_code("1", language=language)
        raise AssertionError(f"{language} ran")
    except AssertionError:
        raise
    except Exception as refused:
        assert "501" in str(refused) and language in str(refused), refused
assert Sandbox.connect(sandbox.sandbox_id).run_code("kept").text == "5"
sandbox.kill()
print("ok", flush=True)
# The SDK keeps threads of its own, and the interpreter does not always survive taking itself down beside them.
os._exit(0)
