"""Show the plan that a config composes, before any sampling: ``python -m mar_accel.plan sampler=gtr``."""

from __future__ import annotations

from mar_accel.config.settings import Settings
from mar_accel.runs.entry import command


@command("plan")
def main(settings: Settings) -> None:
    from mar_accel.analysis.plan_report import show_plan

    show_plan(settings)


if __name__ == "__main__":
    main()
