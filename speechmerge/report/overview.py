"""What the page begins with: the sections that it has, and each task with its best system of every kind."""
from speechmerge.report.listing import Listing, Shown
from speechmerge.report.tables import Results, TaskInfo

ORACLE = "oracle"  # a routing strategy that is told the truth: what routing could reach, no system to use


def overview(results: Results, reading: str = "generation") -> Listing:
    """One row per task, by free generation where that was scored."""
    head = ["set", "task", "metric", "utterances", "base", "own adapter"]
    kinds = [kind for kind in ("merged", "routed") if results.of_kind(kind)]
    names = {"merged": ["best merge", "which"], "routed": ["best router", "which one"]}
    rows = [[task.name, task.task, task.label, task.n, base_cell(results, reading, task), own_cell(results, reading, task),
             *(cell for kind in kinds for cell in best_cells(results, reading, task, kind))] for task in results.tasks]
    return Listing("overview", "Tasks", [*head, *(name for kind in kinds for name in names[kind])], rows)


def base_cell(results: Results, reading: str, task: TaskInfo) -> Shown | None:
    cells = (results.cell(reading, system.name, task.name) for system in results.of_kind("base"))
    return next((Shown(cell.value, cell.text) for cell in cells if cell), None)


def own_cell(results: Results, reading: str, task: TaskInfo) -> Shown | None:
    adapter = results.adapter_of(task.name)
    cell = adapter and results.cell(reading, adapter.name, task.name)
    return Shown(cell.value, cell.text) if cell else None


def best_cells(results: Results, reading: str, task: TaskInfo, kind: str) -> list:
    """[value, label] of the best system of this kind on this task; routers that are told the truth do not count."""
    cells = [(results.cell(reading, system.name, task.name), system) for system in results.of_kind(kind)
             if system.method != ORACLE]
    found = [(cell, system) for cell, system in cells if cell]
    if not found:
        return [None, None]
    cell, system = max(found, key=lambda pair: task.sign * pair[0].value)
    return [Shown(cell.value, cell.text), system.label]


def navigation(contents, shown: dict) -> list[tuple[str, str]]:
    """(id, title) of the sections that the page has. `shown`: what page.described() computed."""
    parts = [("findings", "Overview", True), ("generation", "Heat map", "generation" in shown["summaries"]),
             ("labels", "By labels", "labels" in shown["summaries"]), ("kept", "What is kept", True),
             ("coefficients", "Coefficients", shown["coefficients"] or contents.sweeps), ("tasks", "Tasks", True),
             ("errors", "Word errors", len(shown["breakdown"]) > 1), ("cross", "Cross-task", "cross_task" in shown["plots"]),
             ("routing", "Routing", contents.routers or contents.shares), ("analyses", "Analyses", contents.studies),
             ("examples", "Examples", True), ("costs", "Costs", contents.costs), ("commands", "Commands", True)]
    return [(name, title) for name, title, there in parts if there]
