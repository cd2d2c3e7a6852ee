"""What a task is: its targets, how a hypothesis is read, the metric that decides. One file per task.

    task = get_task("intent")
    task.examples(DataDir.read("data/intent/test"))
"""
from speechmerge.registry import Registry

TASKS = Registry("task", "speechmerge.tasks")


def get_task(name: str):
    """An instance of the task registered under `name`; UsageError naming the nearest one otherwise."""
    return TASKS.get(name)()
