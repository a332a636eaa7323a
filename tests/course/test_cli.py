"""The command lines as people meet them: in a process, with exit codes, without tracebacks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import pytest

from common.cli import run_step
from common.demo import DemoConfig
from common.errors import CourseError, MissingArtifact
from course import bench, run, scoreboard, serve
from course.__main__ import main as course_main
from course.service.shop import CHAPTERS


@dataclass(frozen=True)
class TrainConfig:
    """Train nothing."""

    learning_rate: float = 1e-3
    """Step size."""
    names: tuple[str, ...] = ()


def course(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "course", *arguments], capture_output=True, text=True, timeout=120)


def test_a_step_has_flat_flags(capsys):
    """What --learning-rate and not --config.learning-rate means, seen from main."""
    seen = []

    def main(config: TrainConfig) -> str:
        """Train a tower."""
        seen.append(config)
        return "a result is no exit code"

    run_step(main, ["--learning-rate", "2e-5", "--names", "a", "b"])
    run_step(main, [])
    assert seen == [TrainConfig(2e-5, ("a", "b")), TrainConfig()]
    with pytest.raises(SystemExit) as stopped:
        run_step(main, ["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "--learning-rate" in out and "Step size." in out and "Train a tower." in out
    with pytest.raises(SystemExit) as stopped:
        run_step(main, ["--learning-rte", "1"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (CourseError("my.csv: column 'title' is missing"), 2, "error: my.csv: column 'title' is missing\n"),
        (MissingArtifact("no index yet"), 2, "error: no index yet\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_for_people_have_no_traceback(capsys, error, code, message):
    def main(config: TrainConfig) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_step(main, [])
    assert stopped.value.code == code
    assert capsys.readouterr() == ("", message)


def test_bugs_keep_their_traceback():
    def main(config: TrainConfig) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_step(main, [])


def test_course_in_a_process(artifacts_root):
    empty = course(["scoreboard", "--json"])
    assert (empty.returncode, empty.stdout) == (1, "[]\n") and "python -m course run" in empty.stderr
    unknown = course(["bench", "nothing"])
    assert unknown.returncode == 2
    assert unknown.stderr == f"error: bench: no benchmark 'nothing'; there are: {', '.join(bench.BENCHMARKS)}\n"


@pytest.mark.parametrize("arguments", [[], ["run"], ["scoreboard"], ["bench"], ["serve"]])
def test_help_explains_every_flag(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        run_step(course_main, [*arguments, "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert out.startswith(" ".join(["usage: python -m course", *arguments]))
    fields = {"run": run.Run, "scoreboard": scoreboard.Scoreboard, "bench": bench.Bench, "serve": serve.Serve}.get(
        *arguments or [None]
    )
    for field in dataclasses.fields(fields) if fields else ():
        flag = {"settings": "--set", "names": "NAME"}.get(field.name, "--" + field.name.replace("_", "-"))
        assert flag in out
    assert "None" not in out, "a reader does not know what None means"


@pytest.mark.parametrize("arguments", [["run", "--chapters", "x"], ["serve", "--port", "x"], ["run", "--nonsense"]])
def test_unusable_flags_stop_without_a_traceback(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        run_step(course_main, arguments)
    assert stopped.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_bench_prints_rows_and_only_rows(monkeypatch, capsys):
    def measured():
        print("warming up")
        return [dict(zip(bench.FIELDS, ("a", "x", "y", "docs/s", 30.0, 10.0, 3.0), strict=True), cosine=0.99951)]

    module = type(sys)("measured_module")
    module.main = measured
    monkeypatch.setitem(sys.modules, "measured_module", module)
    monkeypatch.setattr(bench, "BENCHMARKS", {"a": "measured_module:main", "never": "absent:main"})
    bench.main(bench.Bench(names=("a",), json=True))
    captured = capsys.readouterr()
    [row] = json.loads(captured.out)
    assert tuple(row) == (*bench.FIELDS, "cosine") and captured.err == "warming up\n"
    bench.main(bench.Bench(names=("a",)))
    out = capsys.readouterr().out
    assert "3.00x" in out and "cosine 0.9995" in out
    with pytest.raises(CourseError, match="no benchmark 'b'; there are: a, never"):
        bench.main(bench.Bench(names=("a", "b")))


@pytest.mark.parametrize("target", bench.BENCHMARKS.values())
def test_every_benchmark_is_there(target):
    assert importlib.util.find_spec(target.partition(":")[0]) is not None


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapters_demo_searches_with_its_systems(chapter, monkeypatch):
    demo, systems = (import_module(f"{chapter}.{name}") for name in ("demo", "systems"))
    served = []
    monkeypatch.setattr(demo, "serve", lambda *given: served.append(given))
    run_step(demo.main, ["a red rug", "--k", "3", "--share"])
    assert served == [(systems.systems, DemoConfig("a red rug", k=3, share=True))]
