"""The Python driver: one process is one context; it runs cells in a namespace that lasts, and tells what came of them.

Commands come as lines of JSON on the descriptor that was standard input, messages leave as lines of JSON on the one
that was standard output. Descriptors 0, 1 and 2 are then the user's: what the code and its children print is read from
pipes and sent in order. It enforces nothing: the sandbox around it does.
"""
import ast as _ast
import asyncio as _asyncio
import builtins as _builtins
import codecs as _codecs
import importlib as _importlib
import importlib.abc as _abc
import importlib.machinery as _machinery
import inspect as _inspect
import io as _io
import json as _json
import linecache as _linecache
import os as _os
import re as _re
import select as _select
import signal as _signal
import subprocess as _subprocess
import sys as _sys
import threading as _threading
import time as _time
import traceback as _traceback
import types as _types

_READ_BYTES = 65536
# The daemon takes no larger one than 32 MiB.
_MESSAGE_BYTES_MAX = 24 << 20
_CUT_CHARACTERS = 1_000_000
# How long a piece of a line may wait for the rest of it.
_FLUSH_SECONDS = 0.05


class _Wire:
    """The two private descriptors, and the pipes that catch what is printed."""

    def __init__(self):
        self.commands = _os.dup(0)
        self.messages = _os.dup(1)
        empty = _os.open(_os.devnull, _os.O_RDONLY)
        _os.dup2(empty, 0)
        _os.close(empty)
        self.lock = _threading.RLock()
        self.cell = None
        self.streams = {}
        for number, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = _os.pipe()
            _os.dup2(writing, number)
            _os.close(writing)
            _os.set_blocking(reading, False)
            self.streams[reading] = (name, _codecs.getincrementaldecoder("utf-8")("replace"))
        _sys.stdin = _io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")
        _sys.stdout = _io.TextIOWrapper(open(1, "wb", 0, closefd=False), encoding="utf-8", errors="replace",
                                        line_buffering=True)
        _sys.stderr = _io.TextIOWrapper(open(2, "wb", 0, closefd=False), encoding="utf-8", errors="replace",
                                        line_buffering=True)
        # Set while a cell runs.
        self.busy = _threading.Event()

    def send(self, **message):
        """One message; a value that JSON cannot carry becomes its text."""
        data = _encoded(message)
        if len(data) > _MESSAGE_BYTES_MAX:
            data = _encoded(_shortened(message))
        with self.lock:
            view = memoryview(data)
            while view:
                view = view[_os.write(self.messages, view):]

    def _take(self, descriptor):
        """Sends what one pipe holds now; false where it holds nothing."""
        name, decoder = self.streams[descriptor]
        with self.lock:
            try:
                data = _os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                return False
            text = decoder.decode(data)
            if text:
                self.send(type=name, cell=self.cell, text=text, timestamp=_time.time_ns())
            return bool(data)

    def pump(self):
        """Sends what is printed as it is printed. Runs in a thread of its own, for ever."""
        poll = _select.poll()
        for descriptor in self.streams:
            poll.register(descriptor, _select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                self._take(descriptor)

    def flush(self):
        """Lets out what waits for the end of its line, while a cell runs. In a thread of its own, for ever."""
        while True:
            self.busy.wait()
            _time.sleep(_FLUSH_SECONDS)
            for stream in (_sys.stdout, _sys.stderr):
                try:
                    stream.flush()
                except Exception:
                    pass

    def drain(self):
        """Sends everything printed so far."""
        for stream in (_sys.stdout, _sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        with self.lock:
            for descriptor in self.streams:
                while self._take(descriptor):
                    pass

    def lines(self):
        """Commands, one at a time."""
        with open(self.commands, "rb", closefd=False) as reader:
            for line in reader:
                yield _json.loads(line)


def _encoded(message):
    try:
        line = _json.dumps(message, default=str, allow_nan=False, ensure_ascii=False)
    except ValueError:
        line = _json.dumps(_cleaned(message), default=str, ensure_ascii=False)
    return line.encode("utf-8", "replace") + b"\n"


def _shortened(message):
    """A message that is too large without its largest formats, or with its texts cut; and said to be."""
    if message["type"] != "result":
        return {name: value[:_CUT_CHARACTERS] + "…" if isinstance(value, str) and len(value) > _CUT_CHARACTERS else value
                for name, value in message.items()}
    kept, dropped, size = {}, [], 0
    for name, value in sorted(message.items(), key=lambda item: len(_encoded({"value": item[1]}))):
        size += len(_encoded({name: value}))
        if size > _MESSAGE_BYTES_MAX - 65536:
            dropped.append(name)
        else:
            kept[name] = value
    note = f"[dropped, as a result holds at most {_MESSAGE_BYTES_MAX >> 20} MiB: {', '.join(dropped)}]"
    kept["text"] = f"{kept.get('text', '')}\n{note}".lstrip("\n")
    return kept


def _cleaned(value):
    """The same without what JSON has no place for: numbers that are none, cycles, keys that are not text."""
    return _cleaned_below(value, ())


def _cleaned_below(value, above):
    if id(value) in above:
        return "…"
    if isinstance(value, dict):
        return {str(key): _cleaned_below(item, (*above, id(value))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned_below(item, (*above, id(value))) for item in value]
    return _plain(value)


class _Inline(_abc.MetaPathFinder, _abc.Loader):
    """Makes modules that come into being only when the code asks for them, and the image has none of their name: a matplotlib
    backend that displays, and what code for notebooks imports."""

    BACKEND = "mote_inline_backend"

    def __init__(self, kernel):
        self.kernel = kernel
        self.modules = modules_of(kernel)

    def find_spec(self, name, path=None, target=None):
        if name != self.BACKEND and name not in self.modules:
            return None
        return _machinery.ModuleSpec(name, self, is_package="__path__" in self.modules.get(name, ()))

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if module.__name__ == self.BACKEND:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            record_boxes()
            module.FigureCanvas = FigureCanvasAgg
            module.show = lambda *arguments, **named: self.kernel.display_figures()
            return
        for name, value in self.modules[module.__name__].items():
            full = f"{module.__name__}.{name}"
            if name != "__path__":
                setattr(module, name, _importlib.import_module(full) if value is None and full in self.modules else value)


class _Around(_abc.MetaPathFinder, _abc.Loader):
    """Loads some modules with a variable that holds while they begin, or does something once they are there. What is set for good
    would reach children, which know nothing of this process's modules."""

    VARIABLES = {
        "matplotlib": ("MPLBACKEND", f"module://{_Inline.BACKEND}"),
        # By a type that applications know, and by a whole page that loads its script from where everybody gets it.
        "plotly.io._renderers": ("PLOTLY_RENDERER", "plotly_mimetype+colab"),
    }

    def __init__(self, kernel):
        self.loaders = {}
        self.after = {"IPython": lambda module: kernel.shell._ipython(), "getpass": self._refusing,
                      "IPython.core.display_functions": self._displaying, "PIL.Image": self._showing_saved, "PIL.ImageShow": self._showing}
        self.kernel = kernel

    @staticmethod
    def _refusing(module):
        module.getpass = lambda prompt="Password: ", stream=None: _refused(prompt, "getpass")

    def _displaying(self, module):
        """IPython's own `display` gives the same results as the one that needs no import."""
        module.display, module.update_display = self.kernel.display, _not_updated

    def _showing(self, module):
        """There is no window: a picture that is shown is a result, as on E2B's servers."""
        module.show = lambda image, title=None, **options: self.kernel.display(image) or True

    def _showing_saved(self, module):
        """As on E2B's servers, a picture that is saved to a file is shown, too."""
        save = module.Image.save

        def showing(image, fp, format=None, **options):
            if isinstance(fp, str):
                self.kernel.display(image)
            return save(image, fp, format, **options)

        module.Image.save = showing

    def find_spec(self, name, path=None, target=None):
        if name not in self.VARIABLES and name not in self.after:
            return None
        for finder in _sys.meta_path:
            spec = None if finder is self or not hasattr(finder, "find_spec") else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                if not isinstance(spec.loader, _Inline):
                    self.loaders[name], spec.loader = spec.loader, self
                return spec
        return None

    def create_module(self, spec):
        return self.loaders[spec.name].create_module(spec)

    def exec_module(self, module):
        loader = module.__loader__ = module.__spec__.loader = self.loaders[module.__name__]
        variable, value = self.VARIABLES.get(module.__name__, ("", ""))
        mine = variable and variable not in _os.environ
        if mine:
            _os.environ[variable] = value
        try:
            loader.exec_module(module)
        finally:
            if mine:
                _os.environ.pop(variable, None)
        self.after.get(module.__name__, lambda _: None)(module)


def _refused(prompt="", name="raw_input"):
    """Nobody can answer: said at once, instead of waiting for an input that does not come."""
    raise StdinNotImplementedError(f"{name} was called, but this frontend does not support input requests.")


class _Kernel:
    """The namespace, the count of cells, and the one thread that runs code."""

    def __init__(self, wire):
        self.wire = wire
        self.count = 0
        self.running = False
        # Where results go under `%%capture`.
        self.kept_results = None
        # The last error, for `%tb`.
        self.failed = None
        # The cell that awaits something: an interrupt cancels it.
        self.task = None
        # One for the whole life: tasks that a cell leaves go on between cells.
        self.loop = _asyncio.new_event_loop()
        _asyncio.set_event_loop(self.loop)
        self.module = _types.ModuleType("__main__")
        self.shell = InteractiveShell(self)
        names = dict(__builtins__=_builtins, display=self.display, get_ipython=lambda: self.shell, In=[""], Out={},
                     _="", __="", ___="", _i="", exit=_sys.exit, quit=_sys.exit)
        self.module.__dict__.update(names)
        self.own = set(names)
        _builtins.input = _refused
        _builtins.get_ipython, _builtins.display = names["get_ipython"], self.display
        _sys.modules["__main__"] = self.module
        _sys.meta_path.insert(0, _Around(self))
        _sys.meta_path.append(_Inline(self))
        if "getpass" in _sys.modules:
            _Around._refusing(_sys.modules["getpass"])
        _sys.argv = [""]
        _sys.path.insert(0, "")

    # What the code may call.

    def display(self, *values, raw=False, display_id=None, include=None, exclude=None, metadata=None, transient=None, **_):
        """Shows values as results of the cell beside its last expression; with `raw`, bundles by MIME type as they are."""
        for value in values:
            if raw:
                self.result(formats_of_bundle(value), main=False)
            else:
                self.show(value, main=False, include=include, exclude=exclude)
        if display_id is not None:
            name = f"display-{self.count}-{_time.monotonic_ns()}" if display_id is True else display_id
            return DisplayHandle(name, self.display)

    def display_figures(self):
        """Shows and closes the figures that are open."""
        pyplot = _sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            try:
                self.result(formats_of(figure), main=False)
            finally:
                pyplot.close(figure)

    def show(self, value, main, include=None, exclude=None):
        """A value as a result, unless it shows itself. A display method that fails is told, and costs its own format."""
        if _displays_itself(value):
            return
        failed = []
        formats = formats_of(value, self.shell.display_formatter, failed)
        if failed:
            self.fail(failed[0])
        if formats:
            self.result(chosen(formats, include, exclude), main)

    @_contextlib.contextmanager
    def captured(self, shown):
        """Results go to a list instead."""
        before, self.kept_results = self.kept_results, shown
        try:
            yield
        finally:
            self.kept_results = before

    # Cells.

    def result(self, formats, main):
        if self.kept_results is not None:
            self.kept_results.append(formats)
            return
        self.wire.drain()
        self.wire.send(type="result", cell=self.wire.cell, is_main_result=main, **formats)

    def compiled(self, code, name):
        """The statements of a cell, and its last expression where it ends with one."""
        flags = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(python_of(self.shell.without_percent(code)), name, "exec", flags | _ast.PyCF_ONLY_AST)
        last = None
        if tree.body and isinstance(tree.body[-1], _ast.Expr) and not _ends_silently(code):
            last = compile(_ast.Expression(tree.body.pop().value), name, "eval", flags)
        return compile(tree, name, "exec", flags), last

    async def evaluated(self, compiled):
        made = eval(compiled, self.module.__dict__)
        if not compiled.co_flags & _inspect.CO_COROUTINE:
            return made
        self.task = self.loop.create_task(made)
        try:
            return await self.task
        except _asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self.task = None

    def run_nested(self, code):
        """Code within a cell, as a magic runs it; its value. It awaits nothing: the loop is the cell's."""
        return self.run_compiled(self.compiled_nested(code))

    def compiled_nested(self, code):
        name = f"<cell {self.count} magic>"
        _linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        statements, last = self.compiled(code, name)
        if (statements.co_flags | (last.co_flags if last else 0)) & _inspect.CO_COROUTINE:
            raise UsageError("a magic cannot await: write the await outside of it")
        return statements, last

    def run_compiled(self, compiled):
        statements, last = compiled
        exec(statements, self.module.__dict__)
        return eval(last, self.module.__dict__) if last is not None else None

    async def execute(self, command):
        """One cell from start to end. Every way that code can fail becomes a message."""
        code, added = command["code"], command.get("env") or {}
        self.wire.cell = command["cell"]
        self.count += 1
        name = f"<cell {self.count}>"
        _linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        before = {key: _os.environ.get(key) for key in added}
        self.wire.send(type="number_of_executions", cell=self.wire.cell, execution_count=self.count)
        try:
            try:
                _os.environ.update({key: str(value) for key, value in added.items()})
                self.remember(code)
                self.wire.busy.set()
                self.running = True
                self.shell.events.trigger("pre_execute")
                self.shell.events.trigger("pre_run_cell")
                await self.carry_out(code, name)
            finally:
                self.running = False
                self.shell.events.trigger("post_execute")
                self.shell.events.trigger("post_run_cell")
        except BaseException as error:
            self.running = False
            self.fail(error)
        self.wire.busy.clear()
        for key, value in before.items():
            if value is None:
                _os.environ.pop(key, None)
            else:
                _os.environ[key] = value
        self.wire.drain()
        self.wire.send(type="end_of_execution", cell=self.wire.cell)

    def remember(self, code):
        names = self.module.__dict__
        if isinstance(names.get("In"), list):
            names["In"].append(code)
        names["_i"] = names[f"_i{self.count}"] = code

    async def carry_out(self, code, name):
        statements, last = self.compiled(code, name)
        await self.evaluated(statements)
        if last is not None:
            value = await self.evaluated(last)
            if value is not None:
                self.keep(value)
                self.show(value, main=True)
        self.display_figures()

    def keep(self, value):
        """The last values under the names that notebooks know."""
        names = self.module.__dict__
        names["___"], names["__"], names["_"] = names.get("__"), names.get("_"), value
        names[f"_{self.count}"] = value
        if isinstance(names.get("Out"), dict):
            names["Out"][self.count] = value

    def interrupted(self, _, frame):
        """SIGINT: only a running cell is interrupted, never the driver between two. Code that runs is stopped where it is; code
        that waits in the loop is cancelled."""
        if not self.running:
            return
        while frame is not None and frame.f_code.co_name != "select":
            frame = frame.f_back
        waits = frame is not None and frame.f_back is not None and frame.f_back.f_code.co_name == "_run_once"
        if waits and self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
        else:
            raise KeyboardInterrupt

    def fail(self, error):
        self.wire.drain()
        self.failed = error
        try:
            text, value = told_failure(error, self.shell._plain_errors), str(error)
        except Exception as broken:
            text, value = f"{type(error).__name__}: its text failed: {broken!r}", ""
        self.wire.send(type="error", cell=self.wire.cell, name=type(error).__name__, value=value, traceback=text)

    # Commands.

    async def obey(self, commands):
        while True:
            command = await commands.get()
            if command["op"] == "execute":
                await self.execute(command)

    def serve(self):
        """Runs cells until the commands end. What earlier cells left to the loop goes on meanwhile."""
        commands = _asyncio.Queue()

        def read():
            for command in self.wire.lines():
                self.loop.call_soon_threadsafe(commands.put_nowait, command)
            # Threads of the user's code must not keep an abandoned context alive.
            _os._exit(0)

        _threading.Thread(target=read, daemon=True).start()
        serving = self.loop.create_task(self.obey(commands))
        while True:
            try:
                self.loop.run_until_complete(serving)
            except BaseException:
                # An interrupt, or an exit, that a task raised through the loop: the cell that awaits it is told, and the loop
                # goes on.
                if serving.done():
                    serving = self.loop.create_task(self.obey(commands))


def _displays_itself(value):
    """Whether a value showed itself, as charts do."""
    show = None if isinstance(value, type) else getattr(type(value), "_ipython_display_", None)
    if show is None:
        return False
    try:
        show(value)
        return True
    except Exception:
        return False


def _ends_silently(code):
    """A last line that ends with `;` shows nothing."""
    return code.rstrip().endswith(";")


def _start():
    wire = _Wire()
    kernel = _Kernel(wire)
    # An interrupt is the main thread's: there it also ends a call that waits.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    _threading.Thread(target=wire.pump, daemon=True).start()
    _threading.Thread(target=wire.flush, daemon=True).start()
    _signal.signal(_signal.SIGINT, kernel.interrupted)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
    wire.send(type="ready", cwd=_os.getcwd())
    kernel.serve()


_start()
