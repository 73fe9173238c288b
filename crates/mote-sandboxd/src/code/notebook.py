"""What notebooks offer beside Python: `get_ipython()` and its magics.

Where IPython itself is installed it is used for magics that are not here; nothing of it is imported before that.
"""
import contextlib as _contextlib
import importlib as _importlib
import keyword as _keyword
import shlex as _shlex


class StdinNotImplementedError(NotImplementedError):
    """Nobody is there to answer: as a notebook's kernel says it."""

    __module__ = "IPython.core.error"


class UsageError(Exception):
    """A magic that does not exist, or was not called as it is to be."""

    __module__ = "IPython.core.error"


class SList(list):
    """Lines of output, as IPython gives them."""

    @property
    def l(self):
        return list(self)

    @property
    def s(self):
        return " ".join(self)

    @property
    def n(self):
        return "\n".join(self)

    def fields(self, *numbers):
        rows = [line.split() for line in self]
        picked = [[row[at] for at in numbers if -len(row) <= at < len(row)] if numbers else row for row in rows]
        return SList(" ".join(row) for row in picked) if numbers else picked

    def grep(self, pattern, prune=False):
        test = pattern if callable(pattern) else (lambda line: _re.search(pattern, line, _re.I))
        return SList(line for line in self if bool(test(line)) != prune)


class _Events:
    """Callbacks around cells: `pre_execute`, `pre_run_cell`, `post_execute`, `post_run_cell`."""

    def __init__(self):
        self.callbacks = {}

    def register(self, event, function):
        known = self.callbacks.setdefault(event, [])
        if function not in known:
            known.append(function)

    def unregister(self, event, function):
        self.callbacks.get(event, []).remove(function)

    def trigger(self, event, *arguments):
        for function in list(self.callbacks.get(event, ())):
            # Some take what is known of the cell, others nothing.
            with _contextlib.suppress(Exception):
                try:
                    takes = bool(_inspect.signature(function).parameters)
                except (TypeError, ValueError):
                    takes = False
                function(*(arguments or (None,)) if takes else ())


class InteractiveShell:
    """What `get_ipython()` gives."""

    def __init__(self, kernel):
        self._kernel = kernel
        self.user_ns = kernel.module.__dict__
        self.user_global_ns = self.user_ns
        self.config = {}
        self.colors = "NoColor"
        self.events = _Events()
        self.display_formatter = DisplayFormatter()
        self._plain_errors = False
        self._lines = {name[6:]: getattr(self, name) for name in dir(self) if name.startswith("_line_")}
        self._cells = {name[6:]: getattr(self, name) for name in dir(self) if name.startswith("_cell_")}
        self._folders = []
        self._real = None

    # What code calls.

    @property
    def execution_count(self):
        return self._kernel.count

    def run_line_magic(self, name, line, _stack_depth=1):
        name = name.lstrip("%")
        magic = self._lines.get(name)
        if magic is not None:
            # Code is not a template.
            return magic(line if name in ("time", "timeit", "prun", "pinfo", "pinfo2") else self.var_expand(line))
        real = self._ipython()
        if real is not None and real.find_line_magic(name):
            return real.run_line_magic(name, line)
        if callable(self.user_ns.get(name)) or name in self._cells:
            raise UsageError(f"Line magic function `%{name}` not found (But cell magic `%%{name}` exists, did you mean "
                             "that instead?).")
        raise UsageError(f"Line magic function `%{name}` not found.")

    def without_percent(self, code):
        """A cell of one line that begins with a magic's name, which names nothing else, is that magic: `cd /tmp`."""
        found = _re.match(r"([a-z_]\w*)(?:[ \t]+([^\n]*))?$", code.strip())
        if not found or found[1] not in self._lines or found[1] in self.user_ns or hasattr(_builtins, found[1]):
            return code
        rest = found[2] or ""
        return code if rest.startswith("=") or _keyword.iskeyword(found[1]) else "%" + code.strip()

    def run_cell_magic(self, name, line, cell):
        magic = self._cells.get(name)
        if magic is not None:
            return magic(line, cell)
        real = self._ipython()
        if real is not None and real.find_cell_magic(name):
            return real.run_cell_magic(name, line, cell)
        raise UsageError(f"Cell magic `%%{name}` not found.")

    def magic(self, text):
        name, _, line = text.lstrip("%").partition(" ")
        return self.run_line_magic(name, line)

    def system(self, command):
        command = self.var_expand(command)
        # As IPython does: the shell of the user, and the status where code looks for it.
        self.user_ns["_exit_code"] = _child(command)

    def getoutput(self, command, split=True, depth=0):
        made = _subprocess.run(_shell(self.var_expand(command)), stdout=_subprocess.PIPE, stderr=_subprocess.STDOUT,
                               check=False)
        self.user_ns["_exit_code"] = made.returncode
        text = made.stdout.decode("utf-8", "replace")
        return SList(text.splitlines()) if split else text

    getoutput_pexpect = getoutput
    system_raw = system_piped = system

    def run_cell(self, code, store_history=False, silent=False, shell_futures=True, **_):
        return self._kernel.run_nested(code)

    def ex(self, code):
        exec(code, self.user_ns)

    def ev(self, expression):
        return eval(expression, self.user_ns)

    def push(self, variables, interactive=True):
        self.user_ns.update(variables)

    def register_magic_function(self, function, magic_kind="line", magic_name=None):
        name = magic_name or function.__name__
        if "line" in magic_kind:
            self._lines[name] = function
        if "cell" in magic_kind:
            self._cells[name] = function

    def register_magics(self, *_):
        raise UsageError("classes of magics need IPython itself: pip install ipython")

    def set_next_input(self, text, replace=False):
        """There is no next cell to put text into."""

    def enable_matplotlib(self, gui=None):
        self._line_matplotlib(gui or "inline")

    def var_expand(self, text, depth=0):
        """`{expression}` and `$name` replaced, where they are the cell's own; everything else stays the shell's."""
        if "{" in text:
            text = _re.sub(r"\{\{|\}\}|\{([^{}]+)\}", self._expanded, text)
        return _re.sub(r"\$\$|\$([^\W\d]\w*)(?![\w(])", self._named, text)

    def _expanded(self, found):
        if found[1] is None:
            return found[0][0]
        try:
            return str(eval(found[1], self.user_ns))
        except Exception:
            return found[0]

    def _named(self, found):
        if found[1] is None:
            return "$"
        value = self.user_ns.get(found[1], self)
        return found[0] if value is self or callable(value) else str(value)

    def _ipython(self):
        """IPython's own shell over the same namespace, where it is installed."""
        if self._real is None:
            self._real = False
            if _installed("IPython"):
                from IPython.core.displayhook import DisplayHook
                from IPython.core.displaypub import DisplayPublisher
                from IPython.core.interactiveshell import InteractiveShell as Real
                from traitlets import Type
                from traitlets.config import Config
                kernel = self._kernel

                class Publisher(DisplayPublisher):
                    def publish(self, data, metadata=None, update=False, **_):
                        # What was sent cannot be changed.
                        if not update:
                            kernel.result(formats_of_bundle(data), main=False)

                class Hook(DisplayHook):
                    def __call__(self, result=None):
                        if result is not None:
                            kernel.show(result, main=True)

                class Embedded(Real):
                    display_pub_class = Type(Publisher)
                    displayhook_class = Type(Hook)

                    def enable_gui(self, gui=None):
                        pass

                config = Config({"HistoryManager": {"enabled": False}})
                kept = {name: self.user_ns[name] for name in self._kernel.own if name in self.user_ns}
                hooks = _sys.displayhook, _sys.excepthook
                # The one that IPython's own functions ask for.
                self._real = Embedded.instance(config=config, user_ns=self.user_ns, user_module=kernel.module)
                _sys.displayhook, _sys.excepthook = hooks
                self.user_ns.update(kept)
                _builtins.get_ipython, _builtins.display = kept["get_ipython"], kept["display"]
        return self._real or None

    # Line magics.

    def _line_matplotlib(self, line):
        backend = line.split()[0] if line.split() else "inline"
        matplotlib = _importlib.import_module("matplotlib")
        # Windows are nowhere to be seen: whatever is asked for, figures are shown as results.
        matplotlib.use("agg" if backend == "agg" else f"module://{_Inline.BACKEND}")

    def _line_pylab(self, line):
        self._line_matplotlib("inline")
        exec("import numpy as np\nfrom matplotlib import pyplot as plt", self.user_ns)

    def _line_pip(self, line):
        self._installing([_sys.executable, "-m", "pip"], line)

    def _line_conda(self, line):
        self._installing(["conda"], line)

    def _installing(self, program, line):
        # Debian refuses to install beside its own packages: here there is nobody else to protect.
        command = "PIP_BREAK_SYSTEM_PACKAGES=1 " + " ".join(_shlex.quote(word) for word in program) + " " + line
        self.user_ns["_exit_code"] = _child(command)
        _importlib.invalidate_caches()
        print("Note: you may need to restart the kernel to use updated packages.")

    def _line_cd(self, line):
        words = line.split()
        quiet = "-q" in words
        to = " ".join(word for word in words if word != "-q").strip("\"'")
        if to == "-":
            if not self._folders:
                raise UsageError("No previous directory for -.")
            to = self._folders.pop()
        before = _os.getcwd()
        try:
            _os.chdir(_os.path.expanduser(to or "~"))
        except OSError as error:
            print(error)
            return
        self._folders.append(before)
        if not quiet:
            print(_os.getcwd())

    def _line_pwd(self, line):
        return _os.getcwd()

    def _line_env(self, line):
        if not line:
            return dict(_os.environ)
        sign = "=" if "=" in line else " "
        name, found, value = line.partition(sign)
        name, value = name.strip(), value.strip()
        if not found or not value and sign == " ":
            if name in _os.environ:
                return _os.environ[name]
            raise UsageError(f"Environment does not have key: {name}")
        _os.environ[name] = value
        print(f"env: {name}={value}")

    _line_set_env = _line_env

    def _line_time(self, line):
        return self._timed(line)

    def _line_timeit(self, line):
        return self._measured(line, "")

    def _line_run(self, line):
        import runpy

        words = _shlex.split(line)
        if not words:
            raise UsageError("%run needs a file")
        words[0] = next((name for name in (words[0], words[0] + ".py") if _os.path.isfile(name)), words[0])
        if not _os.path.isfile(words[0]):
            raise Exception(f"File `{words[0]!r}` not found.")
        before = _sys.argv
        _sys.argv = words
        try:
            made = runpy.run_path(words[0], run_name="__main__")
        finally:
            _sys.argv = before
            _sys.modules["__main__"] = self._kernel.module
        self.user_ns.update((name, value) for name, value in made.items() if not name.startswith("__"))

    def _line_load_ext(self, line):
        if line.strip() in ("autoreload", "storemagic"):
            return
        module = _importlib.import_module(line.strip())
        module.load_ipython_extension(self._ipython() or self)

    def _line_reload_ext(self, line):
        self._line_load_ext(line)

    def _line_unload_ext(self, line):
        pass

    def _line_autoreload(self, line):
        pass

    def _line_config(self, line):
        """Only the format of figures can be set."""
        found = _re.match(r"InlineBackend\.figure_formats?\s*=\s*(.+)$", line.strip())
        if found:
            import ast

            with _contextlib.suppress(ValueError, SyntaxError):
                formats = ast.literal_eval(found[1])
                set_figure_formats(*([formats] if isinstance(formats, str) else formats))

    def _line_colors(self, line):
        pass

    def _line_xmode(self, line):
        mode = (line.strip() or "Context").capitalize()
        self._plain_errors = mode == "Plain"
        print(f"Exception reporting mode: {mode}")

    def _line_precision(self, line):
        line = line.strip()
        if line and not line.isdecimal() and "%" not in line:
            raise UsageError("%precision takes a number of digits, or a format such as %.3f")
        form = f"%.{line}f" if line.isdecimal() else line
        self.display_formatter.float_format = form
        return form or "%r"

    def _line_history(self, line):
        words = line.split()
        cells = self.user_ns.get("In", [])[1:-1]
        for word in words:
            if word.isdecimal():
                cells = cells[int(word) - 1:int(word)]
        for number, cell in enumerate(cells, 1):
            print(f"{number:>4}: {cell}" if "-n" in words else cell)

    _line_hist = _line_history

    def _line_alias(self, line):
        name, _, command = line.strip().partition(" ")
        if not name.isidentifier() or not command:
            raise UsageError("%alias takes a name and a command")
        self._lines[name] = lambda rest: self.system(f"{command} {rest}")

    def _line_sx(self, line):
        return self.getoutput(line)

    _line_system = _line_sx

    def _line_psource(self, line):
        self._explained(line, source=True)

    _line_pdoc = _line_pdef = _line_pfile = lambda self, line: self._explained(line, source=False)

    def _line_prun(self, line):
        import cProfile

        profile = cProfile.Profile()
        quiet = line.startswith("-q ")
        profile.runctx(line[3:].lstrip() if quiet else line, self.user_ns, self.user_ns)
        if not quiet:
            profile.print_stats("tottime")

    def _names(self, line=""):
        hidden, kinds = self._kernel.own, line.split()
        shown = (name for name in self.user_ns if not name.startswith("_") and name not in hidden)
        return sorted(name for name in shown if not kinds or type(self.user_ns[name]).__name__ in kinds)

    def _line_tb(self, line):
        if self._kernel.failed is not None:
            raise self._kernel.failed

    def _line_who(self, line):
        names = self._names(line)
        print("".join(f"{name}\t " for name in names) if names else "Interactive namespace is empty.")

    def _line_who_ls(self, line):
        return self._names(line)

    def _line_whos(self, line):
        names = self._names()
        if not names:
            print("Interactive namespace is empty.")
            return
        kinds = {name: type(self.user_ns[name]).__name__ for name in names}
        wide = max(8, *map(len, names)) + 3, max(4, *map(len, kinds.values())) + 4
        print(f"{'Variable':<{wide[0]}}{'Type':<{wide[1]}}Data/Info")
        print("-" * (sum(wide) + 9))
        for name in names:
            print(f"{name:<{wide[0]}}{kinds[name]:<{wide[1]}}{str(_text(self.user_ns[name]))[:60]}".rstrip())

    def _line_reset(self, line):
        for name in self._names():
            del self.user_ns[name]

    def _line_pinfo(self, line):
        self._explained(line, source=False)

    def _line_pinfo2(self, line):
        self._explained(line, source=True)

    def _line_ls(self, line):
        _child("ls -F " + line)

    def _line_lsmagic(self, line):
        print("Available line magics:\n" + "  ".join(f"%{name}" for name in sorted(self._lines)))
        print("\nAvailable cell magics:\n" + "  ".join(f"%%{name}" for name in sorted(self._cells)))

    def _aliased(name):
        def alias(self, line):
            _child(name + " " + line)
        return alias

    for _name in ("cat", "cp", "mkdir", "mv", "rm", "rmdir", "head", "tail", "less", "more", "man"):
        locals()["_line_" + _name] = _aliased("cat" if _name in ("less", "more") else _name)
    del _name, _aliased

    # Cell magics.

    def _cell_time(self, line, cell):
        return self._timed(f"{line}\n{cell}" if line else cell)

    def _cell_timeit(self, line, cell):
        return self._measured(cell, line)

    def _cell_writefile(self, line, cell):
        words = _shlex.split(self.var_expand(line))
        append = bool({"-a", "--append"} & set(words))
        names = [word for word in words if not word.startswith("-")]
        if len(names) != 1:
            raise UsageError("%%writefile needs the name of a file")
        path = _os.path.expanduser(names[0])
        print("Appending to" if append else ("Overwriting" if _os.path.exists(path) else "Writing"), path)
        with open(path, "a" if append else "w", encoding="utf-8") as file:
            file.write(cell)

    _cell_file = _cell_writefile

    def _script(self, line, cell, program=()):
        words, kept, fails = _shlex.split(line), {}, True
        while words and words[0].startswith("--"):
            option = words.pop(0)
            if option in ("--out", "--err", "--proc") and words:
                kept[option] = words.pop(0)
            elif option == "--no-raise-error":
                fails = False
        program = [*program, *words]
        if "--out" in kept or "--err" in kept:
            made = _subprocess.run(program, input=cell.encode(), stdout=_subprocess.PIPE if "--out" in kept else None,
                                   stderr=_subprocess.PIPE if "--err" in kept else None, check=False)
            for option, data in (("--out", made.stdout), ("--err", made.stderr)):
                if option in kept:
                    self.user_ns[kept[option]] = data.decode("utf-8", "replace")
            status = made.returncode
        else:
            status = _child(cell, program)
        if status and fails:
            raise _subprocess.CalledProcessError(status, program, cell)

    def _cell_bash(self, line, cell):
        self._script(line, cell, ["bash"])

    def _cell_sh(self, line, cell):
        self._script(line, cell, ["/bin/sh"])

    def _cell_script(self, line, cell):
        self._script(line, cell)

    def _cell_system(self, line, cell):
        return self.getoutput(cell)

    _cell_sx = _cell_system

    def _cell_perl(self, line, cell):
        self._script(line, cell, ["perl"])

    def _cell_ruby(self, line, cell):
        self._script(line, cell, ["ruby"])

    def _cell_python3(self, line, cell):
        self._script(line, cell, [_sys.executable, "-"])

    _cell_python = _cell_pypy = _cell_python3

    def _cell_capture(self, line, cell):
        import io

        words = line.split()
        names = [word for word in words if not word.startswith("-")]
        out, err, shown = io.StringIO(), io.StringIO(), []
        with _contextlib.ExitStack() as stack:
            if "--no-stdout" not in words:
                stack.enter_context(_contextlib.redirect_stdout(out))
            if "--no-stderr" not in words:
                stack.enter_context(_contextlib.redirect_stderr(err))
            if "--no-display" not in words:
                stack.enter_context(self._kernel.captured(shown))
            value = self._kernel.run_nested(cell)
            if value is not None:
                self._kernel.show(value, main=True)
            self._kernel.display_figures()
        if names:
            self.user_ns[names[0]] = CapturedIO(out.getvalue(), err.getvalue(), shown, self._kernel)

    def _cell_html(self, line, cell):
        self._kernel.result({"text": "<IPython.core.display.HTML object>", "html": cell}, main=False)

    _cell_HTML = _cell_html

    def _cell_markdown(self, line, cell):
        self._kernel.result({"text": "<IPython.core.display.Markdown object>", "markdown": cell}, main=False)

    def _cell_latex(self, line, cell):
        self._kernel.result({"text": "<IPython.core.display.Latex object>", "latex": cell}, main=False)

    def _cell_svg(self, line, cell):
        self._kernel.result({"text": "<IPython.core.display.SVG object>", "svg": cell}, main=False)

    _cell_SVG = _cell_svg

    def _cell_javascript(self, line, cell):
        self._kernel.result({"text": "<IPython.core.display.Javascript object>", "javascript": cell}, main=False)

    _cell_js = _cell_javascript

    # What several have in common.

    def _timed(self, code):
        import resource

        compiled = self._kernel.compiled_nested(code)
        before = resource.getrusage(resource.RUSAGE_SELF)
        since = _time.perf_counter()
        value = self._kernel.run_compiled(compiled)
        wall = _time.perf_counter() - since
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        print(f"CPU times: user {_span(user)}, sys: {_span(system)}, total: {_span(user + system)}")
        print(f"Wall time: {_span(wall)}")
        return value

    def _measured(self, code, setup):
        import timeit

        words, loops, repeat, quiet, wanted = _TIMING.match(code)[0].split(), 0, 7, False, False
        code = code[_TIMING.match(code).end():]
        if setup:
            # The options of a cell stand on its first line.
            words, setup = _TIMING.match(setup)[0].split(), setup[_TIMING.match(setup).end():]
        for flag, number in zip(words, [*words[1:], ""]):
            quiet, wanted = quiet or flag == "-q", wanted or flag == "-o"
            if flag[:2] in ("-n", "-r"):
                amount = int(flag[2:] or number)
                loops, repeat = (amount, repeat) if flag[1] == "n" else (loops, amount)
        timer = timeit.Timer(code, setup.strip() or "pass", globals=self.user_ns)
        if not loops:
            loops, _ = timer.autorange()
        result = TimeitResult(loops, repeat, timer.repeat(repeat, loops))
        if not quiet:
            print(result)
        return result if wanted else None

    def _explained(self, name, source):
        name = name.strip()
        if name.startswith("%"):
            magic = (self._cells if name.startswith("%%") else self._lines).get(name.lstrip("%"))
            print(_inspect.getdoc(magic) or "No documentation." if magic else f"Object `{name}` not found.")
            return
        if "*" in name:
            pattern = _re.compile(_re.escape(name).replace(r"\*", ".*") + "$")
            print("\n".join(sorted(known for known in {**vars(_builtins), **self.user_ns} if pattern.match(known))))
            return
        try:
            value = eval(name, {**vars(_builtins), **self.user_ns})
        except Exception:
            print(f"Object `{name}` not found.")
            return
        try:
            print(f"Signature: {name}{_inspect.signature(value)}")
        except (TypeError, ValueError):
            print(f"Type:      {type(value).__name__}")
            print(f"String form: {_text(value)[:500]}")
        if source:
            with _contextlib.suppress(OSError, TypeError):
                print(f"Source:\n{_inspect.getsource(value)}")
                return
        print(f"Docstring: {_inspect.getdoc(value) or '<no docstring>'}")


class RichOutput:
    """A result that was kept: its formats."""

    __module__ = "IPython.utils.capture"

    def __init__(self, formats, kernel):
        self.data, self._kernel = formats, kernel

    def display(self):
        self._kernel.result(self.data, main=False)


class CapturedIO:
    """What a cell printed and showed under `%%capture`."""

    __module__ = "IPython.utils.capture"

    def __init__(self, stdout, stderr, shown, kernel):
        self.stdout, self.stderr = stdout, stderr
        self.outputs = [RichOutput(formats, kernel) for formats in shown]

    def __str__(self):
        return self.stdout

    def show(self):
        _sys.stdout.write(self.stdout)
        _sys.stderr.write(self.stderr)
        for output in self.outputs:
            output.display()

    __call__ = show


class TimeitResult:
    """What `%timeit -o` gives."""

    __module__ = "IPython.core.magics.execution"

    def __init__(self, loops, repeat, timings):
        self.loops, self.repeat = loops, repeat
        self.timings = self.all_runs = [total / loops for total in timings]
        self.best, self.worst = min(self.timings), max(self.timings)
        self.average = sum(self.timings) / len(self.timings)
        self.stdev = (sum((one - self.average) ** 2 for one in self.timings) / len(self.timings)) ** 0.5

    def __str__(self):
        runs, loops = "run" if self.repeat == 1 else "runs", "loop" if self.loops == 1 else "loops"
        return (f"{_span(self.average)} ± {_span(self.stdev)} per loop (mean ± std. dev. of {self.repeat} {runs}, "
                f"{self.loops:,} {loops} each)")

    __repr__ = lambda self: f"<TimeitResult : {self}>"


# Options before the statement that is measured.
_TIMING = _re.compile(r"\s*(?:-(?:[nr]\s*\d+|[qopct])\s+|-(?:[nr]\s*\d+|[qopct])$)*")


def _span(seconds):
    if seconds >= 60:
        minutes, rest = divmod(seconds, 60)
        return f"{int(minutes)}min {rest:.0f}s" if rest >= 1 else f"{int(minutes)}min"
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        if seconds * scale >= 1 or unit == "ns":
            return f"{seconds * scale:.3g} {unit}"


def _installed(name):
    """Whether a module of this name is there beside what the driver itself offers."""
    if name in _sys.modules and not isinstance(getattr(_sys.modules[name], "__loader__", None), _Inline):
        return True
    finders = [finder for finder in _sys.meta_path if not isinstance(finder, (_Inline, _Around))]
    return any(finder.find_spec(name, None, None) for finder in finders if hasattr(finder, "find_spec"))


def _shell(command):
    return ["bash" if _os.path.exists("/bin/bash") else "/bin/sh", "-c", command]


def _child(command, program=None):
    """Runs a command whose output is the cell's; an interrupt ends it, too, and then the cell. `command` is its input where a
    program is named."""
    _sys.stdout.flush()
    argv = _shell(command) if program is None else program
    child = _subprocess.Popen(argv, stdin=_subprocess.PIPE if program else _subprocess.DEVNULL, start_new_session=True)
    try:
        if program:
            with _contextlib.suppress(BrokenPipeError):
                child.stdin.write(command.encode())
                child.stdin.close()
        return child.wait()
    except BaseException:
        with _contextlib.suppress(OSError):
            _os.killpg(child.pid, _signal.SIGKILL)
        child.wait()
        raise
