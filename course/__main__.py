"""Dispatch the course's commands: ``python -m course doctor | run | scoreboard | results | bench | serve``."""

from __future__ import annotations

from typing import Annotated

import tyro

from common.cli import run_step
from course import bench, doctor, results, run, scoreboard, serve

Command = (
    Annotated[doctor.Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[run.Run, tyro.conf.subcommand("run")]
    | Annotated[scoreboard.Scoreboard, tyro.conf.subcommand("scoreboard")]
    | Annotated[results.Results, tyro.conf.subcommand("results")]
    | Annotated[bench.Bench, tyro.conf.subcommand("bench")]
    | Annotated[serve.Serve, tyro.conf.subcommand("serve")]
)


def main(command: Command) -> None:
    """Run the course on product search: its notebooks, scoreboard, results, benchmarks and service."""
    match command:
        case doctor.Doctor():
            doctor.main(command)
        case run.Run():
            run.main(command)
        case scoreboard.Scoreboard():
            scoreboard.main(command)
        case results.Results():
            results.main(command)
        case bench.Bench():
            bench.main(command)
        case serve.Serve():
            serve.main(command)


if __name__ == "__main__":
    run_step(main)
